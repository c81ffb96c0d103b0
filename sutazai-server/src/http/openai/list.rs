//! The models there are, agents among them.

use std::borrow::Cow;

use axum::{extract::State, http::StatusCode};
use serde::Serialize;
use sutazai_core::model::ModelInfo;

use crate::http::{
    dialect::OpenAiError,
    models::{AGENT, info, infos},
    path::Named,
    problem::Problem,
    reply::{Reply, json},
    state::AppState,
};

/// Room that a model's JSON takes.
const SIZE: usize = 128;

#[derive(Serialize)]
struct ModelList<'a> {
    object: &'static str,
    data: Vec<ModelOut<'a>>,
}

#[derive(Serialize)]
struct ModelOut<'a> {
    id: Cow<'a, str>,
    object: &'static str,
    /// Nobody knows when, and the format has no null here.
    created: u64,
    /// The backend, or whose agents they are.
    owned_by: &'a str,
}

impl<'a> From<&'a ModelInfo> for ModelOut<'a> {
    fn from(info: &'a ModelInfo) -> Self {
        Self { id: Cow::Borrowed(&info.name), object: "model", created: 0, owned_by: &info.backend }
    }
}

impl ModelOut<'_> {
    fn of_agent(name: &str) -> Self {
        Self { id: Cow::Owned(format!("{AGENT}{name}")), object: "model", created: 0, owned_by: "sutazai" }
    }
}

/// List models
///
/// Chat models, embedding models, and every agent as `agent:NAME`.
#[utoipa::path(
    get, path = "/v1/models", tag = "models", operation_id = "openai_models",
    responses((status = 200, description = "All of them", body = serde_json::Value)),
)]
pub(super) async fn models(State(state): State<AppState>) -> Reply {
    let engine = state.orchestrator();
    let agents = engine.agents().iter().map(|agent| ModelOut::of_agent(&agent.name));
    let data: Vec<_> = infos(engine.models()).map(ModelOut::from).chain(agents).collect();
    let size = data.len() * SIZE;
    json(StatusCode::OK, &ModelList { object: "list", data }, size)
}

/// Show a model
#[utoipa::path(
    get, path = "/v1/models/{name}", tag = "models", operation_id = "openai_model",
    params(("name" = String, Path, description = "The model's name, or `agent:NAME`")),
    responses(
        (status = 200, description = "The model", body = serde_json::Value),
        (status = 404, description = "No such model", body = OpenAiError<'static>),
    ),
)]
pub(super) async fn model(State(state): State<AppState>, Named(name): Named) -> Reply {
    let engine = state.orchestrator();
    let model = match name.strip_prefix(AGENT) {
        None => ModelOut::from(info(engine.models(), &name)?),
        Some(agent) if engine.agent(agent).is_some() => ModelOut::of_agent(agent),
        Some(agent) => return Err(Problem::not_found("model_not_found", format!("there is no agent {agent:?}"))),
    };
    json(StatusCode::OK, &model, SIZE)
}
