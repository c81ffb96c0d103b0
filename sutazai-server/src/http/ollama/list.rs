//! The models there are, those in memory, and who answers here.

use axum::{extract::State, http::StatusCode};
use serde::Serialize;
use sutazai_core::model::ModelInfo;

use super::show::{Details, known, sha256};
use crate::http::{
    models::infos,
    reply::{Reply, json},
    state::AppState,
};

#[derive(Serialize)]
struct ModelList<'a> {
    models: Vec<ModelOut<'a>>,
}

#[derive(Serialize)]
struct ModelOut<'a> {
    name: &'a str,
    /// The same: older clients read the one, newer ones the other.
    model: &'a str,
    /// Bytes on disk, or in memory of those that are loaded, where that is known.
    size: u64,
    digest: &'a str,
    details: Details,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_vram: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<usize>,
}

impl<'a> ModelOut<'a> {
    fn on_disk(info: &'a ModelInfo) -> Self {
        Self {
            name: &info.name,
            model: &info.name,
            size: known(info).map_or(0, |known| known.bytes()),
            digest: sha256(info),
            details: Details::of(info),
            size_vram: None,
            context_length: None,
        }
    }

    fn in_memory(info: &'a ModelInfo) -> Self {
        let size = info.memory.or_else(|| known(info).map(|known| known.memory_bytes));
        Self {
            size: size.unwrap_or_default(),
            // What this process holds itself is not on a graphics card. Of others nobody knows.
            size_vram: known(info).map(|_| 0),
            context_length: Some(info.context_length),
            ..Self::on_disk(info)
        }
    }
}

/// Room that a model's JSON takes.
const SIZE: usize = 512;

/// List models, as Ollama does
#[utoipa::path(
    get, path = "/api/tags", tag = "ollama", operation_id = "ollama_tags",
    responses((status = 200, description = "All of them", body = serde_json::Value)),
)]
pub(super) async fn tags(State(state): State<AppState>) -> Reply {
    let models: Vec<_> = infos(state.orchestrator().models()).map(ModelOut::on_disk).collect();
    let size = models.len() * SIZE;
    json(StatusCode::OK, &ModelList { models }, size)
}

/// List the models in memory, as Ollama does
///
/// Those that requests to these addresses have brought there. A model stays until a request unloads it or it lets go of its memory by itself, which is not seen.
#[utoipa::path(
    get, path = "/api/ps", tag = "ollama", operation_id = "ollama_ps",
    responses((status = 200, description = "Those in memory", body = serde_json::Value)),
)]
pub(super) async fn ps(State(state): State<AppState>) -> Reply {
    let infos = infos(state.orchestrator().models()).filter(|info| state.loaded().holds(&info.name));
    let models: Vec<_> = infos.map(ModelOut::in_memory).collect();
    let size = models.len() * SIZE;
    json(StatusCode::OK, &ModelList { models }, size)
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

/// Which version is it?
#[utoipa::path(
    get, path = "/api/version", tag = "ollama", operation_id = "ollama_version",
    responses((status = 200, description = "This server's own version", body = serde_json::Value)),
)]
pub(super) async fn version() -> Reply {
    json(StatusCode::OK, &Version { version: env!("CARGO_PKG_VERSION") }, 32)
}
