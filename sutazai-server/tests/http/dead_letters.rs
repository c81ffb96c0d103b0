//! Dead letters: look, requeue, discard.

use axum::{body::Body, http::Method};
use serde_json::{Value, json};

use crate::server::{Server, events, server};

/// A task that has failed after two attempts.
async fn dead(server: &Server, labels: Value, tenant: &str) -> String {
    let body = json!({"agent": "dev.fail", "input": {"times": 9, "message": "never"}, "labels": labels, "tenant": tenant,
        "retry": {"max_attempts": 2, "initial_ms": 0, "max_ms": 0}});
    let task = server.post("/api/v1/tasks", body.to_string()).await.expect(202).json();
    let id = task["id"].as_str().unwrap().to_owned();
    assert_eq!(server.finished(&id).await["state"], "failed");
    id
}

#[tokio::test]
async fn dead_letters_are_listed_with_every_error() {
    let server = server().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let tenant = if n == 0 { "other" } else { "default" };
        ids.push(dead(&server, json!({"set": format!("s{}", n % 2)}), tenant).await);
    }
    server.submit("dev.echo", json!(1)).await;
    let listed = server.pages("/api/v1/dead-letters?limit=2").await;
    let found: Vec<_> = listed.iter().rev().map(|letter| letter["id"].as_str().unwrap()).collect();
    assert_eq!(found, ids, "newest first, each once");
    let letter = &listed[0];
    let error = json!({"code": "dev_fail", "message": "never"});
    let attempts = letter["attempts"].as_array().unwrap();
    assert_eq!(attempts.iter().map(|one| &one["attempt"]).collect::<Vec<_>>(), [1, 2]);
    assert!(attempts.iter().all(|one| one["error"] == error && one["at"].is_string()), "{letter}");
    assert_eq!((&letter["state"], &letter["input"]["times"]), (&json!("failed"), &json!(9)));
    assert_eq!(*letter, server.get(&format!("/api/v1/dead-letters/{}", ids[4])).await.expect(200).json());
    let count = async |query: &str| server.pages(&format!("/api/v1/dead-letters?{query}")).await.len();
    assert_eq!([count("label=set:s1").await, count("tenant=other").await, count("agent=dev.echo").await], [2, 1, 0]);

    for wrong in ["limit=0", "label=x", "state=failed", "cursor=AQ"] {
        server.get(&format!("/api/v1/dead-letters?{wrong}")).await.problem(422, "invalid");
    }
    let fine = server.submit("dev.echo", json!(1)).await;
    server.finished(&fine).await;
    server.get(&format!("/api/v1/dead-letters/{fine}")).await.problem(404, "dead_letter_not_found");
    server.get("/api/v1/dead-letters/x").await.problem(404, "task_not_found");
}

#[tokio::test]
async fn a_dead_letter_starts_again_under_its_id() {
    let server = server().await;
    let id = dead(&server, json!({}), "t").await;
    let path = format!("/api/v1/dead-letters/{id}/requeue");
    let problem = server.post(&path, r#"{"input":{"times":"x"}}"#).await.problem(422, "invalid_input");
    assert_eq!(problem["errors"][0]["path"], "/input/times");
    for wrong in [r#"{"deadline":"soon"}"#, r#"{"other":1}"#, "[]"] {
        server.post(&path, wrong).await.problem(422, "invalid");
    }
    let text = [("content-type", "text/plain")];
    server.ask(Method::POST, &path, &text, "x").await.problem(415, "unsupported_media_type");
    let body = json!({"input": {"times": 0}, "deadline": "2099-01-01T00:00:00.000Z"});
    let requeued = server.keyed(&path, "k", body.clone()).await.expect(202).json();
    assert_eq!((&requeued["id"], &requeued["deadline"]), (&json!(id), &body["deadline"]));
    let done = server.finished(&id).await;
    assert_eq!(
        (&done["state"], &done["output"], &done["attempt"]),
        (&json!("completed"), &json!({"attempts": 1}), &json!(1))
    );
    let again = server.keyed(&path, "k", body).await.expect(202);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    server.keyed(&path, "k", Value::Null).await.problem(409, "idempotency_conflict");
    server.ask(Method::POST, &path, &[], Body::empty()).await.problem(409, "not_a_dead_letter");
    let stream = server.get(&format!("/api/v1/tasks/{id}/events")).await.expect(200).text();
    let names: Vec<_> = events(&stream).into_iter().map(|(_, name, _)| name).collect();
    assert_eq!(names.iter().filter(|name| *name == "task.failed").count(), 1);
    assert!(names.contains(&"task.requeued".to_owned()) && names.last().unwrap() == "task.completed", "{names:?}");
    let nobody = "/api/v1/dead-letters/018f0000-0000-7000-8000-000000000000/requeue";
    server.post(nobody, "{}").await.problem(404, "task_not_found");
}

#[tokio::test]
async fn attempts_are_those_since_the_requeue() {
    let server = server().await;
    let id = dead(&server, json!({}), "t").await;
    server.ask(Method::POST, &format!("/api/v1/dead-letters/{id}/requeue"), &[], Body::empty()).await.expect(202);
    assert_eq!(server.finished(&id).await["state"], "failed");
    let letter = server.get(&format!("/api/v1/dead-letters/{id}")).await.expect(200).json();
    assert_eq!(letter["attempts"].as_array().map(Vec::len), Some(2), "{letter}");
}

#[tokio::test]
async fn what_is_discarded_is_no_dead_letter() {
    let server = server().await;
    let id = dead(&server, json!({}), "t").await;
    let path = format!("/api/v1/dead-letters/{id}");
    let keyed = [("idempotency-key", "k")];
    let gone = server.ask(Method::DELETE, &path, &keyed, Body::empty()).await.expect(204);
    assert!(gone.body.is_empty());
    let again = server.ask(Method::DELETE, &path, &keyed, Body::empty()).await.expect(204);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    server.delete(&path).await.problem(409, "not_a_dead_letter");
    server.get(&path).await.problem(404, "dead_letter_not_found");
    assert!(server.pages("/api/v1/dead-letters?limit=9").await.is_empty());
    server.post(&format!("{path}/requeue"), "{}").await.problem(409, "not_a_dead_letter");
    let stream = server.get(&format!("/api/v1/tasks/{id}/events")).await.expect(200).text();
    assert_eq!(events(&stream).last().unwrap().1, "task.discarded");
    server.delete("/api/v1/dead-letters/x").await.problem(404, "task_not_found");
}

#[tokio::test]
async fn many_start_again_at_once() {
    let server = server().await;
    for n in 0..6 {
        dead(&server, json!({"set": format!("s{}", n % 2)}), "t").await;
    }
    let path = "/api/v1/dead-letters/requeue";
    let body = json!({"label": "set:s1"});
    assert_eq!(server.keyed(path, "k", body.clone()).await.expect(202).json(), json!({"requeued": 3}));
    let again = server.keyed(path, "k", body).await.expect(202);
    assert_eq!(
        (again.headers["idempotency-replayed"].as_bytes(), again.json()),
        (&b"true"[..], json!({"requeued": 3}))
    );
    server.keyed(path, "k", json!({})).await.problem(409, "idempotency_conflict");
    // Another tenant's keys are its own.
    let none = json!({"tenant": "nobody"});
    assert_eq!(server.keyed(path, "k", none).await.expect(202).json(), json!({"requeued": 0}));
    let fitting = json!({"tenant": "t", "agent": "dev.fail", "label": "set:s0"});
    assert_eq!(server.post(path, fitting.to_string()).await.expect(202).json(), json!({"requeued": 3}));
    for wrong in [r#"{"label":"x"}"#, r#"{"label":1}"#, r#"{"id":"x"}"#, "[]"] {
        server.post(path, wrong).await.problem(422, "invalid");
    }
    server.post(path, "").await.problem(400, "malformed_json");
}
