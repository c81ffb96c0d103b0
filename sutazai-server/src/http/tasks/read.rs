//! Reading tasks.

use axum::{extract::State, http::StatusCode};
use sutazai_core::store::TaskQuery;

use crate::http::{
    cursor,
    path::Id,
    problem::{ProblemView, is_ending},
    query::{Query, TasksQuery, WaitQuery},
    reply::{Reply, json},
    state::AppState,
    views::{TaskList, TaskView},
};

/// Read a task
///
/// With `wait`, answers at the end of the task or of that time, whichever comes first.
#[utoipa::path(
    get, path = "/api/v1/tasks/{id}", tag = "tasks", operation_id = "get_task",
    params(("id" = String, Path, description = "The task's id"), WaitQuery),
    responses(
        (status = 200, description = "The task as it is now", body = TaskView<'static>),
        (status = 404, description = "No such task", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 422, description = "`wait` is no duration", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(in crate::http) async fn get(State(state): State<AppState>, Id(id): Id, Query(query): Query<WaitQuery>) -> Reply {
    let engine = state.orchestrator();
    let task = match query.wait {
        None => engine.task(id).await?,
        Some(wait) => {
            let before = engine.task(id).await?;
            let now = tokio::select! {
                ended = engine.wait(id, wait.0) => ended,
                () = state.closing().cancelled() => engine.task(id).await,
            };
            // Whoever waits while the server ends learns what was last known.
            now.or_else(|error| if is_ending(&error) { Ok(before) } else { Err(error) })?
        }
    };
    json(StatusCode::OK, &TaskView::from(&*task), TaskView::size(&task))
}

/// List tasks
///
/// Newest first, a page at a time.
#[utoipa::path(
    get, path = "/api/v1/tasks", tag = "tasks", operation_id = "list_tasks",
    params(TasksQuery),
    responses(
        (status = 200, description = "A page", body = TaskList<'static>),
        (status = 422, description = "A parameter is wrong", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(in crate::http) async fn list(State(state): State<AppState>, Query(query): Query<TasksQuery>) -> Reply {
    let before = query.cursor.as_deref().map(cursor::task).transpose()?;
    let page = state
        .orchestrator()
        .tasks(TaskQuery {
            state: query.state,
            agent: query.agent,
            tenant: query.tenant,
            label: query.label.map(|label| (label.0, label.1)),
            before,
            limit: query.limit.0,
            ..TaskQuery::default()
        })
        .await?;
    let next_cursor = page.items.last().filter(|_| page.more).map(|task| cursor::of_task(task.id));
    let size = page.items.iter().map(TaskView::size).sum();
    json(StatusCode::OK, &TaskList { items: page.items.iter().map(TaskView::from).collect(), next_cursor }, size)
}
