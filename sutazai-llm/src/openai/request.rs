//! Requests, without IO: what is asked, as it is sent.

use serde_json::{Map, Value, json};
use sutazai_core::model::{ChatRequest, Image, Message, ResponseFormat, ToolCall};

/// How a server says what others say differently.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    /// The field for the tokens of the answer.
    pub(super) limit: &'static str,
    /// Whether a schema is that of a `json_object`.
    pub(super) plain_schema: bool,
}

/// The body of `POST /chat/completions`.
pub(super) fn chat_body(model: &str, request: &ChatRequest, words: Words) -> Value {
    let sampling = request.sampling;
    let messages: Vec<_> = request.messages.iter().map(message_body).collect();
    let mut body = Map::from_iter([
        ("model".into(), json!(model)),
        ("messages".into(), json!(messages)),
        ("stream".into(), json!(true)),
        // By default a stream says nothing of the tokens used.
        ("stream_options".into(), json!({"include_usage": true})),
        ("temperature".into(), number(sampling.temperature)),
        ("top_p".into(), number(sampling.top_p)),
    ]);
    // Seeds are signed in this format, and some servers refuse negative ones.
    body.extend(sampling.seed.map(|seed| ("seed".into(), json!(seed & i64::MAX.unsigned_abs()))));
    body.extend(request.max_tokens.map(|tokens| (words.limit.to_owned(), json!(tokens))));
    if !request.stop.is_empty() {
        body.insert("stop".into(), json!(request.stop));
    }
    if !request.tools.is_empty() {
        let tools: Vec<_> = request.tools.iter().map(|tool| json!({"type": "function", "function": tool})).collect();
        body.insert("tools".into(), json!(tools));
    }
    let format = match &request.response_format {
        ResponseFormat::Text => None,
        ResponseFormat::Json => Some(json!({"type": "json_object"})),
        ResponseFormat::Schema(schema) if words.plain_schema => Some(json!({"type": "json_object", "schema": schema})),
        // The name is the format's own demand; nobody reads it.
        ResponseFormat::Schema(schema) => Some(json!({
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": true, "schema": schema},
        })),
    };
    body.extend(format.map(|format| ("response_format".into(), format)));
    Value::Object(body)
}

/// The body of `POST /embeddings`.
pub(super) fn embedding_body(model: &str, texts: &[&str]) -> Value {
    // The format has no vector for an empty text.
    let input: Vec<_> = texts.iter().map(|text| if text.is_empty() { " " } else { *text }).collect();
    json!({"model": model, "input": input, "encoding_format": "float"})
}

fn message_body(message: &Message) -> Value {
    let calls: Vec<_> = message.tool_calls.iter().map(call_body).collect();
    let content = match (message.content.as_str(), message.images.as_slice()) {
        // Some servers refuse a message that calls tools and says the empty text.
        ("", []) if !calls.is_empty() => Value::Null,
        (text, []) => json!(text),
        (text, images) => {
            let text = (!text.is_empty()).then(|| json!({"type": "text", "text": text}));
            text.into_iter().chain(images.iter().map(image_body)).collect()
        }
    };
    let mut body = Map::from_iter([("role".into(), json!(message.role)), ("content".into(), content)]);
    if !calls.is_empty() {
        body.insert("tool_calls".into(), json!(calls));
    }
    body.extend(message.tool_call_id.as_ref().map(|id| ("tool_call_id".into(), json!(id))));
    Value::Object(body)
}

fn call_body(call: &ToolCall) -> Value {
    // The arguments are a text here, as the model wrote it.
    let arguments = call.arguments.to_string();
    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
}

fn image_body(image: &Image) -> Value {
    json!({"type": "image_url", "image_url": {"url": format!("data:{};base64,{}", image.media_type, image.data)}})
}

/// A number as it was written, not as the next f64: 0.7 and not 0.699999988079071.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |value| json!(value))
}
