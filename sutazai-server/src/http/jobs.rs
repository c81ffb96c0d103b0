//! Each agent's own service, as the users' documents define it: a face of tasks under `/agents/{name}`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use sutazai_core::{
    engine::Submitted,
    task::{Task, TaskId, TaskRequest},
};

use super::{
    body::JsonBody,
    build::BuildInfo,
    events,
    operators::{Health, Readiness, prometheus},
    path::{AgentName, Id},
    problem::{Problem, ProblemView},
    reply::{Reply, json},
    state::AppState,
    tasks::{IdempotencyKey, accepted},
    views::{EventView, JobAccepted, JobView},
};

/// Is the agent alive?
#[utoipa::path(get, path = "/agents/{name}/health", tag = "agent service", operation_id = "agent_health",
    params(("name" = String, Path, description = "The agent's name")),
    responses(
        (status = 200, description = "It is registered and the process lives", body = Health<'static>),
        (status = 404, description = "No such agent", body = ProblemView<'static>, content_type = "application/problem+json"),
    ))]
pub(super) async fn health(State(state): State<AppState>, name: AgentName) -> Reply {
    let version = &name.descriptor(&state)?.version;
    json(StatusCode::OK, &Health { status: "ok", version, uptime_s: state.uptime().as_secs() }, 128)
}

/// Is the agent ready for work?
#[utoipa::path(get, path = "/agents/{name}/ready", tag = "agent service", operation_id = "agent_ready",
    params(("name" = String, Path, description = "The agent's name")),
    responses(
        (status = 200, description = "The store answers and the agent's models are on disk", body = Readiness),
        (status = 404, description = "No such agent", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 503, description = "Something is missing", body = Readiness),
    ))]
pub(super) async fn ready(State(state): State<AppState>, name: AgentName) -> Reply {
    Readiness::of_agent(&state, name.descriptor(&state)?).await.reply()
}

/// How is the agent doing?
#[utoipa::path(get, path = "/agents/{name}/metrics", tag = "agent service", operation_id = "agent_metrics",
    params(("name" = String, Path, description = "The agent's name")),
    responses(
        (status = 200, description = "Prometheus text of this agent", body = String, content_type = "text/plain"),
        (status = 404, description = "No such agent", body = ProblemView<'static>, content_type = "application/problem+json"),
    ))]
pub(super) async fn metrics(State(state): State<AppState>, name: AgentName) -> Reply {
    prometheus(&state, Some(&name.0)).await
}

/// Which version is the agent?
#[utoipa::path(get, path = "/agents/{name}/version", tag = "agent service", operation_id = "agent_version",
    params(("name" = String, Path, description = "The agent's name")),
    responses(
        (status = 200, description = "The agent's version and this build", body = BuildInfo),
        (status = 404, description = "No such agent", body = ProblemView<'static>, content_type = "application/problem+json"),
    ))]
pub(super) async fn version(State(state): State<AppState>, name: AgentName) -> Reply {
    json(StatusCode::OK, &BuildInfo::of_agent(name.descriptor(&state)?), 256)
}

/// Give the agent a job
///
/// The body is the agent's input. The job is a durable task: it is also under `/api/v1/tasks/{id}`.
#[utoipa::path(post, path = "/agents/{name}/v1/jobs", tag = "agent service", operation_id = "submit_job",
    params(
        ("name" = String, Path, description = "The agent's name"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one job"),
    ),
    request_body(content = serde_json::Value, description = "The agent's input"),
    responses(
        (status = 202, description = "The job, stored", body = JobAccepted, headers(
            ("Location" = String, description = "The address of the job"),
        )),
        (status = 404, description = "No such agent", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 409, description = "The key was used with another body", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 422, description = "The input does not fit the agent", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 429, description = "The queue is full; come back after `Retry-After`", body = ProblemView<'static>, content_type = "application/problem+json"),
    ))]
pub(super) async fn submit(
    State(state): State<AppState>,
    name: AgentName,
    key: IdempotencyKey,
    body: JsonBody,
) -> Reply {
    let mut request = TaskRequest::new(name.0.as_str(), body.payload()?);
    request.idempotency_key = key.0;
    let outcome = state.orchestrator().submit_request(request).await;
    let Submitted { task, replayed } = outcome.map_err(|error| Problem::from(error).of_input())?;
    let mut response = json(StatusCode::ACCEPTED, &JobAccepted { job_id: task.id }, 64)?;
    accepted(response.headers_mut(), &format!("/agents/{}/v1/jobs/{}", name.0, task.id), replayed);
    Ok(response)
}

/// Read a job
#[utoipa::path(get, path = "/agents/{name}/v1/jobs/{id}", tag = "agent service", operation_id = "get_job",
    params(("name" = String, Path, description = "The agent's name"), ("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, description = "The job as it is now", body = JobView<'static>),
        (status = 404, description = "No such job of this agent", body = ProblemView<'static>, content_type = "application/problem+json"),
    ))]
pub(super) async fn get(State(state): State<AppState>, name: AgentName, id: Result<Id, Problem>) -> Reply {
    let task = job(&state, &name, id).await?;
    json(StatusCode::OK, &JobView::from(&*task), 256)
}

/// Follow a job
///
/// The events of the job's task, as under `/api/v1/tasks/{id}/events`.
#[utoipa::path(get, path = "/agents/{name}/v1/jobs/{id}/events", tag = "agent service", operation_id = "follow_job",
    params(
        ("name" = String, Path, description = "The agent's name"),
        ("id" = String, Path, description = "The job's id"),
        ("Last-Event-ID" = Option<u64>, Header, description = "The number of the last event seen"),
    ),
    responses(
        (status = 200, description = "Server-sent events; `data` is an event", body = EventView, content_type = "text/event-stream"),
        (status = 404, description = "No such job of this agent", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 422, description = "`Last-Event-ID` is no number", body = ProblemView<'static>, content_type = "application/problem+json"),
    ))]
pub(super) async fn follow(
    State(state): State<AppState>,
    name: AgentName,
    id: Result<Id, Problem>,
    headers: HeaderMap,
) -> Reply {
    let task = job(&state, &name, id).await?;
    events::stream(&state, &task, &headers)
}

/// The task behind a job; one of another agent does not exist here.
async fn job(state: &AppState, name: &AgentName, id: Result<Id, Problem>) -> Result<Arc<Task>, Problem> {
    let none = |id: &str| Problem::not_found("job_not_found", format!("{} has no job {id}", name.0));
    let id: TaskId = id.map_err(|_| none("with such an id"))?.0;
    match state.orchestrator().task(id).await {
        Ok(task) if *task.agent == *name.0 => Ok(task),
        Ok(_) => Err(none(&id.to_string())),
        Err(error) if error.kind() == sutazai_core::ErrorKind::NotFound => Err(none(&id.to_string())),
        Err(error) => Err(error.into()),
    }
}
