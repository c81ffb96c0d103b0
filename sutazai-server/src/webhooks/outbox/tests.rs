//! Deliveries of a real engine to a receiver on this machine.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::Value;
use sutazai_core::{
    Orchestrator, Payload,
    agent::agent_fn,
    clock::{Clock, SystemClock, Timestamp},
    context::Context,
    task::{EventKind, TaskId, TaskRequest},
};
use tokio::sync::mpsc;

use super::*;
use crate::{
    metrics::Metrics,
    webhooks::{Policy, Sender, TIMEOUT},
};

/// What a receiver answers to the requests of its life, in order; the last one again and again.
struct Receiver {
    answers: Mutex<Vec<u16>>,
    heard: mpsc::Sender<Value>,
}

/// Starts a receiver: its address, and what it hears.
async fn receiver(answers: &[u16]) -> (String, mpsc::Receiver<Value>) {
    let (heard, hearing) = mpsc::channel(64);
    let receiver = Arc::new(Receiver { answers: Mutex::new(answers.iter().rev().copied().collect()), heard });
    let take = async |State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: String| -> Response {
        let event: Value = serde_json::from_str(&body).unwrap();
        let id = format!("{}.{}", event["task_id"].as_str().unwrap(), event["seq"]);
        assert_eq!(headers["x-sutazai-delivery"], id.as_str());
        receiver.heard.send(event).await.unwrap();
        let answer = {
            let mut answers = receiver.answers.lock().unwrap();
            if answers.len() > 1 { answers.pop() } else { answers.first().copied() }
        };
        match answer {
            Some(0) | None => std::future::pending().await,
            Some(429) => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "600")]).into_response(),
            Some(status) => StatusCode::from_u16(status).unwrap().into_response(),
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
    let outbox = Outbox::start(posting(&engine).0, Arc::default());
    (engine, outbox)
}

/// What posts an engine's events, and what counts that.
fn posting(engine: &Orchestrator) -> (Post, Arc<Metrics>) {
    let sender = Sender::new(Some("secret".into()), Policy { allow_private: true }, TIMEOUT);
    let metrics = Arc::new(Metrics::new("sutazai", ["echo"]).unwrap());
    (Post::new(Arc::clone(engine.task_store()), sender, Arc::clone(&metrics)), metrics)
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

#[tokio::test]
async fn a_receiver_that_asks_for_time_after_it_took_an_event_is_given_it() {
    let (url, mut hearing) = receiver(&[204, 429]).await;
    let (engine, outbox) = engine().await;
    let id = submit(&engine, &url).await;
    hearing.recv().await.unwrap();
    hearing.recv().await.unwrap();
    outbox.stop().await;
    let store = engine.task_store();
    let now = SystemClock.now();
    assert_eq!(store.deliveries(now.plus(590 * POLL), 9, HOLD).await.unwrap(), []);
    let due = store.deliveries(now.plus(610 * POLL), 9, HOLD).await.unwrap();
    let place: Vec<_> = due.iter().map(|delivery| (delivery.task, delivery.posted, delivery.failures)).collect();
    assert_eq!(place, [(id, 1, 1)]);
    assert!(hearing.try_recv().is_err(), "it is not asked again before");
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_holds_nobody_else_up() {
    let (silent, _keep) = receiver(&[0]).await;
    let (quick, mut hearing) = receiver(&[204]).await;
    let (engine, outbox) = engine().await;
    for _ in 0..200 {
        submit(&engine, &silent).await;
    }
    submit(&engine, &quick).await;
    while hearing.recv().await.unwrap()["type"] != "task.completed" {}
    outbox.stop().await;
}

/// A clock that jumps by a minute when it is told to, as one that counts suspended time does when the machine wakes.
struct Suspended(AtomicBool);

impl Clock for Suspended {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn random(&self) -> u64 {
        0
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed() + if self.0.load(Ordering::Relaxed) { 2 * HOLD } else { Duration::ZERO }
    }
}

#[tokio::test]
async fn who_wakes_after_its_hold_has_passed_posts_nothing() {
    let (url, mut hearing) = receiver(&[204]).await;
    let (engine, outbox) = self::engine().await;
    outbox.stop().await;
    let clock = Arc::new(Suspended(AtomicBool::new(false)));
    let (post, metrics) = posting(&engine);
    let post = post.by(Arc::clone(&clock) as _);
    let id = submit(&engine, &url).await;
    let mut hosts = Hosts::default();
    assert_eq!(take(&post, &mut hosts, 9).await, 1);
    let (_, taken) = hosts.begin(clock.elapsed()).unwrap();
    clock.0.store(true, Ordering::Relaxed);
    assert_eq!(post.deliver(taken).await, None);
    assert!(hearing.try_recv().is_err());
    // It is given back as it was, since nobody had taken it meanwhile.
    assert_eq!(take(&post, &mut hosts, 9).await, 1);
    let (_, taken) = hosts.begin(clock.elapsed()).unwrap();
    assert!(post.deliver(taken).await.is_some());
    assert_eq!(hearing.recv().await.unwrap()["task_id"], id.to_string());
    let text = metrics.text(0, None, None).unwrap();
    assert!(text.contains("sutazai_webhook_attempts_total{outcome=\"failed\"} 0"), "{text}");
    assert!(!text.contains("sutazai_webhook_attempts_total{outcome=\"delivered\"} 0"), "{text}");
}
