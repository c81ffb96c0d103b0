//! Dead letters of webhooks: tasks whose events are posted no more, until somebody decides what becomes of them.

use axum::{extract::State, http::StatusCode};
use sutazai_core::{
    Payload,
    clock::{Clock, SystemClock},
    task::TaskId,
};

use super::{
    body::NoBody,
    cursor,
    once::{Kept, once},
    path::Id,
    problem::{Problem, ProblemView},
    query::{PageQuery, Query},
    reply::{Reply, json},
    state::AppState,
    tasks::IdempotencyKey,
    views::{TaskView, WebhookLetter, WebhookLetterList},
};

/// Room that one takes.
const SIZE: usize = 512;

/// List dead letters of webhooks
///
/// Tasks whose webhook was given up, newest task first. Nothing more of them is posted until they are requeued or discarded; the tasks themselves go on.
#[utoipa::path(
    get, path = "/api/v1/webhooks/dead-letters", tag = "webhooks", operation_id = "list_webhook_dead_letters",
    params(PageQuery),
    responses(
        (status = 200, description = "A page", body = WebhookLetterList),
        (status = 422, description = "A parameter is wrong", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(State(state): State<AppState>, Query(query): Query<PageQuery>) -> Reply {
    let before = query.cursor.as_deref().map(cursor::task).transpose()?;
    let page = state.orchestrator().task_store().undelivered(before, query.limit.0).await?;
    let next_cursor = page.items.last().filter(|_| page.more).map(|last| cursor::of_task(last.task));
    let items: Vec<_> = page.items.into_iter().map(WebhookLetter::from).collect();
    let size = items.len() * SIZE;
    json(StatusCode::OK, &WebhookLetterList { items, next_cursor }, size)
}

/// Requeue a dead letter of a webhook
///
/// The task's events are posted again, in order, from the one at which they were given up. Whoever requeues the task itself has the same done.
#[utoipa::path(
    post, path = "/api/v1/webhooks/dead-letters/{id}/requeue", tag = "webhooks", operation_id = "requeue_webhook_dead_letter",
    params(
        ("id" = String, Path, description = "The task's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one change"),
    ),
    responses(
        (status = 202, description = "The task whose events are posted again", body = TaskView<'static>),
        (status = 404, description = "No such task", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 409, description = "The task's webhook was not given up", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn requeue(State(state): State<AppState>, Id(id): Id, key: IdempotencyKey, _: NoBody) -> Reply {
    let key = key.of_task(&state, id, "POST webhook requeue", &Payload::null()).await?;
    let work = async {
        let task = state.orchestrator().task(id).await?;
        revive(&state, id, false).await?;
        Ok::<_, Problem>(Kept::new(StatusCode::ACCEPTED, &TaskView::from(&*task))?)
    };
    once(&state, key, work).await
}

/// Discard a dead letter of a webhook
///
/// What has not been posted so far never is. Events that come later are posted again.
#[utoipa::path(
    delete, path = "/api/v1/webhooks/dead-letters/{id}", tag = "webhooks", operation_id = "discard_webhook_dead_letter",
    params(
        ("id" = String, Path, description = "The task's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one change"),
    ),
    responses(
        (status = 204, description = "It is discarded"),
        (status = 404, description = "No such task", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 409, description = "The task's webhook was not given up", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn discard(State(state): State<AppState>, Id(id): Id, key: IdempotencyKey, _: NoBody) -> Reply {
    let key = key.of_task(&state, id, "DELETE webhook dead letter", &Payload::null()).await?;
    let work = async {
        state.orchestrator().task(id).await?;
        revive(&state, id, true).await?;
        Ok::<_, Problem>(Kept::nothing())
    };
    once(&state, key, work).await
}

async fn revive(state: &AppState, id: TaskId, skip: bool) -> Result<(), Problem> {
    if !state.orchestrator().task_store().revive(id, skip, SystemClock.now()).await? {
        let detail = format!("the webhook of task {id} was not given up, or was requeued or discarded already");
        return Err(Problem::new(StatusCode::CONFLICT, "not_a_webhook_dead_letter", detail));
    }
    state.metrics().webhook_dead_letter(if skip { "discarded" } else { "requeued" });
    Ok(())
}
