//! Webhooks that were given up: look, requeue, discard.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, http::Method};
use serde_json::{Value, json};
use sutazai_core::{
    clock::{Clock, SystemClock},
    memory::MemoryTaskStore,
    store::{Posted, TaskStore},
};
use sutazai_server::http::Options;

use crate::server::{Server, server_with};

const PATH: &str = "/api/v1/webhooks/dead-letters";

/// A server that posts nothing, and its store.
async fn silent() -> (Server, Arc<dyn TaskStore>) {
    let store: Arc<dyn TaskStore> = Arc::new(MemoryTaskStore::new());
    let options = Options { webhook_secret: Some("s3cret".into()), webhook_allow_private: true, ..Options::default() };
    let shared = Arc::clone(&store);
    (server_with(options, |builder| builder.shared_store(shared)).await, store)
}

/// Gives up what is due, after its first event.
async fn give_up(store: &dyn TaskStore) {
    for delivery in store.deliveries(SystemClock.now(), 100, Duration::ZERO).await.unwrap() {
        let what = Posted::GivenUp { posted: 1, failures: 12, why: "12 attempts failed".to_owned() };
        assert!(store.posted(&delivery, &what, SystemClock.now()).await.unwrap());
    }
}

#[tokio::test]
async fn what_was_given_up_is_listed_requeued_and_discarded() {
    let (server, store) = silent().await;
    let mut ids = Vec::new();
    for n in 0..3 {
        let body = json!({"agent": "dev.fail", "input": {"times": 9, "message": "never"}, "retry": {"max_attempts": 1},
            "webhook": {"url": format!("http://127.0.0.1:9/hook/whsec{n}?token=whsec")}});
        let task = server.post("/api/v1/tasks", body.to_string()).await.expect(202).json();
        ids.push(task["id"].as_str().unwrap().to_owned());
        server.finished(&ids[n]).await;
    }
    assert_eq!(server.pages(PATH).await, Vec::<Value>::new());
    give_up(&*store).await;
    let listed = server.pages(&format!("{PATH}?limit=2")).await;
    let found: Vec<_> = listed.iter().rev().map(|letter| letter["task_id"].as_str().unwrap()).collect();
    assert_eq!(found, ids, "newest first, each once");
    let letter = json!({"task_id": ids[2], "target": "http://127.0.0.1:9", "posted": 1, "failures": 12,
        "reason": "12 attempts failed"});
    assert_eq!(listed[0], letter, "the rest of a URL may be a secret");
    for wrong in ["limit=0", "agent=x", "cursor=AQ"] {
        server.get(&format!("{PATH}?{wrong}")).await.problem(422, "invalid");
    }

    let requeue = |n: usize| format!("{PATH}/{}/requeue", ids[n]);
    let task = server.keyed(&requeue(0), "k", Value::Null).await.expect(202).json();
    assert_eq!((&task["id"], &task["state"]), (&json!(ids[0]), &json!("failed")));
    let again = server.keyed(&requeue(0), "k", Value::Null).await.expect(202);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    server.ask(Method::POST, &requeue(0), &[], Body::empty()).await.problem(409, "not_a_webhook_dead_letter");
    let delete = async |n: usize, key: Option<&'static str>| {
        let key = key.map(|key| ("idempotency-key", key));
        server.ask(Method::DELETE, &format!("{PATH}/{}", ids[n]), key.as_slice(), Body::empty()).await
    };
    let first = delete(1, Some("d")).await.expect(204);
    let again = delete(1, Some("d")).await.expect(204);
    assert!(!first.headers.contains_key("idempotency-replayed"));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert!(first.body.is_empty() && again.body.is_empty());
    delete(2, Some("d")).await.problem(409, "idempotency_conflict");
    delete(1, None).await.problem(409, "not_a_webhook_dead_letter");
    let due = store.deliveries(SystemClock.now(), 100, Duration::ZERO).await.unwrap();
    let due: Vec<_> = due.iter().map(|delivery| (delivery.task.to_string(), delivery.posted)).collect();
    assert_eq!(due, [(ids[0].clone(), 1)], "one goes on where it stood, the other has nothing left to post");

    // Whoever requeues the task itself has its events posted again.
    server.post(&format!("/api/v1/dead-letters/{}/requeue", ids[2]), "{}").await.expect(202);
    assert_eq!(server.pages(PATH).await, Vec::<Value>::new());

    let metrics = server.get("/metrics").await.expect(200).text();
    for event in ["requeued", "discarded"] {
        let line = format!("sutazai_webhook_dead_letters_total{{event=\"{event}\"}} 1");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    let nobody = "018f0000-0000-7000-8000-000000000000";
    server.post(&format!("{PATH}/{nobody}/requeue"), "").await.problem(404, "task_not_found");
    server.ask(Method::DELETE, &format!("{PATH}/{nobody}"), &[], Body::empty()).await.problem(404, "task_not_found");
}
