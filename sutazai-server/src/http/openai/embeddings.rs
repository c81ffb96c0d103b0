//! Texts as vectors.

use axum::{extract::State, http::StatusCode};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::{
    body::JsonBody,
    dialect::OpenAiError,
    models::{self, Texts, named},
    problem::Problem,
    reply::{Reply, json},
    state::AppState,
    strict::Object,
};

/// Texts, in OpenAI's format. Other fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = EmbeddingRequest, example = json!({"model": "all-minilm", "input": ["A cat sat on the mat."]}))]
pub(super) struct EmbeddingBody {
    /// An embedding model of `/v1/models`.
    #[schema(required = true)]
    model: Option<String>,
    /// A string or several. The numbers of tokens are not taken.
    #[schema(value_type = serde_json::Value, required = true)]
    input: Option<Texts>,
    /// `float` or `base64`: 32-bit numbers, little end first.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    encoding_format: Option<Encoding>,
    /// Only what the model has.
    dimensions: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Float,
    Base64,
}

#[derive(Serialize)]
struct Rows<'a> {
    object: &'static str,
    data: Vec<Row<'a>>,
    model: &'a str,
    usage: Used,
}

#[derive(Serialize)]
struct Row<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Float(&'a [f32]),
    Base64(String),
}

#[derive(Serialize)]
struct Used {
    prompt_tokens: u32,
    total_tokens: u32,
}

impl<'a> Vector<'a> {
    fn new(numbers: &'a [f32], encoding: Option<Encoding>) -> Self {
        match encoding {
            None | Some(Encoding::Float) => Self::Float(numbers),
            Some(Encoding::Base64) => {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Self::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

/// Embed texts
///
/// A vector of unit length for each text, in order. What is beyond the model's context is cut.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "models", operation_id = "openai_embed",
    request_body = EmbeddingBody,
    responses(
        (status = 200, description = "The vectors", body = serde_json::Value, headers(
            ("x-sutazai-model" = String, description = "What served it"),
        )),
        (status = 404, description = "No such model", body = OpenAiError<'static>),
    ),
)]
pub(super) async fn embed(State(state): State<AppState>, body: JsonBody) -> Reply {
    let Object(EmbeddingBody { model, input, encoding_format, dimensions }) = body.parse()?;
    let model = named(model)?;
    let Texts(texts) = input.unwrap_or_default();
    if texts.is_empty() {
        return Err(Problem::field("/input", "at least one text is needed"));
    }
    models::check_dimensions(&state, &model, dimensions)?;
    let (embeddings, model, headers) = models::embed(&state, &model, &texts).await?;
    let row = |(index, vector)| Row { object: "embedding", index, embedding: Vector::new(vector, encoding_format) };
    let data = embeddings.vectors.iter().map(Vec::as_slice).enumerate().map(row).collect();
    let usage = Used { prompt_tokens: embeddings.tokens, total_tokens: embeddings.tokens };
    let size = embeddings.vectors.iter().map(|vector| 64 + 12 * vector.len()).sum();
    let mut response = json(StatusCode::OK, &Rows { object: "list", data, model: &model, usage }, size)?;
    response.headers_mut().extend(headers);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_written_either_way() {
        let write = |encoding| serde_json::to_string(&Vector::new(&[1.0, -0.5], encoding)).unwrap();
        assert_eq!(write(None), "[1.0,-0.5]");
        assert_eq!(write(Some(Encoding::Float)), "[1.0,-0.5]");
        assert_eq!(write(Some(Encoding::Base64)), "\"AACAPwAAAL8=\"");
    }
}
