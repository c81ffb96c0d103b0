//! Texts as vectors.

use std::time::Instant;

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::wire::nanos;
use crate::http::{
    body::UntypedBody,
    dialect::OllamaError,
    models::{self, Texts, named},
    problem::Problem,
    reply::{Reply, json},
    state::AppState,
    strict::Object,
};

/// Texts, in Ollama's format. Other fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OllamaEmbedRequest, example = json!({"model": "all-minilm", "input": ["A cat sat on the mat."]}))]
pub(super) struct EmbedBody {
    /// An embedding model of `/api/tags`.
    #[schema(required = true)]
    model: Option<String>,
    /// A string or several.
    #[schema(value_type = serde_json::Value, required = true)]
    input: Option<Texts>,
    /// Only true: what is beyond the model's context is cut.
    truncate: Option<bool>,
    /// Only what the model has.
    dimensions: Option<usize>,
}

#[derive(Serialize)]
struct Embedded<'a> {
    model: &'a str,
    embeddings: &'a [Vec<f32>],
    total_duration: u64,
    prompt_eval_count: u32,
}

/// Embed texts, as Ollama does
#[utoipa::path(
    post, path = "/api/embed", tag = "ollama", operation_id = "ollama_embed",
    request_body = EmbedBody,
    responses(
        (status = 200, description = "A vector of unit length for each text, in order", body = serde_json::Value, headers(
            ("x-sutazai-model" = String, description = "What served it"),
        )),
        (status = 404, description = "No such model", body = OllamaError),
    ),
)]
pub(super) async fn embed(State(state): State<AppState>, UntypedBody(body): UntypedBody) -> Reply {
    let began = Instant::now();
    let Object(EmbedBody { model, input, truncate, dimensions }) = body.parse()?;
    let (model, Texts(texts)) = (named(model)?, input.unwrap_or_default());
    if truncate == Some(false) {
        return Err(Problem::field("/truncate", "only true is supported: a text beyond the model's context is cut"));
    }
    models::check_dimensions(&state, &model, dimensions)?;
    let (embeddings, model, headers) = models::embed(&state, &model, &texts).await?;
    let embedded = Embedded {
        model: &model,
        embeddings: &embeddings.vectors,
        total_duration: nanos(began.elapsed()),
        prompt_eval_count: embeddings.tokens,
    };
    let size = embeddings.vectors.iter().map(|vector| 64 + 12 * vector.len()).sum();
    let mut response = json(StatusCode::OK, &embedded, size)?;
    response.headers_mut().extend(headers);
    Ok(response)
}

/// One text, in Ollama's older format. Other fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OllamaEmbeddingsRequest, example = json!({"model": "all-minilm", "prompt": "A cat sat on the mat."}))]
pub(super) struct EmbedOneBody {
    /// An embedding model of `/api/tags`.
    #[schema(required = true)]
    model: Option<String>,
    /// The text.
    prompt: Option<String>,
}

#[derive(Serialize)]
struct EmbeddedOne<'a> {
    embedding: &'a [f32],
}

/// Embed a text, as older clients of Ollama ask for it
#[utoipa::path(
    post, path = "/api/embeddings", tag = "ollama", operation_id = "ollama_embed_one",
    request_body = EmbedOneBody,
    responses(
        (status = 200, description = "A vector of unit length", body = serde_json::Value, headers(
            ("x-sutazai-model" = String, description = "What served it"),
        )),
        (status = 404, description = "No such model", body = OllamaError),
    ),
)]
pub(super) async fn embed_one(State(state): State<AppState>, UntypedBody(body): UntypedBody) -> Reply {
    let Object(EmbedOneBody { model, prompt }) = body.parse()?;
    let texts: Vec<_> = prompt.filter(|prompt| !prompt.is_empty()).into_iter().collect();
    let (embeddings, _, headers) = models::embed(&state, &named(model)?, &texts).await?;
    let embedding = embeddings.vectors.first().map(Vec::as_slice).unwrap_or_default();
    let mut response = json(StatusCode::OK, &EmbeddedOne { embedding }, 64 + 12 * embedding.len())?;
    response.headers_mut().extend(headers);
    Ok(response)
}
