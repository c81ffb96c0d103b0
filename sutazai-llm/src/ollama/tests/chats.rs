//! Chats with a server.

use std::time::Duration;

use futures_util::StreamExt;
use sutazai_core::{
    ErrorKind,
    model::{ChatModel, ChatModelExt, ChatStream, ModelInfo},
};

use super::*;

async fn refusal(server: &FakeHttpServer) -> sutazai_core::Error {
    chat_model(server).await.chat(ChatRequest::ask("Hi")).await.err().unwrap()
}

#[tokio::test]
async fn a_chat_streams() {
    let server = server(|_| streamed(CHAT, 5)).await;
    let model = chat_model(&server).await.keep_alive(KeepAlive::Always);
    model.ready().await.unwrap();
    let reply = model.complete(ChatRequest::ask("Hi")).await.unwrap();
    assert_eq!(reply.text, "Grüße 東京 🦀");
    assert_eq!(reply.finish.usage.completion_tokens, 290);
    let sent = server.requests().pop().unwrap().json();
    assert_eq!((&sent["model"], &sent["options"]["num_ctx"]), (&json!("tinyllama"), &json!(2048)));
    assert_eq!(sent["keep_alive"], json!(-1));
    assert_eq!(model.chat(ChatRequest::ask("Hi")).await.unwrap().served().backend, "ollama");
}

#[tokio::test]
async fn thoughts_are_told_apart_from_the_answer() {
    let server = server(|_| streamed(THINKING, 61)).await;
    let stream = chat_model(&server).await.chat(ChatRequest::ask("Hi")).await.unwrap();
    let events: Vec<_> = stream.map(|event| event.unwrap()).collect().await;
    assert_eq!(events[..3], [thought("The user"), thought(" greets. 🤔"), text("Hello!")]);
}

#[tokio::test]
async fn what_the_model_cannot_do_is_not_sent() {
    let server = server(|_| streamed(CHAT, 100)).await;
    let model = chat_model(&server).await;
    let seeing = ChatRequest::new(vec![Message { images: vec![picture()], ..Message::user("What is this?") }]);
    let thinking = ChatRequest { think: Some(true), ..ChatRequest::ask("Hi") };
    for (request, kind) in [
        (seeing, ErrorKind::Unsupported),
        (thinking, ErrorKind::Unsupported),
        (ChatRequest::new(Vec::new()), ErrorKind::Invalid),
    ] {
        assert_eq!(model.chat(request).await.err().unwrap().kind(), kind);
    }
    assert!(server.requests().iter().all(|request| request.path != "/api/chat"));
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
        assert!(error.report().contains("broke off"), "{error:?}");
    }
}

#[tokio::test]
async fn refusals_come_before_the_answer() {
    for (status, words, code, temporary) in [
        (404, "model 'tinyllama' not found", "model_not_found", false),
        (500, "model runner has unexpectedly stopped", "model_unavailable", true),
        (500, "model requires more system memory (9.1 GiB) than is available (2.0 GiB)", "out_of_memory", false),
        (503, "server busy, please try again.  maximum pending requests exceeded", "queue_full", true),
        (400, "the input length exceeds the context length", "context_length_exceeded", false),
    ] {
        let server = server(move |_| FakeResponse::new(status, json!({"error": words}).to_string())).await;
        let error = refusal(&server).await;
        assert_eq!((error.code(), error.is_temporary()), (code, temporary), "{status}");
        assert!(error.report().ends_with(words), "{}", error.report());
    }
    // Some servers say 200 first.
    let server = server(|_| streamed("{\"error\":\"server busy\"}\n", 100)).await;
    assert_eq!(refusal(&server).await.code(), "queue_full");
    let error = OllamaChat::connect(client(&server), "gone", None).await.unwrap_err();
    assert_eq!(error.code(), "model_not_found");
}

#[tokio::test]
async fn a_busy_server_says_when_to_come_again() {
    for (header, seconds) in [(Some(7), 7), (None, 1)] {
        let server = server(move |_| {
            let busy = FakeResponse::new(503, r#"{"error":"busy"}"#);
            header.map_or_else(|| FakeResponse::new(503, ""), |seconds| busy.header("retry-after", seconds))
        })
        .await;
        let error = refusal(&server).await;
        assert_eq!((error.kind(), error.delay()), (ErrorKind::Full, Some(Duration::from_secs(seconds))));
    }
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_told_from_other_refusals() {
    let inner = json!({"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}});
    for body in [inner.clone(), json!({"error": inner.to_string()})] {
        let server = server(move |_| FakeResponse::new(400, body.to_string())).await;
        let error = refusal(&server).await;
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

#[tokio::test]
async fn a_model_is_loaded_and_unloaded() {
    let server = server(|_| done()).await;
    let model = chat_model(&server).await;
    let last = || server.requests().pop().unwrap();
    model.load().await.unwrap();
    let loading = json!({"model": "tinyllama", "stream": false, "keep_alive": "30m", "options": {"num_ctx": 2048}});
    assert_eq!((last().path.as_str(), last().json()), ("/api/generate", loading));
    model.unload().await.unwrap();
    let unloading = json!({"model": "tinyllama", "stream": false, "keep_alive": 0});
    assert_eq!((last().path.as_str(), last().json()), ("/api/generate", unloading));
}

/// The chat model and the fake server that serves it.
struct ServedChat(OllamaChat, #[allow(dead_code, reason = "it serves while it lives")] FakeHttpServer);

#[async_trait::async_trait]
impl ChatModel for ServedChat {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    async fn ready(&self) -> sutazai_core::Result<()> {
        self.0.ready().await
    }

    async fn chat(&self, request: ChatRequest) -> sutazai_core::Result<ChatStream> {
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
