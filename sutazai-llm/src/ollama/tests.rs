//! The wire format against files in the form that Ollama's API reference gives, and the backends against a fake server.

mod answers;
mod chats;
mod embeddings;
mod manage;
mod requests;

use serde_json::{Value, json};
use sutazai_core::model::{
    ChatEvent, ChatRequest, Finish, Message, ResponseFormat, Role, Sampling, StopReason, ToolCall,
};

use super::*;
use crate::{
    fake_http::{FakeHttpServer, FakeRequest, FakeResponse},
    fake_wire::{self, call, finish, full_request, picture, streamed, text, thought},
};

const CHAT: &str = include_str!("../../tests/goldens/ollama/chat.ndjson");
const TOOLS: &str = include_str!("../../tests/goldens/ollama/tools.ndjson");
const THINKING: &str = include_str!("../../tests/goldens/ollama/thinking.ndjson");
const GENERATE: &str = include_str!("../../tests/goldens/ollama/generate.ndjson");
const PULL: &str = include_str!("../../tests/goldens/ollama/pull.ndjson");
const SHOW: &str = include_str!("../../tests/goldens/ollama/show.json");
const SHOW_EMBEDDING: &str = include_str!("../../tests/goldens/ollama/show-embedding.json");
const TAGS: &str = include_str!("../../tests/goldens/ollama/tags.json");
const PS: &str = include_str!("../../tests/goldens/ollama/ps.json");

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

fn client(server: &FakeHttpServer) -> OllamaClient {
    OllamaClient::new(&server.url()).unwrap()
}

async fn chat_model(server: &FakeHttpServer) -> OllamaChat {
    OllamaChat::connect(client(server), "tinyllama", None).await.unwrap()
}
