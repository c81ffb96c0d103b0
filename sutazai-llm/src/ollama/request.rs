//! Requests, without IO: what is asked, as it is sent.

use serde_json::{Map, Value, json};
use sutazai_core::model::{ChatRequest, Image, Message, ResponseFormat, Role, ToolCall};

use super::{GenerateRequest, KeepAlive};

/// The body of `POST /api/chat`. `context` is always sent: a server reloads a model that is asked for with another one.
pub(super) fn chat_body(model: &str, request: &ChatRequest, context: usize, keep_alive: KeepAlive) -> Value {
    let sampling = request.sampling;
    let mut options = Map::from_iter([
        ("num_ctx".into(), json!(context)),
        // As f64, 0.7 would be written as 0.699999988079071.
        ("temperature".into(), number(sampling.temperature)),
        ("top_p".into(), number(sampling.top_p)),
    ]);
    // Ollama's seeds are signed, and a negative one means none.
    options.extend(sampling.seed.map(|seed| ("seed".into(), json!(seed & i64::MAX.unsigned_abs()))));
    options.extend(request.max_tokens.map(|tokens| ("num_predict".into(), json!(tokens))));
    if !request.stop.is_empty() {
        options.insert("stop".into(), json!(request.stop));
    }
    let said =
        |(index, message): (usize, &Message)| message_body(message, request.messages.get(..index).unwrap_or_default());
    let messages: Vec<_> = request.messages.iter().enumerate().map(said).collect();
    let mut body = streamed(model, options, &request.response_format, request.think);
    body.insert("messages".into(), json!(messages));
    body.insert("keep_alive".into(), keep_alive.body());
    if !request.tools.is_empty() {
        let tools: Vec<_> = request.tools.iter().map(|tool| json!({"type": "function", "function": tool})).collect();
        body.insert("tools".into(), json!(tools));
    }
    Value::Object(body)
}

/// The body of `POST /api/generate`.
pub(super) fn generate_body(request: &GenerateRequest) -> Value {
    let mut body = streamed(&request.model, request.options.clone(), &request.response_format, request.think);
    body.insert("prompt".into(), json!(request.prompt));
    body.extend(request.system.as_ref().map(|system| ("system".into(), json!(system))));
    body.extend(request.keep_alive.map(|keep_alive| ("keep_alive".into(), keep_alive.body())));
    if !request.images.is_empty() {
        body.insert("images".into(), images(&request.images));
    }
    if request.raw {
        body.insert("raw".into(), json!(true));
    }
    Value::Object(body)
}

/// The body of `POST /api/generate` that loads a chat model: one without a prompt. The model is not asked anything.
pub(super) fn load_body(model: &str, context: usize, keep_alive: KeepAlive) -> Value {
    let mut body = json!({"model": model, "stream": false, "options": {"num_ctx": context}});
    keep(&mut body, keep_alive);
    body
}

/// The body of `POST /api/embed` that loads an embedding model: one without a text. `/api/generate` refuses such a model.
pub(super) fn load_embedding_body(model: &str, keep_alive: KeepAlive) -> Value {
    let mut body = json!({"model": model, "input": []});
    keep(&mut body, keep_alive);
    body
}

/// The body of `POST /api/generate` that unloads a model of any kind. `/api/embed` would load it first.
pub(super) fn unload_body(model: &str) -> Value {
    json!({"model": model, "stream": false, "keep_alive": 0})
}

/// The body of `POST /api/embed`.
pub(super) fn embed_body(model: &str, texts: &[String], keep_alive: KeepAlive) -> Value {
    // Ollama has no vector for a text without a token.
    let input: Vec<_> = texts.iter().map(|text| if text.is_empty() { " " } else { text }).collect();
    json!({"model": model, "input": input, "truncate": true, "keep_alive": keep_alive.body()})
}

/// Says how long what is loaded is kept. Not at all would mean to unload it; then the server's own habit is better.
fn keep(body: &mut Value, keep_alive: KeepAlive) {
    if let Some(body) = body.as_object_mut().filter(|_| !keep_alive.is_none()) {
        body.insert("keep_alive".into(), keep_alive.body());
    }
}

/// What every request for a stream of text has in common.
fn streamed(
    model: &str,
    options: Map<String, Value>,
    format: &ResponseFormat,
    think: Option<bool>,
) -> Map<String, Value> {
    let mut body = Map::from_iter([
        ("model".into(), json!(model)),
        ("stream".into(), json!(true)),
        // What is beyond the context is refused: by default the oldest messages are left out without a word.
        ("truncate".into(), json!(false)),
        ("shift".into(), json!(false)),
        ("options".into(), Value::Object(options)),
    ]);
    let format = match format {
        ResponseFormat::Text => None,
        ResponseFormat::Json => Some(json!("json")),
        ResponseFormat::Schema(schema) => Some(schema.clone()),
    };
    body.extend(format.map(|format| ("format".into(), format)));
    body.extend(think.map(|think| ("think".into(), json!(think))));
    body
}

/// A number as it was written, not as the next f64.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |value| json!(value))
}

/// A message that comes after these.
fn message_body(message: &Message, before: &[Message]) -> Value {
    let mut body = Map::from_iter([("role".into(), json!(message.role)), ("content".into(), json!(message.content))]);
    if !message.images.is_empty() {
        body.insert("images".into(), images(&message.images));
    }
    if !message.tool_calls.is_empty() {
        let call =
            |call: &ToolCall| json!({"id": call.id, "function": {"name": call.name, "arguments": call.arguments}});
        body.insert("tool_calls".into(), message.tool_calls.iter().map(call).collect());
    }
    if message.role == Role::Tool {
        body.extend(message.tool_call_id.as_ref().map(|id| ("tool_call_id".into(), json!(id))));
        // Most templates know results by the tool's name, not by the call's id; the same id may have been given again in a later turn.
        let mut calls = before.iter().rev().flat_map(|message| &message.tool_calls);
        if let Some(call) = calls.find(|call| Some(&call.id) == message.tool_call_id.as_ref()) {
            body.insert("tool_name".into(), json!(call.name));
        }
    }
    Value::Object(body)
}

/// Ollama sees for itself what kind of pictures they are.
fn images(images: &[Image]) -> Value {
    images.iter().map(|image| image.data.as_str()).collect()
}
