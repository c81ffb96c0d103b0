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
    let sampling = Sampling { seed: Some(u64::MAX), ..Sampling::default() };
    let seeded = chat_body("tinyllama", &ChatRequest { sampling, ..ChatRequest::ask("Hi") }, 2048);
    assert_eq!(seeded["options"]["seed"].as_i64(), Some(i64::MAX));
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

/// Vectors that the words of a text decide, up to the context.
fn embed(request: &FakeRequest) -> FakeResponse {
    let body = request.json();
    let vector = |text: &Value| {
        let text: String = text.as_str().unwrap().split_whitespace().take(512).collect();
        let mut random =
            fastrand::Rng::with_seed(text.bytes().fold(7, |seed, byte| seed * 31 % 65_537 + u64::from(byte)));
        [random.f32() - 0.5, random.f32() - 0.5, random.f32() - 0.5]
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
        (503, "queue_full", true),
        (429, "queue_full", true),
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
    let client = OllamaClient::new("http://me:secret@localhost:1").unwrap();
    assert_eq!(format!("{client:?}"), r#"OllamaClient { address: "http://localhost:1", .. }"#);
}

#[tokio::test]
async fn a_busy_server_says_when_to_come_again() {
    let server = server(|_| FakeResponse::new(503, r#"{"error":"busy"}"#).header("retry-after", 7)).await;
    let error = chat_model(&server).await.chat(ChatRequest::ask("Hi")).await.err().unwrap();
    assert_eq!((error.kind(), error.delay()), (ErrorKind::Full, Some(std::time::Duration::from_secs(7))));
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_told_from_other_refusals() {
    let inner = json!({"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}});
    for body in [inner.clone(), json!({"error": inner.to_string()})] {
        let server = server(move |_| FakeResponse::new(400, body.to_string())).await;
        let error = chat_model(&server).await.chat(ChatRequest::ask("Hi")).await.err().unwrap();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Invalid, "context_length_exceeded"));
    }
}

#[tokio::test]
async fn what_came_before_an_error_in_one_packet_is_told_first() {
    let line = CHAT.lines().next().unwrap();
    let packet = format!("{line}\n{{\"error\":\"out of memory\"}}\n");
    let server = server(move |_| FakeResponse::stream([packet.clone()])).await;
    let events: Vec<_> = chat_model(&server).await.chat(ChatRequest::ask("Hi")).await.unwrap().collect().await;
    assert!(matches!(&events[..], [Ok(ChatEvent::Text(text)), Err(_)] if text == "Grüße"), "{events:?}");
}

/// The chat model and the fake server that serves it.
struct ServedChat(OllamaChat, #[allow(dead_code, reason = "it serves while it lives")] FakeHttpServer);

#[async_trait::async_trait]
impl ChatModel for ServedChat {
    fn info(&self) -> &sutazai_core::model::ModelInfo {
        self.0.info()
    }

    async fn ready(&self) -> sutazai_core::Result<()> {
        self.0.ready().await
    }

    async fn chat(&self, request: ChatRequest) -> sutazai_core::Result<sutazai_core::model::ChatStream> {
        self.0.chat(request).await
    }
}

/// A chat that keeps to what it is asked for, with words for tokens, as far as Ollama does.
fn well_behaved(request: &FakeRequest) -> FakeResponse {
    let body = request.json();
    let options = &body["options"];
    let messages = body["messages"].as_array().unwrap();
    let words = |message: &Value| message["content"].as_str().unwrap().split_whitespace().count();
    let (prompt, context) = (messages.iter().map(words).sum::<usize>(), options["num_ctx"].as_u64().unwrap());
    if prompt as u64 >= context {
        assert_eq!(body["truncate"], false);
        let error = json!({"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}});
        return FakeResponse::new(400, error.to_string());
    }
    let text = match &body["format"] {
        Value::Null => (1..=100).map(|number| format!("{number} ")).collect(),
        Value::String(_) => r#"{"grass": "green"}"#.to_owned(),
        _ => r#"{"colour": "green", "sure": true}"#.to_owned(),
    };
    let stops = options["stop"].as_array().into_iter().flatten();
    let end = stops.filter_map(|stop| text.find(stop.as_str().unwrap())).min().unwrap_or(text.len());
    let words: Vec<&str> = text[..end].split_inclusive(' ').collect();
    let most = options["num_predict"].as_u64().map_or(words.len(), |most| words.len().min(most as usize));
    let reason = if most < words.len() { "length" } else { "stop" };
    let line = |word: &&str| json!({"message": {"role": "assistant", "content": word}, "done": false});
    let last = json!({"message": {"role": "assistant", "content": ""}, "done": true, "done_reason": reason,
        "prompt_eval_count": prompt, "eval_count": most});
    FakeResponse::stream(words[..most].iter().map(line).chain([last]).map(|line| format!("{line}\n")))
}

async fn served_chat() -> ServedChat {
    let server = server(well_behaved).await;
    ServedChat(chat_model(&server).await, server)
}

sutazai_core::chat_conformance!(served_chat().await);

#[tokio::test]
async fn a_running_server_is_discovered() {
    let server = server(|_| FakeResponse::new(200, "")).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let other = FakeHttpServer::start(|_| FakeResponse::new(200, "<html>")).await;
    let empty = FakeHttpServer::start(|_| FakeResponse::new(200, r#"{"models":[]}"#)).await;
    let urls = ["not an address".into(), closed, other.url(), empty.url(), server.url()];
    let found = discover(&urls, "tinyllama").await.unwrap();
    assert_eq!(found.client.address(), server.url());
    assert!(found.holds("tinyllama") && !found.holds("smollm2:135m"));
    assert_eq!(found.client.version().await.unwrap(), "0.13.0");
    assert!(discover(&urls, "smollm2:135m").await.is_none());
    let answering: Vec<_> = answering(&urls).await.iter().map(|found| found.client.address()).collect();
    assert_eq!(answering, [empty.url(), server.url()]);
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
