//! The models there are, those in memory, and who answers here.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use serde::Serialize;
use sutazai_core::{
    clock::{Clock, SystemClock, Timestamp},
    model::ModelInfo,
};
use sutazai_llm::gateway::admission::Held;

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
    /// When it goes if nobody asks it anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
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
            expires_at: None,
        }
    }

    fn in_memory(held: &'a Held) -> Self {
        let info = &held.info;
        let size = info.memory.or_else(|| known(info).map(|known| known.memory_bytes));
        Self {
            size: size.unwrap_or_default(),
            // What this process holds itself is not on a graphics card. Of others nobody knows.
            size_vram: known(info).map(|_| 0),
            context_length: Some(info.context_length),
            // Ollama says so of what stays, and its client calls it "Forever".
            expires_at: held.left.or(known(info).map(|_| FOREVER)).map(|left| SystemClock.now().plus(left)),
            ..Self::on_disk(info)
        }
    }
}

/// About three hundred years.
const FOREVER: Duration = Duration::from_secs(300 * 365 * 24 * 3_600);

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
/// Those that this server has brought there, for whoever asked it, with when each goes if nobody asks it anything, where that is known. What goes by itself before that is not seen.
#[utoipa::path(
    get, path = "/api/ps", tag = "ollama", operation_id = "ollama_ps",
    responses((status = 200, description = "Those in memory", body = serde_json::Value)),
)]
pub(super) async fn ps(State(state): State<AppState>) -> Reply {
    let held = state.held();
    let models: Vec<_> = held.iter().map(ModelOut::in_memory).collect();
    let size = models.len() * SIZE;
    json(StatusCode::OK, &ModelList { models }, size)
}

/// Is it there?
///
/// Ollama's own client looks here before it asks for anything.
#[utoipa::path(
    get, path = "/", tag = "ollama", operation_id = "ollama_root",
    responses((status = 200, description = "It is", body = String, content_type = "text/plain")),
)]
pub(super) async fn root() -> &'static str {
    "SutazAI is running; its addresses are at /docs\n"
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
