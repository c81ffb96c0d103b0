//! A server without a socket, and short ways to ask it.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode},
};
use serde_json::Value;
use sutazai_core::{
    Orchestrator,
    agent::{Agent, agent_fn},
    context::Context,
    engine::OrchestratorBuilder,
    memory::MemoryTaskStore,
};
use sutazai_server::{
    dev_agents::dev_agents,
    http::{AppState, Options, router},
    metrics::Metrics,
};
use tower::ServiceExt;

pub(crate) struct Server {
    pub(crate) router: Router,
}

/// The state of a server with the agents for tests over a store in memory.
pub(crate) async fn state(options: Options) -> AppState {
    state_with(options, |builder| builder).await
}

/// The same with an engine of some other kind.
pub(crate) async fn state_with(
    options: Options,
    change: impl FnOnce(OrchestratorBuilder) -> OrchestratorBuilder,
) -> AppState {
    let agents = dev_agents();
    let metrics =
        Arc::new(Metrics::new("sutazai", agents.iter().map(|agent| agent.descriptor().name.clone())).unwrap());
    let observer = Arc::clone(&metrics);
    let builder =
        Orchestrator::builder().agents(agents).agent(charge()).store(MemoryTaskStore::new()).observer(observer);
    AppState::new(change(builder).start().await.unwrap(), metrics, options)
}

/// An agent whose one step does harm if it is done twice, and is always cut short.
fn charge() -> impl Agent {
    agent_fn("test.charge", |context: Context, (): ()| async move {
        let charge = || async {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            Ok(Value::Null)
        };
        context.step("charge", charge).destructive().timeout(Duration::from_millis(5)).await
    })
}

pub(crate) async fn server() -> Server {
    Server { router: router(state(Options::default()).await) }
}

pub(crate) async fn server_with(
    options: Options,
    change: impl FnOnce(OrchestratorBuilder) -> OrchestratorBuilder,
) -> Server {
    Server { router: router(state_with(options, change).await) }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{:.500}", self.text());
        self
    }

    /// A problem document with this status and code.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Value {
        let answer = self.expect(status);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        let document = answer.json();
        assert_eq!(document["status"], status);
        assert_eq!(document["code"], code, "{document}");
        assert_eq!(document["request_id"], answer.headers["x-request-id"].to_str().unwrap());
        assert!(document["title"].is_string() && document["detail"].is_string());
        assert_eq!(document["type"], format!("/docs/errors#{code}"));
        document
    }
}

impl Server {
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.ask(Method::POST, path, &[("content-type", "application/json")], body).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::PUT, path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask(Method::DELETE, path, &[], Body::empty()).await
    }

    /// Posts JSON, or nothing for `null`, under an idempotency key.
    pub(crate) async fn keyed(&self, path: &str, key: &str, body: Value) -> Answer {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let body = if body.is_null() { Body::empty() } else { body.to_string().into() };
        self.ask(Method::POST, path, &headers, body).await
    }

    /// Every item of a list, page by page; `path` has a query already.
    pub(crate) async fn pages(&self, path: &str) -> Vec<Value> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}{cursor}")).await.expect(200).json();
            items.extend(page["items"].as_array().unwrap().clone());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return items,
            }
        }
    }

    /// The task once it is in this state.
    pub(crate) async fn until(&self, id: &str, state: &str) -> Value {
        loop {
            let task = self.get(&format!("/api/v1/tasks/{id}")).await.expect(200).json();
            if task["state"] == state {
                return task;
            }
            assert!(task["finished_at"].is_null(), "not {state} but {task}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn submit(&self, agent: &str, input: Value) -> String {
        let body = serde_json::json!({"agent": agent, "input": input}).to_string();
        let task = self.post("/api/v1/tasks", body).await.expect(202).json();
        task["id"].as_str().unwrap().to_owned()
    }

    /// The task at its end.
    pub(crate) async fn finished(&self, id: &str) -> Value {
        let task = self.get(&format!("/api/v1/tasks/{id}?wait=60s")).await.expect(200).json();
        assert!(!task["finished_at"].is_null(), "{task}");
        task
    }
}

/// The events of a stream that has ended, each as its fields.
pub(crate) fn events(stream: &str) -> Vec<(u64, String, Value)> {
    let field = |block: &str, name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim_start().to_owned())
    };
    stream
        .split("\n\n")
        .filter_map(|block| {
            let data = serde_json::from_str(&field(block, "data:")?).unwrap();
            Some((field(block, "id:").unwrap().parse().unwrap(), field(block, "event:").unwrap(), data))
        })
        .collect()
}
