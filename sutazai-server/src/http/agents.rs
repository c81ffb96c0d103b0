//! The catalogue of agents.

use axum::{extract::State, http::StatusCode};
use sutazai_core::agent::AgentDescriptor;

use super::{
    cursor,
    operators::Readiness,
    path::AgentName,
    problem::ProblemView,
    query::{PageQuery, Query},
    reply::{Reply, json},
    state::AppState,
    views::{AgentList, AgentView},
};

/// Room that an agent's JSON takes, its schemas included.
const SIZE: usize = 2_048;

/// List agents
///
/// Every registered agent, by name, with what it takes and gives.
#[utoipa::path(
    get, path = "/api/v1/agents", tag = "agents", operation_id = "list_agents",
    params(PageQuery),
    responses(
        (status = 200, description = "A page", body = AgentList<'static>),
        (status = 422, description = "A parameter is wrong", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(State(state): State<AppState>, Query(query): Query<PageQuery>) -> Reply {
    let after = query.cursor.as_deref().map(cursor::name).transpose()?;
    let mut agents: Vec<&AgentDescriptor> = state.orchestrator().agents().iter().collect();
    agents.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let start = after.map_or(0, |after| agents.partition_point(|agent| agent.name <= after));
    let rest = &agents[start..];
    let page = &rest[..rest.len().min(query.limit.0)];
    let next_cursor = page.last().filter(|_| page.len() < rest.len()).map(|agent| cursor::of_name(&agent.name));
    let models = Readiness::of_models(&state).await;
    let items = page.iter().map(|agent| AgentView::new(agent, models.availability(agent))).collect();
    json(StatusCode::OK, &AgentList { items, next_cursor }, page.len() * SIZE)
}

/// Show an agent
#[utoipa::path(
    get, path = "/api/v1/agents/{name}", tag = "agents", operation_id = "get_agent",
    params(("name" = String, Path, description = "The agent's name")),
    responses(
        (status = 200, description = "The agent", body = AgentView<'static>),
        (status = 404, description = "No such agent", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(State(state): State<AppState>, name: AgentName) -> Reply {
    let agent = name.descriptor(&state)?;
    let models = Readiness::of_models(&state).await;
    json(StatusCode::OK, &AgentView::new(agent, models.availability(agent)), SIZE)
}
