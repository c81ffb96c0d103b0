//! Running a task's code against what it recorded.

use axum::{extract::State, http::StatusCode};

use crate::http::{
    body::NoBody,
    path::Id,
    problem::ProblemView,
    reply::{Reply, json},
    state::AppState,
    views::{CassetteView, ReplayView},
};

/// Replay a task
///
/// Runs the code that is here now against the recorded outcomes and reports the first place where it does something else. No model and no tool is asked,
/// nothing is stored, and the task stays as it is.
#[utoipa::path(
    post, path = "/api/v1/tasks/{id}/replay", tag = "tasks", operation_id = "replay_task",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 200, description = "What was found", body = ReplayView),
        (status = 404, description = "No such task, or its agent is not registered here", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(in crate::http) async fn replay(State(state): State<AppState>, Id(id): Id, _: NoBody) -> Reply {
    json(StatusCode::OK, &state.orchestrator().replay(id).await?, 1_024)
}

/// Record a task as a file
///
/// The task's input, journal and end in one document, a cassette, which a test can run the code against.
#[utoipa::path(
    get, path = "/api/v1/tasks/{id}/cassette", tag = "tasks", operation_id = "record_task",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 200, description = "The cassette", body = CassetteView),
        (status = 404, description = "No such task", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(in crate::http) async fn cassette(State(state): State<AppState>, Id(id): Id) -> Reply {
    json(StatusCode::OK, &state.orchestrator().record(id).await?, 4_096)
}
