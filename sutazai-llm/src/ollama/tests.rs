//! The wire format against files in the form that Ollama's API reference gives, and the backends against a fake server.

mod answers;
mod chats;
mod embeddings;
mod manage;
mod requests;

use serde_json::{Value, json};
use sutazai_core::model::{
    ChatEvent, ChatRequest, Finish, Image, Message, ResponseFormat, Role, Sampling, StopReason, ToolCall, ToolSpec,
    Usage,
};

use super::*;
use crate::fake_http::{FakeHttpServer, FakeRequest, FakeResponse};

const CHAT: &str = include_str!("../../tests/goldens/ollama/chat.ndjson");
const TOOLS: &str = include_str!("../../tests/goldens/ollama/tools.ndjson");
const THINKING: &str = include_str!("../../tests/goldens/ollama/thinking.ndjson");
const GENERATE: &str = include_str!("../../tests/goldens/ollama/generate.ndjson");
const PULL: &str = include_str!("../../tests/goldens/ollama/pull.ndjson");
const SHOW: &str = include_str!("../../tests/goldens/ollama/show.json");
const SHOW_EMBEDDING: &str = include_str!("../../tests/goldens/ollama/show-embedding.json");
const TAGS: &str = include_str!("../../tests/goldens/ollama/tags.json");
const PS: &str = include_str!("../../tests/goldens/ollama/ps.json");

fn text(text: &str) -> ChatEvent {
    ChatEvent::Text(text.into())
}

fn thought(text: &str) -> ChatEvent {
    ChatEvent::Thinking(text.into())
}

fn call(id: &str, name: &str, arguments: Value) -> ChatEvent {
    ChatEvent::ToolCall(ToolCall { id: id.into(), name: name.into(), arguments })
}

fn finish(stop: StopReason, prompt_tokens: u32, completion_tokens: u32) -> Finish {
    Finish { stop, usage: Usage { prompt_tokens, completion_tokens }, prompt_ms: None, completion_ms: None }
}

fn picture() -> Image {
    Image { media_type: "image/png".into(), data: "iVBORw0KGgo=".into() }
}

/// A request that says everything that one can.
fn full_request() -> ChatRequest {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let call = ToolCall { id: "call_0".into(), name: "weather".into(), arguments: json!({"city": "Bern"}) };
    ChatRequest {
        messages: vec![
            Message::system("Be short."),
            Message { images: vec![picture()], ..Message::user("Weather in Bern?") },
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
        think: Some(true),
        ..ChatRequest::default()
    }
}

/// A server that holds `tinyllama` and `all-minilm` and has the first in memory. What changes something or needs a model it answers with `answer`.
async fn server(answer: impl Fn(&FakeRequest) -> FakeResponse + Send + Sync + 'static) -> FakeHttpServer {
    FakeHttpServer::start(move |request| match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/api/tags") => FakeResponse::new(200, TAGS),
        ("GET", "/api/ps") => FakeResponse::new(200, PS),
        ("GET", "/api/version") => FakeResponse::json(json!({"version": "0.13.0"})),
        ("POST", "/api/show") => match request.json()["model"].as_str() {
            Some("tinyllama") => FakeResponse::new(200, SHOW),
            Some("all-minilm") => FakeResponse::new(200, SHOW_EMBEDDING),
            _ => FakeResponse::new(404, r#"{"error":"model not found"}"#),
        },
        ("POST", "/api/embed") => embeddings::embed(request),
        ("POST", "/api/chat" | "/api/generate" | "/api/pull") | ("DELETE", "/api/delete") => answer(request),
        other => panic!("nobody asks for {other:?}"),
    })
    .await
}

/// What the server says when a model has been loaded or unloaded.
fn done() -> FakeResponse {
    FakeResponse::json(json!({"model": "tinyllama", "response": "", "done": true, "done_reason": "load"}))
}

/// A body that comes in pieces of this size.
fn streamed(text: &str, size: usize) -> FakeResponse {
    FakeResponse::stream(text.as_bytes().chunks(size).map(<[u8]>::to_vec))
}

fn client(server: &FakeHttpServer) -> OllamaClient {
    OllamaClient::new(&server.url()).unwrap()
}

async fn chat_model(server: &FakeHttpServer) -> OllamaChat {
    OllamaChat::connect(client(server), "tinyllama", None).await.unwrap()
}
