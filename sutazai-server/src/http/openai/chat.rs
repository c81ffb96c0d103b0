//! Conversations with models and agents.

use axum::{extract::State, http::HeaderMap};

use super::{
    chat_wire::ChatWire,
    common::Head,
    request::{Asked, ChatBody},
};
use crate::http::{
    body::JsonBody,
    dialect::OpenAiError,
    edge::request_id,
    models::{ask, reply},
    reply::Reply,
    state::AppState,
    strict::Object,
    tasks::IdempotencyKey,
};

/// Go on with a conversation
///
/// By a model, or with `agent:NAME` by an agent: then a durable task is behind the answer, named by `x-sutazai-task-id`, and goes on when the client goes
/// away. An agent's task is submitted once for each `Idempotency-Key`; for models the key has no meaning.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "models", operation_id = "openai_chat",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of a request to an agent one task"),
        ("Cache-Control" = Option<String>, Header, description = "`no-store`: no answer from the cache; `max-age=N`: one that is no older than N seconds, whatever the temperature"),
    ),
    request_body = ChatBody,
    responses(
        (status = 200, description = "The answer; with `stream` its pieces as server-sent events, the last of which is `[DONE]`", content(
            (serde_json::Value = "application/json"), (String = "text/event-stream"),
        ), headers(
            ("x-sutazai-task-id" = String, description = "The task behind an agent's answer"),
        )),
        (status = 404, description = "No such model", body = OpenAiError<'static>),
    ),
)]
pub(super) async fn complete(
    State(state): State<AppState>,
    key: IdempotencyKey,
    headers: HeaderMap,
    body: JsonBody,
) -> Reply {
    let Asked { model, request, stream, include_usage } = body.parse::<Object<ChatBody>>()?.0.into_asked()?;
    let begun = ask(&state, &model, request, key, &headers).await?;
    let wire = ChatWire::new(Head::new("chatcmpl", &begun), include_usage);
    reply(&state, begun, wire, stream, request_id(&headers)).await
}
