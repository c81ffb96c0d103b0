//! A task's events as a stream that can be resumed (server-sent events).

use std::{fmt, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{
        IntoResponse, Response,
        sse::{Event as Sent, KeepAlive, Sse},
    },
};
use futures_util::{Stream, StreamExt, future};
use sutazai_core::{
    Result,
    task::{Event, Task},
};

use super::{
    path::Id,
    problem::{Problem, ProblemView, is_ending},
    reply::Reply,
    state::AppState,
    views::EventView,
};

/// A silent stream shows so often that it lives, well within the 15 s that clients may rely on.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);

/// Follow a task
///
/// Every event of the task from the first, or after `Last-Event-ID`, then live. The stream ends after the event that ends the task, or
/// `task.discarded` after that, if it is the newest: a dead letter that was requeued is followed on.
#[utoipa::path(
    get, path = "/api/v1/tasks/{id}/events", tag = "tasks", operation_id = "follow_task",
    params(
        ("id" = String, Path, description = "The task's id"),
        ("Last-Event-ID" = Option<u64>, Header, description = "The number of the last event seen"),
    ),
    responses(
        (status = 200, description = "Server-sent events; `data` is an event", body = EventView, content_type = "text/event-stream"),
        (status = 422, description = "`Last-Event-ID` is no number", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 404, description = "No such task", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn follow(State(state): State<AppState>, Id(id): Id, headers: HeaderMap) -> Reply {
    let task = state.orchestrator().task(id).await?;
    stream(&state, &task, &headers)
}

/// The events of a task that exists.
pub(super) fn stream(state: &AppState, task: &Task, headers: &HeaderMap) -> Reply {
    // Nobody has seen what has not happened: after a number beyond the newest event the stream goes on with the next one.
    let after = last_event_id(headers)?.unwrap_or(0).min(task.revision.seq);
    let events = state.orchestrator().events(task.id, after);
    serve(state, task.id, events.map(|event| event.and_then(|event| encode(&event))))
}

/// Where a client that comes back was.
pub(super) fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(text) = headers.get("last-event-id").map(HeaderValue::as_bytes).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    let refused = || {
        let found = String::from_utf8_lossy(text);
        Problem::field("/last_event_id", format!("Last-Event-ID is {found:?}, which is not the number of an event"))
    };
    number.map(Some).ok_or_else(refused)
}

/// Sends `events` about `subject` until they or the server end. A fault ends the stream as a lost connection would: the client resumes where it was.
pub(super) fn serve(
    state: &AppState,
    subject: impl fmt::Display + Send + 'static,
    events: impl Stream<Item = Result<Sent>> + Send + 'static,
) -> Reply {
    let events = events
        .take_while(move |event| {
            if let Err(error) = event
                && !is_ending(error)
            {
                tracing::error!(%subject, error = %error.report(), "a stream of events ended early");
            }
            future::ready(event.is_ok())
        })
        .take_until(state.closing().clone().cancelled_owned());
    let mut response: Response = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn encode(event: &Event) -> Result<Sent> {
    let data = sutazai_core::Payload::of(event)?;
    Ok(Sent::default().id(event.seq.to_string()).event(event.kind.name()).data(data.as_str()))
}
