//! Journals: read, signal, fork, resolve, replay; and cancel under a key.

use axum::{body::Body, http::Method};
use serde_json::{Value, json};

use crate::server::{Server, server};

const NOBODY: &str = "018f0000-0000-7000-8000-000000000000";

/// A finished task of `count` recorded steps, and the folder that they need.
async fn stepped(server: &Server, count: u32) -> (String, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let id = server.submit("dev.steps", json!({"count": count, "ms": 0, "path": folder.path().join("ledger")})).await;
    assert_eq!(server.finished(&id).await["output"], json!({"steps": count}));
    (id, folder)
}

#[tokio::test]
async fn a_journal_is_read_page_by_page() {
    let server = server().await;
    let (id, _folder) = stepped(&server, 5).await;
    let path = format!("/api/v1/tasks/{id}/journal");
    let entries = server.pages(&format!("{path}?limit=2")).await;
    assert_eq!(entries.len(), 5);
    for (n, entry) in entries.iter().enumerate() {
        assert_eq!((&entry["index"], &entry["kind"], &entry["stage"]), (&json!(n), &json!("step"), &json!("done")));
        assert!(entry["name"].is_string() && entry["at"].is_string());
        assert_eq!((&entry["branch"], &entry["begun"]), (&json!(""), &Value::Null));
    }
    let exact = server.get(&format!("{path}?limit=5")).await.expect(200).json();
    assert!(exact["next_cursor"].is_null(), "nothing follows");
    server.get(&format!("{path}?limit=0")).await.problem(422, "invalid");
    server.get(&format!("{path}?cursor=AQ")).await.problem(422, "invalid");
    server.get(&format!("/api/v1/tasks/{NOBODY}/journal")).await.problem(404, "task_not_found");
    let id = server.submit("dev.echo", json!(1)).await;
    let none = server.get(&format!("/api/v1/tasks/{id}/journal")).await.expect(200).json();
    assert_eq!(none, json!({"items": [], "next_cursor": null}));
}

#[tokio::test]
async fn a_signal_wakes_a_task_once() {
    let server = server().await;
    let wait = async || server.submit("dev.wait", json!({"signal": "go", "ms": 3_600_000})).await;
    let id = wait().await;
    server.until(&id, "waiting").await;
    let open = server.get(&format!("/api/v1/tasks/{id}/journal")).await.expect(200).json();
    let open = &open["items"][0];
    assert_eq!((&open["kind"], &open["stage"], &open["outcome"]), (&json!("signal"), &json!("open"), &Value::Null));
    assert!(open["begun"]["until"].is_string(), "{open}");

    let path = format!("/api/v1/tasks/{id}/signals/go");
    let told = server.keyed(&path, "k", json!({"who": "me"})).await.expect(202);
    assert_eq!(told.json(), json!({"task_id": id, "name": "go"}));
    assert!(!told.headers.contains_key("idempotency-replayed"));
    assert_eq!(server.finished(&id).await["output"], json!({"signal": {"who": "me"}}));
    let entries = server.get(&format!("/api/v1/tasks/{id}/journal")).await.expect(200).json();
    assert_eq!(entries["items"][1]["outcome"], json!({"who": "me"}), "{entries}");
    let again = server.keyed(&path, "k", json!({"who": "me"})).await.expect(202);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    server.keyed(&path, "k", json!({"who": "you"})).await.problem(409, "idempotency_conflict");
    server.post(&path, "{}").await.problem(409, "task_finished");

    let id = wait().await;
    let path = format!("/api/v1/tasks/{id}/signals/go");
    server.ask(Method::POST, &path, &[], Body::empty()).await.expect(202);
    assert_eq!(server.finished(&id).await["output"], json!({"signal": null}));
}

#[tokio::test]
async fn a_wrong_signal_is_refused() {
    let server = server().await;
    let id = server.submit("dev.wait", json!({"signal": "go", "ms": 3_600_000})).await;
    let path = format!("/api/v1/tasks/{id}/signals/go");
    server.post(&path, "{").await.problem(400, "malformed_json");
    let text = [("content-type", "text/plain")];
    server.ask(Method::POST, &path, &text, "hello").await.problem(415, "unsupported_media_type");
    let deep = "[".repeat(1_000) + &"]".repeat(1_000);
    server.post(&path, deep).await.problem(422, "invalid");
    server.post(&path, format!("\"{}\"", "x".repeat(1 << 20))).await.problem(422, "invalid");
    let long = format!("/api/v1/tasks/{id}/signals/{}", "x".repeat(256));
    server.post(&long, "1").await.problem(422, "invalid");
    server.post(&format!("/api/v1/tasks/{id}/signals/%ff"), "1").await.problem(422, "invalid");
    server.post(&format!("/api/v1/tasks/{NOBODY}/signals/go"), "1").await.problem(404, "task_not_found");
    server.keyed(&format!("/api/v1/tasks/{NOBODY}/signals/go"), "k", json!(1)).await.problem(404, "task_not_found");
    server.keyed(&path, "with space", json!(1)).await.problem(422, "invalid");
    assert_eq!(server.until(&id, "waiting").await["output"], Value::Null);
}

#[tokio::test]
async fn a_fork_takes_over_what_came_before() {
    let server = server().await;
    let (id, _folder) = stepped(&server, 6).await;
    let path = format!("/api/v1/tasks/{id}/fork");
    let body = json!({"from": 4});
    let fork = server.keyed(&path, "k", body.clone()).await.expect(202);
    let task = fork.json();
    let forked = task["id"].as_str().unwrap();
    assert_ne!(forked, id);
    assert_eq!(fork.headers["location"], format!("/api/v1/tasks/{forked}"));
    assert_eq!(server.finished(forked).await["state"], "completed");
    let times = async |id: &str| {
        let entries = server.pages(&format!("/api/v1/tasks/{id}/journal?limit=200")).await;
        entries.iter().map(|entry| entry["at"].clone()).collect::<Vec<_>>()
    };
    let (old, new) = (times(&id).await, times(forked).await);
    assert_eq!((old[..4] == new[..4], new.len()), (true, 6), "the first four are the old ones");
    let again = server.keyed(&path, "k", body).await.expect(202);
    assert_eq!((&again.json()["id"], &again.headers["idempotency-replayed"]), (&task["id"], &"true".parse().unwrap()));
    server.keyed(&path, "k", json!({"from": 5})).await.problem(409, "idempotency_conflict");

    let beyond = server.post(&path, r#"{"from":9999}"#).await.problem(422, "invalid");
    assert_eq!(beyond["errors"][0]["path"], "/from");
    for wrong in ["{}", r#"{"from":-1}"#, r#"{"from":"0"}"#, r#"{"from":0,"other":1}"#, "[0]", "null"] {
        server.post(&path, wrong).await.problem(422, "invalid");
    }
    let problem = server.post(&path, r#"{"from":0,"input":{"count":"x"}}"#).await.problem(422, "invalid_input");
    assert_eq!(problem["errors"][0]["path"], "/input/count");
    server.post(&path, "").await.problem(400, "malformed_json");
    server.post(&format!("/api/v1/tasks/{NOBODY}/fork"), r#"{"from":0}"#).await.problem(404, "task_not_found");
}

#[tokio::test]
async fn what_nobody_knows_is_resolved_by_somebody() {
    let server = server().await;
    let undecided = async || {
        let id = server.submit("test.charge", Value::Null).await;
        assert_eq!(server.until(&id, "waiting").await["error"]["code"], "effect_unknown");
        id
    };
    let resolve = |id: &str, index: &str| format!("/api/v1/tasks/{id}/journal/{index}/resolve");
    let id = undecided().await;
    let first = resolve(&id, "0");
    for wrong in [
        "{}",
        r#"{"retry":false}"#,
        r#"{"retry":true,"fail":"x"}"#,
        r#"{"outcome":1,"retry":true}"#,
        r#"{"fail":1}"#,
        r#"{"other":1}"#,
    ] {
        server.post(&first, wrong).await.problem(422, "invalid");
    }
    for index in ["7", "-1", "x", "99999999999999999999"] {
        server.post(&resolve(&id, index), r#"{"retry":true}"#).await.problem(404, "entry_not_found");
    }
    server.keyed(&first, "k", json!({"outcome": {"charged": true}})).await.expect(202);
    assert_eq!(server.finished(&id).await["output"], json!({"charged": true}));
    let again = server.keyed(&first, "k", json!({"outcome": {"charged": true}})).await.expect(202);
    assert_eq!((again.headers["idempotency-replayed"].as_bytes(), &again.json()["id"]), (&b"true"[..], &json!(id)));
    server.post(&first, r#"{"retry":true}"#).await.problem(409, "nothing_to_resolve");
    server.post(&resolve(NOBODY, "0"), r#"{"retry":true}"#).await.problem(404, "task_not_found");

    // `null` is an outcome too.
    let id = undecided().await;
    server.post(&resolve(&id, "0"), r#"{"outcome":null}"#).await.expect(202);
    assert_eq!(server.finished(&id).await["state"], "completed");

    // A retry runs into the same again, under another index, and may then be given up.
    let id = undecided().await;
    server.post(&resolve(&id, "0"), r#"{"retry":true}"#).await.expect(202);
    let events = loop {
        let events = server.pages(&format!("/api/v1/tasks/{id}/journal?limit=200")).await;
        if events.len() == 3 {
            break events;
        }
        tokio::task::yield_now().await;
    };
    let stages: Vec<_> = events.iter().map(|entry| entry["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["open", "retracted", "open"]);
    server.until(&id, "waiting").await;
    server.post(&resolve(&id, "0"), r#"{"fail":"no money"}"#).await.problem(404, "entry_not_found");
    server.post(&resolve(&id, "2"), r#"{"fail":"no money"}"#).await.expect(202);
    let failed = server.finished(&id).await;
    assert_eq!(failed["error"], json!({"code": "effect_failed", "message": "no money"}));
}

#[tokio::test]
async fn a_recorded_run_is_replayed_and_kept() {
    let server = server().await;
    let (id, _folder) = stepped(&server, 3).await;
    let replay = format!("/api/v1/tasks/{id}/replay");
    let report = server.ask(Method::POST, &replay, &[], Body::empty()).await.expect(200).json();
    let expected = json!({"matches": true, "divergence": null, "beyond": null, "output": {"steps": 3}, "error": null, "entries": 3});
    assert_eq!(report, expected);
    let cassette = server.get(&format!("/api/v1/tasks/{id}/cassette")).await.expect(200).json();
    assert_eq!((&cassette["version"], &cassette["agent"]), (&json!(1), &json!("dev.steps")));
    assert_eq!(cassette["journal"].as_array().map(Vec::len), Some(3));
    let missing = format!("/api/v1/tasks/{NOBODY}/replay");
    server.ask(Method::POST, &missing, &[], Body::empty()).await.problem(404, "task_not_found");
    server.get(&format!("/api/v1/tasks/{NOBODY}/cassette")).await.problem(404, "task_not_found");
}

#[tokio::test]
async fn a_task_is_cancelled_once_for_a_key() {
    let server = server().await;
    let id = server.submit("dev.sleep", json!({"ms": 600_000})).await;
    let cancel = format!("/api/v1/tasks/{id}/cancel");
    let first = server.keyed(&cancel, "k", Value::Null).await.expect(202);
    assert!(!first.headers.contains_key("idempotency-replayed"));
    let again = server.keyed(&cancel, "k", Value::Null).await.expect(202);
    assert_eq!(
        (again.headers["idempotency-replayed"].as_bytes(), &again.json()["state"]),
        (&b"true"[..], &json!("cancelled"))
    );
    server.keyed(&cancel, "other", Value::Null).await.problem(409, "task_finished");
    let other = server.submit("dev.sleep", json!({"ms": 600_000})).await;
    let cancel = format!("/api/v1/tasks/{other}/cancel");
    server.keyed(&cancel, "k", Value::Null).await.problem(409, "idempotency_conflict");
}
