//! Conversations with models and agents.

use std::time::Instant;

use axum::{extract::State, http::HeaderMap};
use serde::Deserialize;
use serde_json::Value;
use sutazai_core::model::ChatRequest;
use utoipa::ToSchema;

use super::{
    keep::keep,
    messages::{MessageBody, messages},
    options::{OptionsBody, format, think},
    wire::{Form, OllamaWire},
};
use crate::http::{
    body::UntypedBody,
    dialect::OllamaError,
    edge::request_id,
    models::{ToolBody, ask, named, reply, tools},
    problem::Problem,
    reply::Reply,
    state::AppState,
    strict::Object,
    tasks::IdempotencyKey,
};

/// A conversation to go on with, in Ollama's format. Other fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OllamaChatRequest, example = json!({"model": "smollm2:135m", "messages": [{"role": "user", "content": "Name a colour."}], "stream": false}))]
pub(super) struct ChatBody {
    /// A model of `/api/tags`, or `agent:NAME`: its task has the last message of the user as `input.text`.
    #[schema(required = true)]
    model: Option<String>,
    /// Oldest first: `role`, `content`, `images` in base64, `tool_calls`, `tool_name`. None loads the model.
    #[schema(value_type = Vec<serde_json::Value>, required = false)]
    messages: Option<Vec<Object<MessageBody>>>,
    /// Send the answer as it comes; so it is unless this is false.
    stream: Option<bool>,
    /// `temperature`, `top_p`, `seed`, `num_predict` (-1: what fits), `stop`.
    #[schema(value_type = serde_json::Value, required = false)]
    options: Option<Object<OptionsBody>>,
    /// `json` or a JSON schema.
    #[schema(value_type = serde_json::Value, required = false)]
    format: Option<Value>,
    /// Functions that the model may call.
    #[schema(value_type = Vec<serde_json::Value>, required = false)]
    tools: Option<Vec<Object<ToolBody>>>,
    /// Whether the model thinks aloud first.
    #[schema(value_type = serde_json::Value, required = false)]
    think: Option<Value>,
    /// 0 without messages unloads the model; otherwise it stays.
    #[schema(value_type = serde_json::Value, required = false)]
    keep_alive: Option<Value>,
}

impl ChatBody {
    /// The request as a model takes it, if there is a question.
    fn into_request(self) -> Result<Option<ChatRequest>, Problem> {
        let messages = messages(self.messages.unwrap_or_default())?;
        if messages.is_empty() {
            return Ok(None);
        }
        let mut request = ChatRequest::new(messages);
        request.tools = tools(self.tools.unwrap_or_default())?;
        request.response_format = format(self.format)?;
        request.think = think(self.think.as_ref())?;
        self.options.unwrap_or_default().0.apply(&mut request)?;
        Ok(Some(request))
    }
}

/// Go on with a conversation, as Ollama does
///
/// By a model, or with `agent:NAME` by an agent: then a durable task is behind the answer, named by `x-sutazai-task-id`, and goes on when the client goes
/// away. An agent's task is submitted once for each `Idempotency-Key`; for models the key has no meaning.
#[utoipa::path(
    post, path = "/api/chat", tag = "ollama", operation_id = "ollama_chat",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of a request to an agent one task"),
        ("Cache-Control" = Option<String>, Header, description = "`no-store`: no answer from the cache; `max-age=N`: one that is no older than N seconds, whatever the temperature"),
    ),
    request_body = ChatBody,
    responses(
        (status = 200, description = "Lines that each say more, the last of which is `done` and has the figures; without `stream` one document", content(
            (String = "application/x-ndjson"), (serde_json::Value = "application/json"),
        ), headers(
            ("x-sutazai-task-id" = String, description = "The task behind an agent's answer"),
        )),
        (status = 404, description = "No such model", body = OllamaError),
    ),
)]
pub(super) async fn chat(
    State(state): State<AppState>,
    key: IdempotencyKey,
    headers: HeaderMap,
    UntypedBody(body): UntypedBody,
) -> Reply {
    let began = Instant::now();
    let Object(mut body) = body.parse::<Object<ChatBody>>()?;
    let (stream, keep_alive) = (body.stream.unwrap_or(true), body.keep_alive.take());
    let model = named(body.model.take())?;
    let Some(request) = body.into_request()? else {
        return keep(&state, Form::Chat, &model, keep_alive.as_ref(), began).await;
    };
    let begun = ask(&state, &model, request, key, &headers).await?;
    let wire = OllamaWire::new(Form::Chat, begun.model().to_owned(), began);
    reply(&state, begun, wire, stream, request_id(&headers)).await
}
