//! What a server holds, and what it does with it.

use std::time::Duration;

use futures_util::StreamExt;
use sutazai_core::{
    ErrorKind, Result,
    clock::Timestamp,
    model::{ChatModel, EmbeddingModel},
};

use super::*;

/// The digests in the lists.
const TINYLLAMA: &str = "2644915ede352ea7bdfaff0bfac0be74c719d5d5202acb63a6fb095b52f394a4";
const MINILM: &str = "1b226e2802dbb772b5fc32a58f103ca1804ef7501331012de126ab22f67475ef";

#[test]
fn names_without_a_tag_mean_the_latest() {
    let tag = |name: &str| Tag { name: name.into(), size: 0, digest: String::new(), details: Details::default() };
    assert!(tag("tinyllama:latest").is("tinyllama") && tag("qwen3:8b").is("Qwen3:8b"));
    assert!(!tag("qwen3:8b").is("qwen3") && !tag("tinyllama:latest").is("tiny"));
}

#[test]
fn what_a_model_can_do_is_read_so() {
    let mut shown: Shown = serde_json::from_str(SHOW).unwrap();
    let info = shown.info("tinyllama", 4096);
    assert_eq!((info.context_length, info.dimension, info.backend.as_str()), (2048, 0, "ollama"));
    let can = info.capabilities;
    assert!(can.chat && can.tools && can.schema && !can.embedding && !can.vision && !can.thinking);
    assert_eq!(shown.info("tinyllama", 1024).context_length, 1024);
    shown.capabilities.extend(["vision".into(), "thinking".into()]);
    let can = shown.info("tinyllama", 4096).capabilities;
    assert!(can.vision && can.thinking);

    let mut shown: Shown = serde_json::from_str(SHOW_EMBEDDING).unwrap();
    assert_eq!(shown.info("all-minilm", usize::MAX).dimension, 3);
    // Old servers name no capabilities.
    shown.capabilities.clear();
    let old = shown.info("all-minilm", usize::MAX).capabilities;
    assert!(old.embedding && !old.chat);
}

#[tokio::test]
async fn a_model_has_a_digest_and_takes_memory() {
    let server = server(|_| done()).await;
    let loaded = chat_model(&server).await;
    assert_eq!((loaded.info().digest.as_deref(), loaded.info().memory), (Some(TINYLLAMA), Some(858_993_459)));
    // What is not loaded takes what it has on disk and a fifth.
    let other = OllamaEmbedding::connect(client(&server), "all-minilm").await.unwrap();
    assert_eq!((other.info().digest.as_deref(), other.info().memory), (Some(MINILM), Some(55_153_195)));

    // An old server that does not say what is loaded, and one that does not list what it shows.
    for (tags, digest, memory) in [(TAGS, Some(TINYLLAMA), Some(765_240_165)), ("{\"models\":null}", None, None)] {
        let old = FakeHttpServer::start(move |request| match request.path.as_str() {
            "/api/show" => FakeResponse::new(200, SHOW),
            "/api/tags" => FakeResponse::new(200, tags),
            _ => FakeResponse::new(404, "404 page not found"),
        })
        .await;
        let info = chat_model(&old).await.info().clone();
        assert_eq!((info.digest.as_deref(), info.memory), (digest, memory));
        let error = client(&old).ps().await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Unsupported, "model_unavailable"));
    }
}

#[tokio::test]
async fn many_models_are_connected_by_one_question_each() {
    let server = server(|_| done()).await;
    let found = discover(&[server.url()], "tinyllama").await.unwrap();
    let before = server.requests().len();
    let connected = found.connect(&["tinyllama", "all-minilm", "gone"], Some(1024)).await;
    let mut asked: Vec<_> = server.requests()[before..].iter().map(|request| request.path.clone()).collect();
    asked.sort();
    assert_eq!(asked, ["/api/ps", "/api/show", "/api/show", "/api/show"]);
    let [Ok(OllamaModel::Chat(chat)), Ok(OllamaModel::Embedding(embedding)), Err(gone)] = &connected[..] else {
        panic!("{connected:?}")
    };
    let alone = OllamaChat::connect(client(&server), "tinyllama", Some(1024)).await.unwrap();
    assert_eq!(chat.info(), alone.info());
    assert_eq!((chat.info().context_length, chat.info().memory), (1024, Some(858_993_459)));
    let alone = OllamaEmbedding::connect(client(&server), "all-minilm").await.unwrap();
    assert_eq!(embedding.info(), alone.info());
    assert_eq!((gone.kind(), gone.code()), (ErrorKind::NotFound, "model_not_found"));
    assert_eq!(connected[0].as_ref().unwrap().name(), "tinyllama");
}

#[tokio::test]
async fn what_is_loaded_is_listed() {
    let server = server(|_| done()).await;
    let running = client(&server).ps().await.unwrap();
    let expected = Running {
        name: "tinyllama:latest".into(),
        digest: TINYLLAMA.into(),
        size: 858_993_459,
        size_vram: 429_496_729,
        expires_at: Some(Timestamp::parse("2026-11-20T10:38:31.837Z").unwrap()),
    };
    assert!(running[0].is("tinyllama") && !running[0].is("tinyllama:1b"));
    assert_eq!(running, [expected]);
}

#[tokio::test]
async fn a_model_is_deleted() {
    let server = server(|request| match request.json()["model"].as_str() {
        Some("tinyllama") => FakeResponse::new(200, ""),
        _ => FakeResponse::new(404, r#"{"error":"model 'gone' not found"}"#),
    })
    .await;
    client(&server).delete("tinyllama").await.unwrap();
    let sent = server.requests().pop().unwrap();
    assert_eq!((sent.method.as_str(), sent.path.as_str()), ("DELETE", "/api/delete"));
    assert_eq!(sent.json(), json!({"model": "tinyllama"}));
    let error = client(&server).delete("gone").await.unwrap_err();
    assert_eq!((error.kind(), error.code(), error.subject()), (ErrorKind::NotFound, "model_not_found", "gone"));
}

#[tokio::test]
async fn a_text_is_gone_on_with() {
    let server = server(|_| streamed(GENERATE, 41)).await;
    let stream = client(&server).generate(GenerateRequest::new("tinyllama", "Once")).await.unwrap();
    assert_eq!((stream.served().model.as_str(), stream.served().backend.as_str()), ("tinyllama", "ollama"));
    let events: Vec<_> = stream.map(|event| event.unwrap()).collect().await;
    assert_eq!(events[..3], [thought("Hm."), text("Grüße"), text(" 東京 🦀")]);
    assert!(matches!(events[3..], [ChatEvent::Finish(Finish { stop: StopReason::Stop, .. })]));
    let sent = server.requests().pop().unwrap();
    assert_eq!((sent.path.as_str(), &sent.json()["prompt"]), ("/api/generate", &json!("Once")));

    let server = self::server(|_| FakeResponse::new(404, r#"{"error":"model 'gone' not found"}"#)).await;
    let error = client(&server).generate(GenerateRequest::new("gone", "Once")).await.err().unwrap();
    assert_eq!((error.code(), error.subject()), ("model_not_found", "gone"));
}

async fn pull(sent: &'static str) -> Vec<Result<PullProgress>> {
    let server = server(move |_| streamed(sent, 29)).await;
    let progress = client(&server).pull("tinyllama").await.unwrap().collect().await;
    let asked = server.requests().pop().unwrap();
    assert_eq!((asked.path.as_str(), asked.json()), ("/api/pull", json!({"model": "tinyllama", "stream": true})));
    progress
}

#[tokio::test]
async fn a_pull_says_how_it_goes_on() {
    let progress: Vec<_> = pull(PULL).await.into_iter().map(Result::unwrap).collect();
    let status: Vec<_> = progress.iter().map(|progress| progress.status.as_str()).collect();
    let fetching = "pulling 2af3b81862c6";
    let expected = ["pulling manifest", fetching, fetching, fetching, "verifying sha256 digest", "writing manifest"];
    assert_eq!(status.split_last(), Some((&"success", &expected[..])));
    let half = &progress[2];
    assert!(half.digest.as_ref().is_some_and(|digest| digest.starts_with("sha256:2af3b81862c6")));
    assert_eq!((half.total, half.completed), (Some(637_699_456), Some(318_849_728)));
    assert_eq!(progress[1].completed, None);
}

#[tokio::test]
async fn a_pull_that_fails_says_why() {
    for (sent, kind, code) in [
        (
            "{\"status\":\"pulling manifest\"}\n{\"error\":\"pull model manifest: file does not exist\"}\n",
            ErrorKind::NotFound,
            "model_not_found",
        ),
        (
            "{\"status\":\"pulling manifest\"}\n{\"error\":\"write /models/blobs/x: no space left on device\"}\n",
            ErrorKind::Full,
            "full",
        ),
        (
            "{\"status\":\"pulling manifest\"}\n{\"error\":\"max retries exceeded: EOF\"}",
            ErrorKind::Unavailable,
            "model_unavailable",
        ),
        ("{\"status\":\"pulling manifest\"}\n", ErrorKind::Unavailable, "model_unavailable"),
        ("{\"status\":\"pulling manifest\"}\n{\"stat", ErrorKind::Unavailable, "model_unavailable"),
        ("{\"status\":\"pulling manifest\"}\n<html>\n", ErrorKind::Unavailable, "model_unavailable"),
    ] {
        let mut progress = pull(sent).await;
        let error = progress.pop().unwrap().unwrap_err();
        assert_eq!((error.kind(), error.code()), (kind, code), "{sent}");
        assert_eq!((error.operation(), error.subject()), ("pull", "tinyllama"));
        assert!(matches!(&progress[..], [Ok(begun)] if begun.status == "pulling manifest"), "{progress:?}");
    }
    let server = server(|_| FakeResponse::new(400, r#"{"error":"invalid model name"}"#)).await;
    let error = client(&server).pull("?").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_server_that_does_not_come_to_an_end_is_given_up() {
    let endless = FakeHttpServer::start(|_| FakeResponse::stream([" "]).endless()).await;
    let error = client(&endless).tags_within(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Timeout, "model_timeout"));
    assert!(error.is_temporary());
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
async fn a_running_server_is_discovered() {
    let server = server(|_| done()).await;
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
