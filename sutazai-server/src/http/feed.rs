//! The events of all tasks in one order, in pages or as a stream.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::sse::Event as Sent,
};
use futures_util::stream;
use sutazai_core::{Orchestrator, Payload, Result, task::NumberedEvent};

use super::{
    events::{last_event_id, serve},
    problem::ProblemView,
    query::{FeedQuery, MAX_NUMBER, Query},
    reply::{Reply, json},
    state::AppState,
    views::{FeedEvent, FeedEventView, FeedList},
};

/// How long a stream that has shown everything waits before it looks again.
const PAUSE: Duration = Duration::from_millis(200);

/// Events that a stream reads at once.
const PAGE: usize = 200;

/// Follow all tasks
///
/// Every event of every task, in one order and within a second of its commit: who goes on after the last `seq` seen misses nothing. `seq` grows with gaps; `task_seq` is the
/// event's number within its task. With `Accept: text/event-stream` the answer is a stream of the same items without end, which resumes after `Last-Event-ID`.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "events", operation_id = "follow_all",
    params(FeedQuery, ("cursor" = Option<u64>, Query, description = "The same as `after`"), ("Last-Event-ID" = Option<u64>, Header, description = "Of a stream: the number of the last event seen, before `after`")),
    responses(
        (status = 200, description = "A page; `next_cursor` is null at the newest event, and `after` stays the last `seq`. Or a stream.", content(
            (FeedList<'static> = "application/json"), (FeedEventView = "text/event-stream"),
        )),
        (status = 422, description = "A parameter is wrong", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn follow(State(state): State<AppState>, Query(query): Query<FeedQuery>, headers: HeaderMap) -> Reply {
    let (after, limit) = (query.after.0, query.limit.0);
    if wants_stream(&headers) {
        let after = last_event_id(&headers)?.map_or(after, |id| id.min(MAX_NUMBER));
        return serve(&state, "all tasks", read(state.orchestrator().clone(), after));
    }
    let events = state.orchestrator().feed(after, limit).await?;
    let next_cursor = events.last().filter(|_| events.len() == limit).map(|last| last.number.to_string());
    let items: Vec<_> = events.iter().map(FeedEvent::from).collect();
    json(StatusCode::OK, &FeedList { items, next_cursor }, events.len() * 256)
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepts.flat_map(|value| value.split(',')).filter_map(|part| part.split(';').next());
    kinds.any(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// The events after number `after`, as they come.
fn read(engine: Orchestrator, after: u64) -> impl stream::Stream<Item = Result<Sent>> + Send + 'static {
    struct Reader {
        engine: Orchestrator,
        page: std::vec::IntoIter<NumberedEvent>,
        after: u64,
    }
    stream::try_unfold(Reader { engine, page: Vec::new().into_iter(), after }, |mut reader| async move {
        loop {
            if let Some(event) = reader.page.next() {
                reader.after = event.number;
                return Ok(Some((encode(&event)?, reader)));
            }
            let page = reader.engine.feed(reader.after, PAGE).await?;
            if page.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
            reader.page = page.into_iter();
        }
    })
}

fn encode(event: &NumberedEvent) -> Result<Sent> {
    let data = Payload::of(&FeedEvent::from(event))?;
    Ok(Sent::default().id(event.number.to_string()).event(event.event.kind.name()).data(data.as_str()))
}
