//! What an operator bounds: the queue, and where webhooks may go.

use serde_json::{Value, json};
use sutazai_server::http::Options;

use crate::server::{server, server_with};

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let server = server_with(Options::default(), |builder| builder.max_running(1).queue_max(2)).await;
    let task = json!({"agent": "dev.sleep", "input": {"ms": 600_000}});
    let running = server.submit("dev.sleep", task["input"].clone()).await;
    server.until(&running, "running").await;
    for _ in 0..2 {
        server.post("/api/v1/tasks", task.to_string()).await.expect(202);
    }
    let full = server.post("/api/v1/tasks", task.to_string()).await;
    assert!(full.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    full.problem(429, "queue_full");
    let job = server.post("/agents/dev.sleep/v1/jobs", r#"{"ms":1}"#).await;
    assert!(job.headers.contains_key("retry-after"));
    job.problem(429, "queue_full");
    let batch = json!({"tasks": [task, {"agent": "dev.sleep", "input": 1, "priority": 11}]});
    let items = server.post("/api/v1/tasks/batch", batch.to_string()).await.expect(202).json();
    let error = |n: usize| (items["items"][n]["error"]["status"].as_u64(), items["items"][n]["error"]["code"].as_str());
    assert_eq!((error(0), error(1)), ((Some(429), Some("queue_full")), (Some(422), Some("invalid"))));
    let metrics = server.get("/metrics").await.expect(200).text();
    assert!(metrics.contains("sutazai_tasks_queued 2"), "{metrics}");
    server.get("/health").await.expect(200);
}

fn with_hook(url: &str) -> Value {
    json!({"agent": "dev.echo", "input": 1, "webhook": {"url": url}})
}

#[tokio::test]
async fn a_webhook_goes_where_it_may() {
    let server = server().await;
    let private = with_hook("http://127.0.0.1:1/hook");
    let problem = server.post("/api/v1/tasks", private.to_string()).await.problem(422, "webhook_target_refused");
    assert_eq!(problem["errors"][0]["path"], "/webhook/url");
    let public = with_hook("https://hooks.example.com/");
    server.post("/api/v1/tasks", public.to_string()).await.problem(422, "webhook_secret_missing");
    let batch = json!({"tasks": [private, {"agent": "dev.echo", "input": 1}]});
    let items = server.post("/api/v1/tasks/batch", batch.to_string()).await.expect(202).json();
    assert_eq!(items["items"][0]["error"]["code"], "webhook_target_refused");
    assert!(items["items"][1]["task"]["id"].is_string());
    for wrong in [json!([]), json!({}), json!({"url": 1}), json!({"url": "https://a.example", "other": 1})] {
        let body = json!({"agent": "dev.echo", "input": 1, "webhook": wrong});
        server.post("/api/v1/tasks", body.to_string()).await.problem(422, "invalid");
    }
}

#[tokio::test]
async fn an_operator_may_allow_more() {
    let options = Options { webhook_secret: Some("s3cret".into()), webhook_allow_private: true, ..Options::default() };
    let server = server_with(options, |builder| builder).await;
    let private = with_hook("http://127.0.0.1:1/hook");
    server.keyed("/api/v1/tasks", "k", private.clone()).await.expect(202);
    let again = server.keyed("/api/v1/tasks", "k", private).await.expect(202);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    let other = with_hook("http://127.0.0.1:1/other");
    server.keyed("/api/v1/tasks", "k", other).await.problem(409, "idempotency_conflict");
    server
        .post("/api/v1/tasks", with_hook("ftp://127.0.0.1/").to_string())
        .await
        .problem(422, "webhook_target_refused");
}
