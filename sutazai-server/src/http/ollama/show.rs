//! What is known about a model.

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sutazai_core::model::ModelInfo;
use sutazai_llm::registry::{Catalogue, Format, KnownFile, KnownModel, Role};
use utoipa::ToSchema;

use crate::http::{
    body::UntypedBody,
    dialect::OllamaError,
    models::{info, named},
    reply::{Reply, json},
    state::AppState,
    strict::Object,
};

/// The entry of the catalogue for a model that runs in this process.
pub(super) fn known(info: &ModelInfo) -> Option<&'static KnownModel> {
    if info.backend == "local" { Catalogue::embedded().find(&info.name).ok() } else { None }
}

fn weights(info: &ModelInfo) -> Option<&'static KnownFile> {
    known(info)?.files.iter().find(|file| file.role == Role::Weights)
}

/// The digest of a model's weights; empty if nobody knows it.
pub(super) fn sha256(info: &ModelInfo) -> &str {
    info.digest.as_deref().or_else(|| weights(info).map(|file| file.sha256)).unwrap_or_default()
}

/// What a model's weights are. What nobody knows is empty.
#[derive(Serialize)]
pub(super) struct Details {
    parent_model: &'static str,
    format: &'static str,
    family: &'static str,
    families: Vec<&'static str>,
    parameter_size: String,
    quantization_level: &'static str,
}

impl Details {
    pub(super) fn of(info: &ModelInfo) -> Self {
        let known = known(info);
        let family = known.map_or("", |known| known.family);
        Self {
            parent_model: "",
            format: match weights(info).map(|file| file.format) {
                Some(Format::Gguf) => "gguf",
                Some(Format::Safetensors) => "safetensors",
                Some(Format::Json) | None => "",
            },
            family,
            families: known.map(|known| known.family).into_iter().collect(),
            parameter_size: known.map_or_else(String::new, |known| rounded(known.parameters)),
            quantization_level: known.map_or("", |known| known.quantisation),
        }
    }
}

/// A number of weights as people say it: `134.51M`, `1.1B`.
fn rounded(parameters: u64) -> String {
    let (millions, billions) = (1_000_000, 1_000_000_000);
    if parameters >= billions {
        format!("{}.{}B", parameters / billions, parameters % billions / (billions / 10))
    } else {
        format!("{}.{:02}M", parameters / millions, parameters % millions / (millions / 100))
    }
}

/// Which model to show.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OllamaShowRequest, example = json!({"model": "smollm2:135m"}))]
pub(super) struct ShowBody {
    /// A model of `/api/tags`.
    model: Option<String>,
    /// The same by its older name.
    name: Option<String>,
}

#[derive(Serialize)]
struct Shown<'a> {
    license: &'a str,
    details: Details,
    model_info: Map<String, Value>,
    capabilities: Vec<&'static str>,
}

/// Show a model, as Ollama does
#[utoipa::path(
    post, path = "/api/show", tag = "ollama", operation_id = "ollama_show",
    request_body = ShowBody,
    responses(
        (status = 200, description = "What is known about it", body = serde_json::Value),
        (status = 404, description = "No such model", body = OllamaError),
    ),
)]
pub(super) async fn show(State(state): State<AppState>, UntypedBody(body): UntypedBody) -> Reply {
    let Object(ShowBody { model, name }) = body.parse()?;
    // Ollama's own client writes both, and leaves one empty.
    let name = model.filter(|model| !model.is_empty()).or(name);
    let info = info(state.orchestrator().models(), &named(name)?)?;
    let shown = Shown {
        license: known(info).map_or("", |known| known.license),
        details: Details::of(info),
        model_info: metadata(info),
        capabilities: capabilities(info),
    };
    json(StatusCode::OK, &shown, 1_024)
}

/// What a model's file would say of itself.
fn metadata(info: &ModelInfo) -> Map<String, Value> {
    let known = known(info);
    let family = known.map_or(&*info.backend, |known| known.family);
    let mut map = Map::new();
    map.insert("general.architecture".into(), family.into());
    map.insert("general.basename".into(), info.name.as_str().into());
    map.insert(format!("{family}.context_length"), info.context_length.into());
    if info.dimension > 0 {
        map.insert(format!("{family}.embedding_length"), info.dimension.into());
    }
    if let Some(known) = known {
        map.insert("general.parameter_count".into(), known.parameters.into());
    }
    map
}

/// What a model can do, in Ollama's words.
fn capabilities(info: &ModelInfo) -> Vec<&'static str> {
    let can = info.capabilities;
    let all = [
        (can.chat, "completion"),
        (can.tools, "tools"),
        (can.vision, "vision"),
        (can.thinking, "thinking"),
        (can.embedding, "embedding"),
    ];
    all.into_iter().filter(|(can, _)| *can).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_an_embedded_model_is_shown() {
        let info = Catalogue::embedded().find("smollm2").unwrap().info();
        let details = Details::of(&info);
        assert_eq!((details.format, details.family, &*details.parameter_size), ("gguf", "llama", "134.51M"));
        assert_eq!(sha256(&info).len(), 64);
        assert_eq!(capabilities(&info), ["completion"]);
        let shown = metadata(&info);
        assert_eq!(shown["general.architecture"], "llama");
        assert_eq!(shown["llama.context_length"], 8192);
    }

    #[test]
    fn of_a_stranger_nothing_is_made_up() {
        let info = ModelInfo::new("smollm2:135m", "ollama", 64);
        let details = Details::of(&info);
        assert_eq!((details.format, details.family, details.families.len()), ("", "", 0));
        assert_eq!((sha256(&info), metadata(&info).contains_key("general.parameter_count")), ("", false));
        assert_eq!(rounded(1_100_048_384), "1.1B");
    }
}
