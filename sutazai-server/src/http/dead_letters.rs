//! Dead letters: tasks that failed for good, until somebody decides what becomes of them.

use axum::{extract::State, http::StatusCode};
use futures_util::{StreamExt, TryStreamExt, stream};
use sutazai_core::{
    Payload,
    engine::Requeue,
    store::TaskQuery,
    task::{DEFAULT_TENANT, TaskId},
};

use super::{
    body::{JsonBody, NoBody, OptionalBody},
    cursor,
    once::{Kept, once},
    path::Id,
    problem::{Problem, ProblemView},
    query::{DeadLettersQuery, Query},
    reply::{Reply, json, no_content},
    state::AppState,
    strict::{Object, check_readable},
    tasks::{IdempotencyKey, changed, mark},
    views::{Attempt, Attempts, DeadLetterList, DeadLetterView, RequeueMany, RequeueTask, Requeued, TaskView},
};

/// Events read at once.
const PAGE: usize = 1_000;

/// Histories read side by side for one page.
const READERS: usize = 8;

/// List dead letters
///
/// Tasks that failed and were neither requeued nor discarded, newest first, each with the error of every attempt.
#[utoipa::path(
    get, path = "/api/v1/dead-letters", tag = "dead letters", operation_id = "list_dead_letters",
    params(DeadLettersQuery),
    responses(
        (status = 200, description = "A page", body = DeadLetterList<'static>),
        (status = 422, description = "A parameter is wrong", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(State(state): State<AppState>, Query(query): Query<DeadLettersQuery>) -> Reply {
    let before = query.cursor.as_deref().map(cursor::task).transpose()?;
    let query = TaskQuery {
        agent: query.agent,
        tenant: query.tenant,
        label: query.label.map(|label| (label.0, label.1)),
        dead_letters: true,
        before,
        limit: query.limit.0,
        ..TaskQuery::default()
    };
    let page = state.orchestrator().tasks(query).await?;
    let reading: Vec<_> = page.items.iter().map(|task| attempts(&state, task.id)).collect();
    let histories = stream::iter(reading).buffered(READERS);
    let histories: Vec<Vec<Attempt>> = histories.try_collect().await?;
    let next_cursor = page.items.last().filter(|_| page.more).map(|task| cursor::of_task(task.id));
    let size = page.items.iter().map(|task| TaskView::size(task) + 256).sum();
    let items = page.items.iter().zip(histories).map(|(task, attempts)| DeadLetterView::new(task, attempts)).collect();
    json(StatusCode::OK, &DeadLetterList { items, next_cursor }, size)
}

/// Show a dead letter
#[utoipa::path(
    get, path = "/api/v1/dead-letters/{id}", tag = "dead letters", operation_id = "get_dead_letter",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 200, description = "The task, with the error of every attempt", body = DeadLetterView<'static>),
        (status = 404, description = "No such task, or it is no dead letter", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(State(state): State<AppState>, Id(id): Id) -> Reply {
    let task = state.orchestrator().task(id).await?;
    if !task.is_dead_letter() {
        let detail = format!("the task {id} is {} and no dead letter", task.state);
        return Err(Problem::not_found("dead_letter_not_found", detail));
    }
    let attempts = attempts(&state, task.id).await?;
    json(StatusCode::OK, &DeadLetterView::new(&task, attempts), TaskView::size(&task) + 256)
}

/// What each attempt of a task ended in, since it was submitted, last requeued or continued as new.
async fn attempts(state: &AppState, task: TaskId) -> Result<Vec<Attempt>, Problem> {
    let store = state.orchestrator().task_store();
    let (mut attempts, mut after) = (Attempts::default(), 0);
    loop {
        let page = store.events(task, after, PAGE).await?;
        page.iter().for_each(|event| attempts.add(event));
        match page.last() {
            Some(last) if page.len() == PAGE => after = last.seq,
            _ => return Ok(attempts.into_inner()),
        }
    }
}

/// Requeue a dead letter
///
/// The task keeps its id and starts again at attempt 1. Without another input what it recorded counts, except for errors. Without another deadline one that has
/// passed is dropped. The body may be left out.
#[utoipa::path(
    post, path = "/api/v1/dead-letters/{id}/requeue", tag = "dead letters", operation_id = "requeue_dead_letter",
    params(
        ("id" = String, Path, description = "The task's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one change"),
    ),
    request_body = Option<RequeueTask>,
    responses(
        (status = 202, description = "The task, queued", body = TaskView<'static>),
        (status = 404, description = "No such task", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 409, description = "The task is no dead letter", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 422, description = "The input does not fit the agent", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn requeue(
    State(state): State<AppState>,
    Id(id): Id,
    key: IdempotencyKey,
    body: OptionalBody,
) -> Reply {
    let Object(RequeueTask { input, deadline }) = body.parse()?;
    if let Some(input) = &input {
        check_readable(input, "/input")?;
    }
    let key = key.of_task(&state, id, "POST requeue", &body.payload()?).await?;
    changed(&state.orchestrator().requeue(id, &Requeue { input, deadline }, key).await?)
}

/// Requeue many dead letters
///
/// All that fit every condition given; without any, all there are. Each starts again with the input it had.
#[utoipa::path(
    post, path = "/api/v1/dead-letters/requeue", tag = "dead letters", operation_id = "requeue_dead_letters",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one change; its scope is the tenant of the body")),
    request_body = RequeueMany,
    responses(
        (status = 202, description = "How many", body = Requeued),
        (status = 422, description = "A condition is wrong", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn requeue_many(State(state): State<AppState>, key: IdempotencyKey, body: JsonBody) -> Reply {
    let Object(RequeueMany { agent, tenant, label }) = body.parse()?;
    let scope = tenant.as_deref().unwrap_or(DEFAULT_TENANT);
    let key = key.within(scope, "POST /api/v1/dead-letters/requeue", &body.payload()?)?;
    let query = TaskQuery { agent, tenant, label: label.map(|label| (label.0, label.1)), ..TaskQuery::default() };
    let work = async {
        let requeued = state.orchestrator().requeue_all(query).await?;
        Ok::<_, Problem>(Kept::new(StatusCode::ACCEPTED, &Requeued { requeued })?)
    };
    once(&state, key, work).await
}

/// Discard a dead letter
///
/// Gives it up for good: the task stays as it is and is no dead letter any more.
#[utoipa::path(
    delete, path = "/api/v1/dead-letters/{id}", tag = "dead letters", operation_id = "discard_dead_letter",
    params(
        ("id" = String, Path, description = "The task's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one change"),
    ),
    responses(
        (status = 204, description = "It is discarded"),
        (status = 404, description = "No such task", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 409, description = "The task is no dead letter", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn discard(State(state): State<AppState>, Id(id): Id, key: IdempotencyKey, _: NoBody) -> Reply {
    let key = key.of_task(&state, id, "DELETE dead letter", &Payload::null()).await?;
    let changed = state.orchestrator().discard(id, key).await?;
    let mut response = no_content();
    mark(response.headers_mut(), changed.replayed);
    Ok(response)
}
