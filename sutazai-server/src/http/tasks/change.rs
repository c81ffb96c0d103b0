//! Changing tasks that exist: cancel, signal, fork.

use axum::{extract::State, http::StatusCode};
use sutazai_core::{
    Payload,
    engine::{Changed, Submitted},
};

use super::{IdempotencyKey, accepted, mark};
use crate::http::{
    body::{JsonBody, NoBody, OptionalBody},
    path::{Id, Named},
    problem::ProblemView,
    reply::{Reply, json},
    state::AppState,
    strict::{Object, check_readable},
    views::{ForkTask, Signalled, TaskView},
};

/// The answer to a change of a task.
pub(in crate::http) fn changed(Changed { task, replayed }: &Changed) -> Reply {
    let mut response = json(StatusCode::ACCEPTED, &TaskView::from(&**task), TaskView::size(task))?;
    mark(response.headers_mut(), *replayed);
    Ok(response)
}

/// Cancel a task
///
/// When this answers the task never completes; an agent that is at work is stopped.
#[utoipa::path(
    post, path = "/api/v1/tasks/{id}/cancel", tag = "tasks", operation_id = "cancel_task",
    params(
        ("id" = String, Path, description = "The task's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one change"),
    ),
    responses(
        (status = 202, description = "The task, cancelled", body = TaskView<'static>),
        (status = 404, description = "No such task", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 409, description = "The task has ended", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(in crate::http) async fn cancel(
    State(state): State<AppState>,
    Id(id): Id,
    key: IdempotencyKey,
    _: NoBody,
) -> Reply {
    let key = key.of_task(&state, id, "POST cancel", &Payload::null()).await?;
    changed(&state.orchestrator().cancel_keyed(id, key).await?)
}

/// Signal a task
///
/// Tells it something, which its agent receives when it waits for a signal of this name; kept if it comes before. The body is any JSON; none is `null`.
#[utoipa::path(
    post, path = "/api/v1/tasks/{id}/signals/{name}", tag = "tasks", operation_id = "signal_task",
    params(
        ("id" = String, Path, description = "The task's id"),
        ("name" = String, Path, description = "What the signal is called, 1 to 255 bytes"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one signal"),
    ),
    request_body(content = Option<serde_json::Value>, description = "What it says: any JSON of at most 1 MiB"),
    responses(
        (status = 202, description = "The signal, stored", body = Signalled<'static>),
        (status = 404, description = "No such task", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 409, description = "The task has ended", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 422, description = "The name or the payload is too long", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(in crate::http) async fn signal(
    State(state): State<AppState>,
    Id(id): Id,
    Named(name): Named,
    key: IdempotencyKey,
    body: OptionalBody,
) -> Reply {
    let payload = body.payload()?;
    let key = key.of_task(&state, id, &format!("POST signal {name:?}"), &payload).await?;
    let replayed = state.orchestrator().signal(id, &name, payload, key).await?;
    let mut response = json(StatusCode::ACCEPTED, &Signalled { task_id: id, name: &name }, 128)?;
    mark(response.headers_mut(), replayed);
    Ok(response)
}

/// Fork a task
///
/// A new task of the same agent, whose journal holds what the task recorded before entry `from`: these outcomes are taken over, and the rest runs anew.
#[utoipa::path(
    post, path = "/api/v1/tasks/{id}/fork", tag = "tasks", operation_id = "fork_task",
    params(
        ("id" = String, Path, description = "The task's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one task"),
    ),
    request_body = ForkTask,
    responses(
        (status = 202, description = "The new task, stored", body = TaskView<'static>, headers(
            ("Location" = String, description = "The address of the new task"),
        )),
        (status = 404, description = "No such task", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 422, description = "There is no such entry, or the input does not fit", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 429, description = "The queue is full; come back after `Retry-After`", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(in crate::http) async fn fork(
    State(state): State<AppState>,
    Id(id): Id,
    key: IdempotencyKey,
    body: JsonBody,
) -> Reply {
    let Object(ForkTask { from, input }) = body.parse()?;
    if let Some(input) = &input {
        check_readable(input, "/input")?;
    }
    let key = key.of_task(&state, id, "POST fork", &body.payload()?).await?;
    let Submitted { task, replayed } = state.orchestrator().fork(id, from, input, key).await?;
    let mut response = json(StatusCode::ACCEPTED, &TaskView::from(&*task), TaskView::size(&task))?;
    accepted(response.headers_mut(), &format!("/api/v1/tasks/{}", task.id), replayed);
    Ok(response)
}
