//! The wire format against files in the form that Ollama's API reference gives, and the backends against a fake server.

use std::sync::Arc;

use futures_util::StreamExt;
use serde_json::{Value, json};
use sutazai_core::{
    ErrorKind,
    model::{
        ChatEvent, ChatModel, ChatModelExt, ChatRequest, EmbeddingModel, Finish, Message, ResponseFormat, Role,
        Sampling, StopReason, ToolCall, ToolSpec, Usage,
    },
};

use super::{
    wire::{ChatReader, Lines, chat_body},
    *,
};
use crate::fake_http::{FakeHttpServer, FakeRequest, FakeResponse};

const CHAT: &str = include_str!("../../tests/goldens/ollama/chat.ndjson");
const TOOLS: &str = include_str!("../../tests/goldens/ollama/tools.ndjson");
const SHOW: &str = include_str!("../../tests/goldens/ollama/show.json");
const SHOW_EMBEDDING: &str = include_str!("../../tests/goldens/ollama/show-embedding.json");
const TAGS: &str = include_str!("../../tests/goldens/ollama/tags.json");

fn full_request() -> ChatRequest {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let call = ToolCall { id: "call_0".into(), name: "weather".into(), arguments: json!({"city": "Bern"}) };
    ChatRequest {
        messages: vec![
            Message::system("Be short."),
            Message::user("Weather in Bern?"),
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

fn read_all(text: &str) -> Vec<ChatEvent> {
    let mut reader = ChatReader::default();
    text.lines().flat_map(|line| reader.read(line.as_bytes()).unwrap()).collect()
}

#[test]
fn a_request_is_written_so() {
    let expected: Value = serde_json::from_str(include_str!("../../tests/goldens/ollama/chat-request.json")).unwrap();
    assert_eq!(chat_body("qwen3:8b", &full_request(), 4096), expected);
    let plain =
        chat_body("tinyllama", &ChatRequest { response_format: ResponseFormat::Json, ..ChatRequest::ask("Hi") }, 2048);
    assert_eq!(plain["format"], json!("json"));
    assert!(plain.get("tools").is_none() && plain["options"].get("seed").is_none());
}

#[test]
fn an_answer_is_read_so() {
    let finish = Finish {
        stop: StopReason::Length,
        usage: Usage { prompt_tokens: 26, completion_tokens: 290 },
        prompt_ms: Some(325),
        completion_ms: Some(4709),
    };
    let text = |text: &str| ChatEvent::Text(text.into());
    assert_eq!(read_all(CHAT), [text("Grüße"), text(" 東京 🦀"), ChatEvent::Finish(finish)]);

    let events = read_all(TOOLS);
    let call =
        |id: &str, name: &str, arguments| ChatEvent::ToolCall(ToolCall { id: id.into(), name: name.into(), arguments });
    assert_eq!(
        events[..2],
        [call("call_0", "weather", json!({"city": "Bern", "days": 2})), call("given", "clock", json!({}))]
    );
    assert!(matches!(events[2], ChatEvent::Finish(Finish { stop: StopReason::ToolCalls, .. })));

    let mut reader = ChatReader::default();
    for line in [r#"{"error":"out of memory"}"#, "<html>", "{}x"] {
        let error = reader.read(line.as_bytes()).unwrap_err();
        assert!(error.is_temporary() && error.code() == "model_unavailable", "{line}");
    }
}

#[test]
fn lines_are_whole_wherever_they_are_cut() {
    let whole = format!("{CHAT}\r\n\n{}", CHAT.trim_end());
    let expected: Vec<Vec<u8>> = CHAT.lines().chain(CHAT.lines()).map(|line| line.as_bytes().to_vec()).collect();
    for size in [1, 2, 3, 7, 100, whole.len()] {
        let mut lines = Lines::default();
        let mut found: Vec<_> = whole.as_bytes().chunks(size).flat_map(|piece| lines.push(piece).unwrap()).collect();
        found.extend(lines.rest());
        assert_eq!(found, expected, "pieces of {size}");
    }
    let mut lines = Lines::default();
    assert!((0..20).any(|_| lines.push(&vec![b'x'; 1 << 20]).is_err()), "a line without end is refused");
}

#[test]
fn names_without_a_tag_mean_the_latest() {
    let tag = |name: &str| Tag { name: name.into(), size: 0, digest: String::new(), details: Details::default() };
    assert!(tag("tinyllama:latest").is("tinyllama") && tag("qwen3:8b").is("Qwen3:8b"));
    assert!(!tag("qwen3:8b").is("qwen3") && !tag("tinyllama:latest").is("tiny"));
}

#[test]
fn what_a_model_can_do_is_read_so() {
    let shown: Shown = serde_json::from_str(SHOW).unwrap();
    let info = shown.info("tinyllama", 4096);
    assert_eq!((info.context_length, info.dimension, info.backend.as_str()), (2048, 0, "ollama"));
    assert!(
        info.capabilities.chat && info.capabilities.tools && info.capabilities.schema && !info.capabilities.embedding
    );
    assert_eq!(shown.info("tinyllama", 1024).context_length, 1024);

    let mut shown: Shown = serde_json::from_str(SHOW_EMBEDDING).unwrap();
    assert_eq!(shown.info("all-minilm", usize::MAX).dimension, 3);
    // Old servers name no capabilities.
    shown.capabilities.clear();
    let old = shown.info("all-minilm", usize::MAX).capabilities;
    assert!(old.embedding && !old.chat);
}

/// A server that holds `tinyllama` and `all-minilm`, and answers chats with `chat`.
async fn server(chat: impl Fn(&FakeRequest) -> FakeResponse + Send + Sync + 'static) -> FakeHttpServer {
    FakeHttpServer::start(move |request| match request.path.as_str() {
        "/api/tags" => FakeResponse::new(200, TAGS),
        "/api/version" => FakeResponse::json(json!({"version": "0.13.0"})),
        "/api/show" => match request.json()["model"].as_str() {
            Some("tinyllama") => FakeResponse::new(200, SHOW),
            Some("all-minilm") => FakeResponse::new(200, SHOW_EMBEDDING),
            _ => FakeResponse::new(404, r#"{"error":"model not found"}"#),
        },
        "/api/chat" => chat(request),
        "/api/embed" => embed(request),
        path => panic!("nobody asks for {path}"),
    })
    .await
}

/// Vectors of the lengths of the words: what matters here is that each text has its own.
fn embed(request: &FakeRequest) -> FakeResponse {
    let body = request.json();
    let vector = |text: &Value| {
        let text: String = text.as_str().unwrap().split_whitespace().take(512).collect();
        [text.len() as f32, text.bytes().map(u32::from).sum::<u32>() as f32 / 50.0, 1.0]
    };
    let texts = body["input"].as_array().unwrap();
    assert!(texts.iter().all(|text| text != ""), "Ollama has no vector for nothing");
    let vectors: Vec<_> = texts.iter().map(vector).collect();
    FakeResponse::json(json!({"model": body["model"], "embeddings": vectors, "prompt_eval_count": texts.len()}))
}

async fn chat_model(server: &FakeHttpServer) -> OllamaChat {
    OllamaChat::connect(OllamaClient::new(&server.url()).unwrap(), "tinyllama", None).await.unwrap()
}

#[tokio::test]
async fn a_chat_streams() {
    let server = server(|_| FakeResponse::stream(CHAT.as_bytes().chunks(5).map(<[u8]>::to_vec))).await;
    let model = chat_model(&server).await;
    model.ready().await.unwrap();
    let reply = model.complete(ChatRequest::ask("Hi")).await.unwrap();
    assert_eq!(reply.text, "Grüße 東京 🦀");
    assert_eq!(reply.finish.usage.completion_tokens, 290);
    let sent = server.requests().pop().unwrap().json();
    assert_eq!((&sent["model"], &sent["options"]["num_ctx"]), (&json!("tinyllama"), &json!(2048)));
}

#[tokio::test]
async fn a_dropped_answer_closes_the_connection() {
    let line = CHAT.lines().next().unwrap().to_owned() + "\n";
    let server = server(move |_| FakeResponse::stream([line.clone()]).endless()).await;
    let mut stream = chat_model(&server).await.chat(ChatRequest::ask("Hi")).await.unwrap();
    assert!(matches!(stream.next().await, Some(Ok(ChatEvent::Text(_)))));
    drop(stream);
    server.client_gone().await;
}

#[tokio::test]
async fn an_answer_without_its_end_is_an_error() {
    for sent in [CHAT.lines().next().unwrap().to_owned() + "\n", "{\"mess".to_owned(), String::new()] {
        let server = server(move |_| FakeResponse::stream([sent.clone()])).await;
        let error = chat_model(&server).await.complete(ChatRequest::ask("Hi")).await.unwrap_err();
        assert!(error.is_temporary() && error.code() == "model_unavailable", "{error:?}");
    }
}

#[tokio::test]
async fn refusals_are_told_apart() {
    for (status, code, temporary) in [
        (404, "model_not_found", false),
        (500, "model_unavailable", true),
        (503, "model_unavailable", true),
        (400, "invalid", false),
    ] {
        let server = server(move |_| FakeResponse::new(status, r#"{"error":"the reason"}"#)).await;
        let error = chat_model(&server).await.chat(ChatRequest::ask("Hi")).await.err().unwrap();
        assert_eq!((error.code(), error.is_temporary()), (code, temporary), "{status}");
        assert!(error.report().ends_with("the reason"), "{}", error.report());
    }
    let server = server(|_| FakeResponse::new(200, "")).await;
    let client = OllamaClient::new(&server.url()).unwrap();
    assert_eq!(OllamaChat::connect(client.clone(), "gone", None).await.unwrap_err().code(), "model_not_found");
    let error = OllamaEmbedding::connect(client, "tinyllama").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let wrong = ChatRequest::new(Vec::new());
    assert_eq!(chat_model(&server).await.chat(wrong).await.err().unwrap().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn nobody_at_the_address_is_temporary() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = OllamaClient::new(&format!("http://me:secret@{closed}")).unwrap().tags().await.unwrap_err();
    assert!(error.is_temporary() && error.code() == "model_unavailable");
    assert!(error.report().contains("OLLAMA_BASE_URL") && !error.report().contains("secret"), "{}", error.report());
}

#[tokio::test]
async fn a_running_server_is_discovered() {
    let server = server(|_| FakeResponse::new(200, "")).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let other = FakeHttpServer::start(|_| FakeResponse::new(200, "<html>")).await;
    let found = discover(&["not an address".into(), closed.clone(), other.url(), server.url()]).await.unwrap();
    assert_eq!(found.client.address(), server.url());
    assert!(found.holds("tinyllama") && !found.holds("smollm2:135m"));
    assert_eq!(found.client.version().await.unwrap(), "0.13.0");
    assert!(discover(&[closed, other.url()]).await.is_none());
}

/// The model and the fake server that serves it.
struct Served(OllamaEmbedding, #[allow(dead_code, reason = "it serves while it lives")] Arc<FakeHttpServer>);

#[async_trait::async_trait]
impl EmbeddingModel for Served {
    fn info(&self) -> &sutazai_core::model::ModelInfo {
        self.0.info()
    }

    async fn ready(&self) -> sutazai_core::Result<()> {
        self.0.ready().await
    }

    async fn embed(&self, texts: &[String]) -> sutazai_core::Result<sutazai_core::model::Embeddings> {
        self.0.embed(texts).await
    }
}

async fn embedding_model() -> Served {
    let server = server(|_| FakeResponse::new(200, "")).await;
    let client = OllamaClient::new(&server.url()).unwrap();
    Served(OllamaEmbedding::connect(client, "all-minilm").await.unwrap(), Arc::new(server))
}

sutazai_core::embedding_conformance!(embedding_model().await);

#[tokio::test]
async fn many_texts_go_in_batches() {
    let model = embedding_model().await;
    let texts: Vec<_> = (0..150).map(|i| "x".repeat(i + 1)).collect();
    let embeddings = model.embed(&texts).await.unwrap();
    assert_eq!((embeddings.vectors.len(), embeddings.tokens), (150, 150));
    assert_eq!(model.1.requests().iter().filter(|request| request.path == "/api/embed").count(), 3);
}
