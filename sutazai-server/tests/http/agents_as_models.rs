//! Agents that are asked as models, and what becomes of an answer when its client goes away.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    body::Body,
    http::{Method, Request},
};
use futures_util::{StreamExt, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sutazai_core::{
    Result,
    agent::{Agent, AgentError, agent_fn},
    context::Context,
    memory::ScriptedChat,
    model::{ChatEvent, ChatModel, ChatRequest, ChatStream, ModelCapabilities, ModelInfo},
};
use sutazai_server::http::{Options, serve};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tower::ServiceExt;

use crate::{
    models::{data, lines, question},
    server::{Server, server_with, state_with},
};

#[derive(Deserialize, JsonSchema)]
struct Question {
    text: String,
}

#[derive(Serialize, JsonSchema)]
struct Opinion {
    answer: String,
    sure: bool,
}

/// An agent that has an answer to everything but one, and takes its time for it.
pub(crate) fn oracle() -> impl Agent {
    agent_fn("test.oracle", |_context: Context, question: Question| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        match &*question.text {
            "Why?" => Err(AgentError::permanent("no_idea", "nobody knows")),
            text => Ok(Opinion { answer: format!("{text} Yes."), sure: false }),
        }
    })
}

async fn consulted() -> Server {
    server_with(Options::default(), |builder| {
        builder.agent(oracle()).chat_model(Arc::new(ScriptedChat::new("actor").otherwise("no")))
    })
    .await
}

fn asking(text: &str, more: Value) -> String {
    let mut body = json!({"model": "agent:test.oracle", "messages": [
        {"role": "user", "content": "Before?"}, {"role": "assistant", "content": "Before."}, {"role": "user", "content": text},
    ]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

#[tokio::test]
async fn an_agent_answers_as_a_model_does() {
    let server = consulted().await;
    let answer = server.post("/v1/chat/completions", asking("Shall I?", json!({}))).await.expect(200);
    let id = answer.headers["x-sutazai-task-id"].to_str().unwrap();
    assert_eq!(answer.headers["x-sutazai-model"], "agent:test.oracle");
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "Shall I? Yes.");
    let task = server.finished(id).await;
    assert_eq!((&task["state"], &task["input"]), (&json!("completed"), &json!({"text": "Shall I?"})));

    let stream = server.post("/v1/chat/completions", asking("Shall I?", json!({"stream": true}))).await.expect(200);
    assert!(stream.headers.contains_key("x-sutazai-task-id"));
    let data = data(&stream);
    let piece: Value = serde_json::from_str(&data[1]).unwrap();
    assert_eq!(piece["choices"][0]["delta"]["content"], "Shall I? Yes.");
    assert_eq!(data.last().unwrap(), "[DONE]");
    let lines = lines(&server.post("/api/chat", asking("Shall I?", json!({}))).await.expect(200));
    assert_eq!((&lines[0]["message"]["content"], &lines[1]["done"]), (&json!("Shall I? Yes."), &json!(true)));
}

#[tokio::test]
async fn an_agent_that_fails_names_its_task() {
    let server = consulted().await;
    let answer = server.post("/v1/chat/completions", asking("Why?", json!({}))).await.expect(424);
    let id = answer.headers["x-sutazai-task-id"].to_str().unwrap().to_owned();
    let error = &answer.json()["error"];
    assert_eq!((&error["code"], &error["type"]), (&json!("task_failed"), &json!("server_error")));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&id) && message.contains("no_idea: nobody knows"), "{message}");
    assert_eq!(server.finished(&id).await["state"], "failed");
    let lines = lines(&server.post("/api/chat", asking("Why?", json!({}))).await.expect(200));
    assert!(lines[0]["error"].as_str().unwrap().contains("nobody knows"));
}

#[tokio::test]
async fn an_agent_is_asked_with_the_last_message_of_the_user() {
    let server = consulted().await;
    let param = async |more: Value, status: u16| {
        let answer = server.post("/v1/chat/completions", asking("Shall I?", more)).await.expect(status);
        assert!(!answer.headers.contains_key("x-sutazai-task-id"));
        answer.json()["error"]["param"].as_str().unwrap().to_owned()
    };
    assert_eq!(param(json!({"model": "agent:dev.sleep"}), 400).await, "model");
    assert_eq!(param(json!({"model": "agent:dev.echo"}), 400).await, "model");
    assert_eq!(param(json!({"model": "agent:nobody"}), 404).await, "model");
    let system = json!({"messages": [{"role": "system", "content": "Answer."}]});
    assert_eq!(param(system, 400).await, "messages");
}

#[tokio::test]
async fn a_key_makes_repetitions_one_task() {
    let server = consulted().await;
    let headers = [("content-type", "application/json"), ("idempotency-key", "k")];
    let ask =
        async |text: &str| server.ask(Method::POST, "/v1/chat/completions", &headers, asking(text, json!({}))).await;
    let (first, again) = (ask("Shall I?").await.expect(200), ask("Shall I?").await.expect(200));
    assert_eq!(first.headers["x-sutazai-task-id"], again.headers["x-sutazai-task-id"]);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert!(!first.headers.contains_key("idempotency-replayed"));
    let other = ask("Shall he?").await.expect(409).json();
    assert_eq!(other["error"]["code"], "idempotency_conflict");
}

#[tokio::test]
async fn a_task_goes_on_when_its_client_goes_away() {
    let server = consulted().await;
    let request =
        Request::post("/v1/chat/completions").header("host", "localhost").header("content-type", "application/json");
    let request = request.body(Body::from(asking("Shall I?", json!({"stream": true})))).unwrap();
    let response = server.router.clone().oneshot(request).await.unwrap();
    let id = response.headers()["x-sutazai-task-id"].to_str().unwrap().to_owned();
    drop(response);
    assert_eq!(server.finished(&id).await["output"]["answer"], "Shall I? Yes.");
}

/// A model that never ends, and says when it begins and when it is dropped.
pub(crate) struct Endless {
    info: ModelInfo,
    pub(crate) begun: Arc<Notify>,
    pub(crate) gone: Arc<Notify>,
}

struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Endless {
    pub(crate) fn new() -> Self {
        let capabilities = ModelCapabilities { chat: true, ..ModelCapabilities::NONE };
        let info = ModelInfo { capabilities, ..ModelInfo::new("actor", "endless", 8_192) };
        Self { info, begun: Arc::default(), gone: Arc::default() }
    }
}

#[async_trait]
impl ChatModel for Endless {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn chat(&self, _request: ChatRequest) -> Result<ChatStream> {
        let alive = Dropped(Arc::clone(&self.gone));
        self.begun.notify_one();
        let events = stream::unfold(alive, |alive| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Some((Ok(ChatEvent::Text("on and ".into())), alive))
        });
        Ok(ChatStream::new(&self.info, events))
    }
}

pub(crate) async fn within<T>(time: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), time).await.expect("it goes on although nobody listens")
}

#[tokio::test]
async fn an_answer_ends_when_its_client_goes_away() {
    let model = Arc::new(Endless::new());
    let (begun, gone) = (Arc::clone(&model.begun), Arc::clone(&model.gone));
    let server = server_with(Options::default(), |builder| builder.chat_model(model)).await;
    for (path, streamed) in
        [("/v1/chat/completions", true), ("/v1/chat/completions", false), ("/api/chat", true), ("/api/chat", false)]
    {
        let request = Request::post(path).header("host", "localhost").header("content-type", "application/json");
        let request = request.body(Body::from(question(json!({"stream": streamed})))).unwrap();
        let answering = tokio::spawn(server.router.clone().oneshot(request));
        within(begun.notified()).await;
        if streamed {
            let mut body = within(answering).await.unwrap().unwrap().into_body().into_data_stream();
            for _ in 0..3 {
                within(body.next()).await.unwrap().unwrap();
            }
        } else {
            answering.abort();
        }
        within(gone.notified()).await;
    }
}

#[tokio::test]
async fn an_answer_ends_when_its_connection_is_cut() {
    let model = Arc::new(Endless::new());
    let (begun, gone) = (Arc::clone(&model.begun), Arc::clone(&model.gone));
    let state = state_with(Options::default(), |builder| builder.chat_model(model)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve(listener, state, std::future::pending()));
    for streamed in [true, false] {
        let body = question(json!({"stream": streamed}));
        let mut connection = TcpStream::connect(address).await.unwrap();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        connection.write_all(request.as_bytes()).await.unwrap();
        within(begun.notified()).await;
        drop(connection);
        within(gone.notified()).await;
    }
    serving.abort();
}
