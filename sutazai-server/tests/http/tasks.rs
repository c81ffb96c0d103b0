//! Tasks: submit, batch, idempotency, lists, long polls, events, cancel.

use std::collections::BTreeSet;

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request},
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::server::{events, server};

#[tokio::test]
async fn a_task_goes_its_way() {
    let server = server().await;
    let body = r#"{"agent":"dev.echo","input":{"x":[1,"ü",null]},"priority":7,"labels":{"team":"a"},"deadline":"2099-01-01T00:00:00+01:00"}"#;
    let answer = server.post("/api/v1/tasks", body).await.expect(202);
    let task = answer.json();
    let id = task["id"].as_str().unwrap();
    assert_eq!(answer.headers["location"], format!("/api/v1/tasks/{id}"));
    assert!(!answer.headers.contains_key("idempotency-replayed"));
    let done = server.finished(id).await;
    let fields: BTreeSet<_> = done.as_object().unwrap().keys().map(String::as_str).collect();
    let contract = "id agent state priority tenant labels input output error attempt max_attempts progress created_at started_at finished_at deadline parent_id";
    assert_eq!(fields, contract.split(' ').collect());
    assert_eq!(done["state"], "completed");
    assert_eq!(done["output"], json!({"x": [1, "ü", null]}));
    assert_eq!(
        (&done["priority"], &done["tenant"], &done["labels"]),
        (&json!(7), &json!("default"), &json!({"team": "a"}))
    );
    assert_eq!((&done["attempt"], &done["max_attempts"]), (&json!(1), &json!(3)));
    assert_eq!(done["deadline"], "2098-12-31T23:00:00.000Z");
    assert_eq!((&done["error"], &done["progress"], &done["parent_id"]), (&Value::Null, &Value::Null, &Value::Null));
}

#[tokio::test]
async fn the_same_key_is_the_same_task() {
    let server = server().await;
    let submit = async |body: &'static str, key: &str| {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        server.ask(Method::POST, "/api/v1/tasks", &headers, body).await
    };
    let first = submit(r#"{"agent":"dev.echo","input":{"a":1,"b":2}}"#, "k").await.expect(202);
    let again = submit(r#"{"input":{"b":2, "a":1}, "agent":"dev.echo"}"#, "k").await.expect(202);
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.headers["location"], first.headers["location"]);
    submit(r#"{"agent":"dev.echo","input":{"a":2}}"#, "k").await.problem(409, "idempotency_conflict");
    submit(r#"{"agent":"dev.echo","input":{}}"#, &"x".repeat(256)).await.problem(422, "invalid");
    submit(r#"{"agent":"dev.echo","input":{}}"#, "with space").await.problem(422, "invalid");
    submit(r#"{"agent":"dev.echo","input":{},"idempotency_key":"k2"}"#, "k2").await.problem(422, "invalid");
}

#[tokio::test]
async fn members_of_a_batch_fail_one_by_one() {
    let server = server().await;
    let batch = json!({"tasks": [
        {"agent": "dev.echo", "input": {"n": 0}},
        {"agent": "nobody", "input": {}},
        {"agent": "dev.echo", "input": {"n": 2}, "priority": 11},
        {"agent": "dev.sleep", "input": {"ms": "soon"}},
        {"agent": "dev.echo", "input": {"n": 4}, "idempotency_key": "k"},
        {"agent": "dev.echo", "input": {"n": 4}, "idempotency_key": "k"},
        {"agent": "dev.echo", "input": {"n": 5}, "idempotency_key": "k"},
        [],
    ]});
    let items = server.post("/api/v1/tasks/batch", batch.to_string()).await.expect(202).json();
    let items = items["items"].as_array().unwrap();
    assert_eq!(items.len(), 8);
    assert_eq!(server.finished(items[0]["task"]["id"].as_str().unwrap()).await["output"], json!({"n": 0}));
    let error = |n: usize| (items[n]["error"]["status"].as_u64().unwrap(), items[n]["error"]["code"].as_str().unwrap());
    assert_eq!(error(1), (422, "agent_not_found"));
    assert_eq!(error(2), (422, "invalid"));
    assert_eq!(items[2]["error"]["errors"][0]["path"], "/priority");
    assert_eq!(error(3), (422, "invalid_input"));
    assert_eq!(items[3]["error"]["errors"][0]["path"], "/input/ms");
    assert_eq!(items[4]["task"]["id"], items[5]["task"]["id"]);
    assert_eq!(error(6), (409, "idempotency_conflict"));
    assert_eq!(error(7), (422, "invalid"));
    assert!(!items[1]["error"]["request_id"].as_str().unwrap().is_empty());

    let many = json!({"tasks": vec![json!({"agent": "dev.echo", "input": 1}); 1_001]});
    server.post("/api/v1/tasks/batch", many.to_string()).await.problem(422, "invalid");
    server.post("/api/v1/tasks/batch", r#"{"tasks":[]}"#).await.problem(422, "invalid");
    server.post("/api/v1/tasks/batch", r#"{"tasks":{}}"#).await.problem(422, "invalid");
    let keyed = [("content-type", "application/json"), ("idempotency-key", "k")];
    let body = json!({"tasks": [{"agent": "dev.echo", "input": 1}]}).to_string();
    server.ask(Method::POST, "/api/v1/tasks/batch", &keyed, body).await.problem(422, "invalid");
}

#[tokio::test]
async fn a_list_is_read_page_by_page() {
    let server = server().await;
    for n in 0..25 {
        let body = json!({"agent": "dev.echo", "input": n, "labels": {"set": "p"}});
        server.post("/api/v1/tasks", body.to_string()).await.expect(202);
    }
    server.submit("dev.echo", json!(0)).await;
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server.get(&format!("/api/v1/tasks?label=set:p&limit=10{cursor}")).await.expect(200).json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 10);
        seen.extend(items.iter().map(|task| task["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "newest first");
    let none = server.get("/api/v1/tasks?agent=dev.sleep&state=failed").await.expect(200).json();
    assert_eq!(none, json!({"items": [], "next_cursor": null}));
}

#[tokio::test]
async fn events_are_numbered_and_resume() {
    let server = server().await;
    let id = server.submit("dev.fail", json!({"times": 0})).await;
    let path = format!("/api/v1/tasks/{id}/events");
    let answer = server.get(&path).await.expect(200);
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let all = events(&answer.text());
    let names: Vec<_> = all.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names, ["task.created", "task.assigned", "task.running", "task.completed"]);
    for (n, (number, name, data)) in all.iter().enumerate() {
        assert_eq!(*number, n as u64 + 1);
        assert_eq!((&data["seq"], &data["type"], &data["task_id"]), (&json!(number), &json!(name), &json!(id)));
        assert!(data["at"].is_string() && data["data"].is_object());
    }
    let rest = server.ask(Method::GET, &path, &[("last-event-id", "2")], Body::empty()).await.expect(200);
    assert_eq!(events(&rest.text()), all[2..]);
    let over = server.ask(Method::GET, &path, &[("last-event-id", "4")], Body::empty()).await.expect(200);
    assert_eq!(events(&over.text()), []);
    // A number that no event has yet stands for the newest one: what follows is not left out.
    let sleeping = server.submit("dev.sleep", json!({"ms": 600_000})).await;
    let ahead = Request::get(format!("/api/v1/tasks/{sleeping}/events"))
        .header("host", "localhost")
        .header("last-event-id", u64::MAX.to_string());
    let ahead = server.router.clone().oneshot(ahead.body(Body::empty()).unwrap()).await.unwrap();
    let cancel = format!("/api/v1/tasks/{sleeping}/cancel");
    server.ask(Method::POST, &cancel, &[], Body::empty()).await.expect(202);
    let ahead = to_bytes(ahead.into_body(), usize::MAX).await.unwrap();
    assert_eq!(events(&String::from_utf8_lossy(&ahead)).last().unwrap().1, "task.cancelled");
    server.ask(Method::GET, &path, &[("last-event-id", "x")], Body::empty()).await.problem(422, "invalid");
}

#[tokio::test]
async fn what_is_cancelled_stays_so() {
    let server = server().await;
    let id = server.submit("dev.sleep", json!({"ms": 600_000})).await;
    let cancel = format!("/api/v1/tasks/{id}/cancel");
    let answer = server.ask(Method::POST, &cancel, &[], Body::empty()).await.expect(202).json();
    assert_eq!(answer["state"], "cancelled");
    assert_eq!(server.finished(&id).await["state"], "cancelled");
    server.ask(Method::POST, &cancel, &[], Body::empty()).await.problem(409, "task_finished");
}

#[tokio::test]
async fn attempts_and_deadlines() {
    let server = server().await;
    let submit = async |times: u32, temporary: bool| {
        let input = json!({"times": times, "temporary": temporary, "message": "never"});
        let body =
            json!({"agent": "dev.fail", "input": input, "retry": {"max_attempts": 3, "initial_ms": 1, "max_ms": 2}});
        let id =
            server.post("/api/v1/tasks", body.to_string()).await.expect(202).json()["id"].as_str().unwrap().to_owned();
        server.finished(&id).await
    };
    let third = submit(2, true).await;
    assert_eq!(
        (&third["state"], &third["attempt"], &third["output"]),
        (&json!("completed"), &json!(3), &json!({"attempts": 3}))
    );
    let never = submit(9, true).await;
    assert_eq!((&never["state"], &never["attempt"]), (&json!("failed"), &json!(3)));
    assert_eq!(never["error"], json!({"code": "dev_fail", "message": "never"}));
    assert_eq!(submit(9, false).await["attempt"], 1);
    let body = r#"{"agent":"dev.sleep","input":{"ms":600000},"deadline":"2020-01-01T00:00:00Z"}"#;
    let late = server.post("/api/v1/tasks", body).await.expect(202).json();
    assert_eq!(server.finished(late["id"].as_str().unwrap()).await["error"]["code"], "deadline_exceeded");
}

#[tokio::test]
async fn lines_are_appended_whole() {
    let server = server().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let mut ids = Vec::new();
    for n in 0..50 {
        ids.push(server.submit("dev.append", json!({"path": path, "line": format!("line {n}")})).await);
    }
    for id in ids {
        assert_eq!(server.finished(&id).await["output"], json!({}));
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let mut numbers: Vec<u32> = text.lines().map(|line| line.strip_prefix("line ").unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    let nowhere = json!({"agent": "dev.append", "input": {"path": folder.path().join("no/where"), "line": "x"}, "retry": {"max_attempts": 1}});
    let id = server.post("/api/v1/tasks", nowhere.to_string()).await.expect(202).json();
    assert_eq!(server.finished(id["id"].as_str().unwrap()).await["state"], "failed");
}
