//! Sending an answer on, whole or piece by piece.

use std::convert::Infallible;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use sutazai_core::{Error, model::ChatEvent};

use super::{
    answer::{Whole, bounded, events},
    ask::Begun,
};
use crate::http::{
    dialect::Dialect,
    events::HEARTBEAT,
    problem::Problem,
    reply::{Reply, document},
    state::AppState,
};

/// How an answer is written.
pub(in crate::http) trait Wire: Send + 'static {
    /// Whose format it is.
    const DIALECT: Dialect;

    /// What comes before the first piece of a stream.
    fn begin(&self) -> Vec<String> {
        Vec::new()
    }

    /// What one piece of a stream becomes.
    fn piece(&mut self, event: ChatEvent) -> Vec<String>;

    /// A whole answer.
    fn whole(self, answer: Whole) -> Reply;
}

/// Sends an answer, whole or as it comes. Whoever goes away before its end drops it, which ends the generation; so does who does not read it for too long.
pub(in crate::http) async fn reply<W: Wire>(
    state: &AppState,
    begun: Begun,
    mut wire: W,
    streamed: bool,
    request_id: &str,
) -> Reply {
    let Begun { stream, headers } = begun;
    let closing = state.closing().clone();
    let mut response = if streamed {
        let first = wire.begin();
        let id = request_id.to_owned();
        let events = bounded(events(stream, closing), state.options().model_silence);
        let pieces = events.map(move |event| match event {
            Ok(event) => wire.piece(event),
            Err(error) => vec![broken(W::DIALECT, error, &id)],
        });
        let pieces = stream::iter(first).chain(pieces.flat_map(stream::iter));
        if W::DIALECT == Dialect::OpenAi { sse(pieces) } else { lines(pieces) }
    } else {
        match Whole::of(stream, closing).await {
            Ok(answer) => wire.whole(answer)?,
            // With the headers: they name the task of an agent.
            Err(error) => Problem::from(error).into_response(),
        }
    };
    response.headers_mut().extend(headers);
    Ok(response)
}

/// An error amid a stream, whose status has been sent: it is told as the last piece.
fn broken(dialect: Dialect, error: Error, request_id: &str) -> String {
    let problem = Problem::from(error);
    if let Some(report) = problem.report() {
        tracing::error!(request_id, code = problem.code(), report, "an answer broke off");
    }
    dialect.text(&problem, request_id)
}

/// `value` as one line of JSON.
pub(in crate::http) fn line<T: Serialize>(value: &T) -> String {
    // What is written here is made of strings and numbers, which JSON can hold.
    serde_json::to_string(value).unwrap_or_default()
}

/// Server-sent events, with a comment now and then while nothing comes.
fn sse(data: impl Stream<Item = String> + Send + 'static) -> Response {
    let events = data.map(|data| Ok::<_, Infallible>(Event::default().data(data)));
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Lines of JSON. While nothing comes there is a blank now and then, which readers of JSON skip: lines have no comments.
fn lines(lines: impl Stream<Item = String> + Send + 'static) -> Response {
    let pieces = stream::unfold(Box::pin(lines), |mut lines| async move {
        let piece = match tokio::time::timeout(HEARTBEAT, lines.next()).await {
            Ok(line) => line? + "\n",
            Err(_) => " ".to_owned(),
        };
        Some((Ok::<_, Infallible>(piece), lines))
    });
    document(StatusCode::OK, "application/x-ndjson", Body::from_stream(pieces))
}
