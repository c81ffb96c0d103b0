//! What the tests of wire formats share: a request that says everything, and answers in short and in pieces.

use std::collections::VecDeque;

use serde_json::{Value, json};
use sutazai_core::{
    Result,
    model::{
        ChatEvent, ChatRequest, Finish, Image, Message, ResponseFormat, Role, Sampling, StopReason, ToolCall, ToolSpec,
        Usage,
    },
};

use crate::{fake_http::FakeResponse, http::Decode};

pub(crate) fn text(text: &str) -> ChatEvent {
    ChatEvent::Text(text.into())
}

pub(crate) fn thought(text: &str) -> ChatEvent {
    ChatEvent::Thinking(text.into())
}

pub(crate) fn call(id: &str, name: &str, arguments: Value) -> ChatEvent {
    ChatEvent::ToolCall(ToolCall { id: id.into(), name: name.into(), arguments })
}

pub(crate) fn finish(stop: StopReason, prompt_tokens: u32, completion_tokens: u32) -> Finish {
    Finish { stop, usage: Usage { prompt_tokens, completion_tokens }, prompt_ms: None, completion_ms: None }
}

pub(crate) fn picture() -> Image {
    Image { media_type: "image/png".into(), data: "iVBORw0KGgo=".into() }
}

/// A request that says everything that every format can.
pub(crate) fn full_request(question: &str) -> ChatRequest {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let call = ToolCall { id: "call_0".into(), name: "weather".into(), arguments: json!({"city": "Bern"}) };
    ChatRequest {
        messages: vec![
            Message::system("Be short."),
            Message { images: vec![picture()], ..Message::user(question) },
            Message { tool_calls: vec![call], ..Message::new(Role::Assistant, "") },
            Message { tool_call_id: Some("call_0".into()), ..Message::new(Role::Tool, "rain") },
        ],
        tools: vec![ToolSpec {
            name: "weather".into(),
            description: "Says the weather.".into(),
            parameters: schema.clone(),
        }],
        response_format: ResponseFormat::Schema(schema),
        sampling: Sampling { temperature: 0.7, top_p: 0.95, seed: Some(42) },
        max_tokens: Some(64),
        stop: vec!["\n\n".into()],
        ..ChatRequest::default()
    }
}

/// What a body says that comes in pieces of `size` bytes, and how it ends.
pub(crate) fn read_in_pieces<D: Decode>(mut decoder: D, bytes: &[u8], size: usize) -> (Vec<D::Item>, Result<()>) {
    let mut out = VecDeque::new();
    for piece in bytes.chunks(size) {
        match decoder.push(piece, &mut out) {
            Ok(true) => {}
            Ok(false) => return (out.into(), Ok(())),
            Err(error) => return (out.into(), Err(error)),
        }
    }
    let end = decoder.end(&mut out);
    (out.into(), end)
}

/// A body that comes in pieces of this size.
pub(crate) fn streamed(text: &str, size: usize) -> FakeResponse {
    FakeResponse::stream(text.as_bytes().chunks(size).map(<[u8]>::to_vec))
}
