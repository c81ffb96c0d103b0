//! A task's journal: what it recorded, and what somebody has to decide.

use axum::{extract::State, http::StatusCode};

use super::{IdempotencyKey, changed};
use crate::http::{
    body::JsonBody,
    cursor,
    path::{Id, Index},
    problem::ProblemView,
    query::{PageQuery, Query},
    reply::{Reply, json},
    state::AppState,
    strict::Object,
    views::{EntryView, JournalView, ResolveEntry, TaskView},
};

/// Read a journal
///
/// What the task has recorded, in the order of recording. When its code runs again these outcomes are taken over. Only the current journal is shown: one
/// that was archived, by a requeue with another input or when the task continued as new, is not.
#[utoipa::path(
    get, path = "/api/v1/tasks/{id}/journal", tag = "tasks", operation_id = "read_journal",
    params(("id" = String, Path, description = "The task's id"), PageQuery),
    responses(
        (status = 200, description = "A page", body = JournalView<'static>),
        (status = 404, description = "No such task", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is wrong", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(in crate::http) async fn journal(
    State(state): State<AppState>,
    Id(id): Id,
    Query(query): Query<PageQuery>,
) -> Reply {
    let from = query.cursor.as_deref().map_or(Ok(0), cursor::number)?;
    let limit = query.limit.0;
    // One more than is shown tells whether there are more.
    let mut entries = state.orchestrator().journal(id, from, limit + 1).await?;
    let next_cursor = entries.get(limit).map(|next| cursor::of_number(next.index));
    entries.truncate(limit);
    let items: Vec<EntryView<'_>> = entries.iter().map(EntryView::from).collect();
    let size = items.iter().map(EntryView::size).sum();
    json(StatusCode::OK, &JournalView { items, next_cursor }, size)
}

/// Resolve an entry
///
/// Decides about a destructive effect that was cut short, so that nobody knows whether it happened; the error of the waiting task names the entry. Of a task whose
/// code no longer fits its journal (`non_determinism`) any index stands for the whole: `retry` runs the code that is there now, `fail` gives the task up.
#[utoipa::path(
    post, path = "/api/v1/tasks/{id}/journal/{index}/resolve", tag = "tasks", operation_id = "resolve_entry",
    params(
        ("id" = String, Path, description = "The task's id"),
        ("index" = u64, Path, description = "The entry's index"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one change"),
    ),
    request_body = ResolveEntry,
    responses(
        (status = 202, description = "The task, which goes on", body = TaskView<'static>),
        (status = 404, description = "No such task, or the entry is none whose outcome is unknown", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 409, description = "The task waits for no decision", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 422, description = "Not exactly one of `outcome`, `retry` and `fail`", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(in crate::http) async fn resolve(
    State(state): State<AppState>,
    Id(id): Id,
    Index(index): Index,
    key: IdempotencyKey,
    body: JsonBody,
) -> Reply {
    let resolution = body.parse::<Object<ResolveEntry>>()?.0.into_resolution()?;
    let key = key.of_task(&state, id, &format!("POST resolve {index}"), &body.payload()?).await?;
    changed(&state.orchestrator().resolve(id, index, &resolution, key).await?)
}
