//! Schedules: make, change, fire, remove.

use axum::{body::Body, http::Method};
use serde_json::{Value, json};

use crate::server::{Server, server};

const SCHEDULES: &str = "/api/v1/schedules";

fn echo(name: &str) -> Value {
    json!({"name": name, "cron": "0 3 * * *", "time_zone": "Europe/Vienna", "task": {"agent": "dev.echo", "input": {"s": 1}, "priority": 7}})
}

async fn post(server: &Server, body: &Value) -> crate::server::Answer {
    server.post(SCHEDULES, body.to_string()).await
}

#[tokio::test]
async fn a_schedule_is_made_shown_changed_and_removed() {
    let server = server().await;
    let made = post(&server, &echo("nightly")).await.expect(201);
    assert_eq!(made.headers["location"], "/api/v1/schedules/nightly");
    let shown = server.get("/api/v1/schedules/nightly").await.expect(200).json();
    assert_eq!(made.json(), shown);
    for (field, value) in [
        ("name", "nightly"),
        ("cron", "0 3 * * *"),
        ("time_zone", "Europe/Vienna"),
        ("catch_up", "last"),
        ("overlap", "skip"),
    ] {
        assert_eq!(shown[field], value);
    }
    assert_eq!((&shown["task"]["priority"], &shown["task"]["input"]), (&json!(7), &json!({"s": 1})));
    assert_eq!((&shown["paused"], &shown["last_at"]), (&json!(false), &Value::Null));
    assert!(shown["next_at"].is_string() && shown["created_at"].is_string());
    assert!(shown.get("every_ms").is_none() && shown.get("at").is_none());
    post(&server, &echo("nightly")).await.problem(409, "schedule_exists");

    let path = "/api/v1/schedules/nightly";
    let every =
        json!({"every_ms": 60_000, "task": {"agent": "dev.echo", "input": 2}, "overlap": "queue", "catch_up": "none"});
    let changed = server.put(path, every.clone()).await.expect(200).json();
    assert_eq!(
        (&changed["every_ms"], &changed["overlap"], &changed["name"]),
        (&json!(60_000), &json!("queue"), &json!("nightly"))
    );
    let mut queued = every.clone();
    queued["overlap"] = json!("cancel");
    let same_times = server.put(path, queued).await.expect(200).json();
    assert_eq!((&same_times["created_at"], &same_times["overlap"]), (&changed["created_at"], &json!("cancel")));
    let new = server.put("/api/v1/schedules/other", every.clone()).await.expect(201);
    assert_eq!(new.headers["location"], "/api/v1/schedules/other");
    let mut misnamed = every;
    misnamed["name"] = json!("x");
    assert_eq!(server.put(path, misnamed).await.problem(422, "invalid")["errors"][0]["path"], "/name");

    assert!(server.delete(path).await.expect(204).body.is_empty());
    server.delete(path).await.problem(404, "schedule_not_found");
    server.get(path).await.problem(404, "schedule_not_found");
    server.get("/api/v1/schedules/%ff").await.problem(404, "schedule_not_found");
    for what in ["pause", "resume", "trigger"] {
        let path = format!("{path}/{what}");
        server.ask(Method::POST, &path, &[], Body::empty()).await.problem(404, "schedule_not_found");
        server.keyed(&path, "k", Value::Null).await.problem(404, "schedule_not_found");
    }
}

#[tokio::test]
async fn a_key_makes_one_schedule() {
    let server = server().await;
    let first = server.keyed(SCHEDULES, "k", echo("a")).await.expect(201);
    let again = server.keyed(SCHEDULES, "k", echo("a")).await.expect(201);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!((again.json(), &again.headers["location"]), (first.json(), &first.headers["location"]));
    server.keyed(SCHEDULES, "k", echo("b")).await.problem(409, "idempotency_conflict");
    // What was refused is not kept: the repetition is tried anew.
    server.keyed(SCHEDULES, "k2", echo("a")).await.problem(409, "schedule_exists");
    server.delete("/api/v1/schedules/a").await.expect(204);
    server.keyed(SCHEDULES, "k2", echo("a")).await.expect(201);
}

#[tokio::test]
async fn a_wrong_schedule_says_where() {
    let server = server().await;
    let path = async |change: Value| {
        let mut body = echo("x");
        for (field, value) in change.as_object().unwrap() {
            match value {
                Value::Null => drop(body.as_object_mut().unwrap().remove(field)),
                value => body[field] = value.clone(),
            }
        }
        let problem = post(&server, &body).await.expect(422).json();
        problem["errors"][0]["path"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(path(json!({"cron": "61 * * * *"})).await, "/cron");
    assert_eq!(path(json!({"cron": null})).await, "/cron");
    assert_eq!(path(json!({"every_ms": 1_000})).await, "/cron");
    assert_eq!(path(json!({"cron": null, "every_ms": 1})).await, "/every_ms");
    assert_eq!(path(json!({"cron": null, "at": "soon"})).await, "/at");
    assert_eq!(path(json!({"time_zone": "Mars/Olympus"})).await, "/time_zone");
    assert_eq!(path(json!({"name": "a b"})).await, "/name");
    assert_eq!(path(json!({"name": null})).await, "/name");
    assert_eq!(path(json!({"catch_up": "some"})).await, "/catch_up");
    assert_eq!(path(json!({"overlap": "some"})).await, "/overlap");
    assert_eq!(path(json!({"other": 1})).await, "/other");
    assert_eq!(path(json!({"task": []})).await, "/task");
    let task = |field: &str, value: Value| json!({"task": {"agent": "dev.echo", "input": 1, field: value}});
    assert_eq!(path(task("deadline", json!("2099-01-01T00:00:00.000Z"))).await, "/task/deadline");
    assert_eq!(path(task("idempotency_key", json!("k"))).await, "/task/idempotency_key");
    assert_eq!(path(task("labels", json!({"schedule": "x"}))).await, "/task/labels/schedule");
    assert_eq!(path(task("priority", json!(11))).await, "/task/priority");
    assert_eq!(path(task("webhook", json!({"url": "http://127.0.0.1/"}))).await, "/task/webhook/url");
    assert_eq!(path(json!({"task": {"agent": "dev.sleep", "input": {"ms": "x"}}})).await, "/task/input/ms");
    path(json!({"task": {"agent": "nobody", "input": 1}})).await;
    server.post(SCHEDULES, "{").await.problem(400, "malformed_json");
    assert!(server.pages(&format!("{SCHEDULES}?limit=9")).await.is_empty());
}

#[tokio::test]
async fn schedules_are_listed_by_name() {
    let server = server().await;
    for name in ["c", "a", "b"] {
        post(&server, &echo(name)).await.expect(201);
    }
    let listed = server.pages(&format!("{SCHEDULES}?limit=2")).await;
    assert_eq!(listed.iter().map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "b", "c"]);
    server.get(&format!("{SCHEDULES}?limit=0")).await.problem(422, "invalid");
    server.get(&format!("{SCHEDULES}?paused=1")).await.problem(422, "invalid");
}

#[tokio::test]
async fn a_schedule_pauses_resumes_and_fires_when_told() {
    let server = server().await;
    post(&server, &echo("s")).await.expect(201);
    let tell = async |what: &str, key: &str| {
        let answer = server.keyed(&format!("/api/v1/schedules/s/{what}"), key, Value::Null).await;
        let replayed = answer.headers.contains_key("idempotency-replayed");
        (answer, replayed)
    };
    let (paused, replayed) = tell("pause", "p").await;
    let paused = paused.expect(200).json();
    assert_eq!((&paused["paused"], &paused["next_at"], replayed), (&json!(true), &Value::Null, false));
    let (resumed, _) = tell("resume", "r").await;
    assert!(resumed.expect(200).json()["next_at"].is_string());
    let (again, replayed) = tell("pause", "p").await;
    assert_eq!((again.expect(200).json(), replayed), (paused, true), "the first answer, and nothing is done");
    assert_eq!(server.get("/api/v1/schedules/s").await.expect(200).json()["paused"], false);
    tell("resume", "p").await.0.problem(409, "idempotency_conflict");

    let (fired, _) = tell("trigger", "t").await;
    let fired = fired.expect(202);
    let task = fired.json();
    assert_eq!((&task["labels"]["schedule"], &task["priority"]), (&json!("s"), &json!(7)));
    assert_eq!(fired.headers["location"], format!("/api/v1/tasks/{}", task["id"].as_str().unwrap()));
    let (again, replayed) = tell("trigger", "t").await;
    assert_eq!((&again.expect(202).json()["id"], replayed), (&task["id"], true));
    let by_label = server.pages("/api/v1/tasks?label=schedule:s&limit=9").await;
    assert_eq!(by_label.len(), 1);
}

#[tokio::test]
async fn a_schedule_fires_by_itself() {
    let server = server().await;
    post(&server, &json!({"name": "tick", "every_ms": 100, "task": {"agent": "dev.echo", "input": 1}}))
        .await
        .expect(201);
    while server.pages("/api/v1/tasks?label=schedule:tick&limit=9").await.len() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(server.get("/api/v1/schedules/tick").await.expect(200).json()["last_at"].is_string());
}
