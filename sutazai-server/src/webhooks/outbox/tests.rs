//! Deliveries of a real engine to a receiver on this machine.

use std::sync::Mutex;

use axum::{Router, extract::State, http::StatusCode, routing::post};
use serde_json::Value;
use sutazai_core::{
    Orchestrator,
    agent::agent_fn,
    context::Context,
    task::{TaskId, TaskRequest},
};
use tokio::sync::mpsc;

use super::*;
use crate::webhooks::Policy;

/// What a receiver answers to the requests of its life, in order; the last one again and again.
struct Receiver {
    answers: Mutex<Vec<u16>>,
    heard: mpsc::Sender<Value>,
}

/// Starts a receiver: its address, and what it hears.
async fn receiver(answers: &[u16]) -> (String, mpsc::Receiver<Value>) {
    let (heard, hearing) = mpsc::channel(64);
    let receiver = Arc::new(Receiver { answers: Mutex::new(answers.iter().rev().copied().collect()), heard });
    let take = async |State(receiver): State<Arc<Receiver>>, body: String| {
        receiver.heard.send(serde_json::from_str(&body).unwrap()).await.unwrap();
        let answer = {
            let mut answers = receiver.answers.lock().unwrap();
            if answers.len() > 1 { answers.pop() } else { answers.first().copied() }
        };
        match answer {
            Some(0) | None => std::future::pending().await,
            Some(status) => StatusCode::from_u16(status).unwrap(),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(
        async move { axum::serve(listener, Router::new().route("/hook", post(take)).with_state(receiver)).await },
    );
    (url, hearing)
}

/// An engine in memory whose one agent reports progress, and what delivers its events.
async fn engine() -> (Orchestrator, Outbox) {
    let work = |context: Context, input: Value| async move {
        context.progress(Some(0.5), "half");
        Ok(input)
    };
    let agent = agent_fn("echo", work);
    let engine = Orchestrator::builder().agent(agent).start().await.unwrap();
    let sender = Sender::new(Some("secret".into()), Policy { allow_private: true }, TIMEOUT);
    let outbox = Outbox::start(Arc::clone(engine.task_store()), sender, Arc::default());
    (engine, outbox)
}

async fn submit(engine: &Orchestrator, url: &str) -> TaskId {
    let request = TaskRequest::new("echo", Payload::null()).webhook(url);
    engine.submit_request(request).await.unwrap().task.id
}

#[tokio::test]
async fn every_event_but_progress_is_posted_in_order_and_a_failure_holds_back_what_follows() {
    let (url, mut hearing) = receiver(&[204, 500, 204]).await;
    let (engine, outbox) = engine().await;
    let id = submit(&engine, &url).await;
    let mut heard = Vec::new();
    while heard.last().is_none_or(|event: &Value| event["type"] != "task.completed") {
        heard.push(hearing.recv().await.unwrap());
    }
    outbox.stop().await;
    assert_eq!(heard[1]["seq"], heard[2]["seq"], "what failed is posted again before anything else: {heard:?}");
    heard.remove(1);
    let told: Vec<_> = engine.task_store().events(id, 0, 100).await.unwrap();
    let told = told.iter().filter(|event| !matches!(event.kind, EventKind::Progress(_)));
    let told: Vec<Value> = told.map(|event| serde_json::to_value(event).unwrap()).collect();
    assert_eq!(heard, told);
    let due = engine.task_store().deliveries(SystemClock.now().plus(10 * HOLD), 9, HOLD).await.unwrap();
    assert_eq!(due, [], "all is posted");
}

#[tokio::test]
async fn a_receiver_that_is_gone_for_good_is_given_up() {
    let (url, mut hearing) = receiver(&[410]).await;
    let (engine, outbox) = engine().await;
    let id = submit(&engine, &url).await;
    hearing.recv().await.unwrap();
    let store = engine.task_store();
    let given_up = loop {
        let mut page = store.undelivered(None, 9).await.unwrap();
        if let Some(delivery) = page.items.pop() {
            break delivery;
        }
        tokio::task::yield_now().await;
    };
    outbox.stop().await;
    assert_eq!((given_up.task, given_up.posted), (id, 0));
    assert!(given_up.given_up.is_some_and(|why| why.contains("410")));
    assert!(hearing.try_recv().is_err(), "nothing follows");
}

#[tokio::test]
async fn an_attempt_that_is_cut_short_is_somebody_else_s_at_once() {
    let (url, mut hearing) = receiver(&[204, 0]).await;
    let (engine, outbox) = engine().await;
    let id = submit(&engine, &url).await;
    hearing.recv().await.unwrap();
    hearing.recv().await.unwrap();
    outbox.stop().await;
    let due = engine.task_store().deliveries(SystemClock.now(), 9, HOLD).await.unwrap();
    assert_eq!(due.iter().map(|delivery| (delivery.task, delivery.failures)).collect::<Vec<_>>(), [(id, 0)]);
    assert_eq!(due[0].posted, 1, "what was answered is noted");
}
