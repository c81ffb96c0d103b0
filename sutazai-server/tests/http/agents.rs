//! Agents, each one's own service, and what operators ask.

use std::sync::Arc;

use async_trait::async_trait;
use axum::{body::Body, http::Method};
use serde_json::json;
use sutazai_core::{
    Error, ErrorKind, Result,
    store::{AnswerCache, AnswerKey, CachedAnswer},
};
use sutazai_server::http::{Options, router};

use crate::server::{Server, events, server, state};

#[tokio::test]
async fn agents_describe_themselves() {
    let server = server().await;
    let first = server.get("/api/v1/agents?limit=4").await.expect(200).json();
    let rest = format!("/api/v1/agents?limit=4&cursor={}", first["next_cursor"].as_str().unwrap());
    let rest = server.get(&rest).await.expect(200).json();
    assert!(rest["next_cursor"].is_null());
    let both = [first["items"].as_array().unwrap().clone(), rest["items"].as_array().unwrap().clone()].concat();
    let names: Vec<_> = both.iter().map(|agent| agent["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dev.append", "dev.echo", "dev.fail", "dev.sleep", "dev.steps", "dev.wait", "test.charge"]);
    for field in
        "name version description capabilities phase port state resources input_schema output_schema".split(' ')
    {
        assert!(both[0].get(field).is_some(), "{field}");
    }
    assert_eq!(both[3]["input_schema"]["properties"]["ms"]["type"], "integer");
    assert_eq!(both[0], server.get("/api/v1/agents/dev.append").await.expect(200).json());
    assert_eq!(both[0]["state"], "ready");
    server.get("/api/v1/agents/nobody").await.problem(404, "agent_not_found");
    server.get("/api/v1/agents?cursor=AQ").await.problem(422, "invalid");
}

#[tokio::test]
async fn an_agent_is_a_service_of_its_own() {
    let server = server().await;
    assert_eq!(server.get("/agents/dev.echo/health").await.expect(200).json()["status"], "ok");
    assert_eq!(server.get("/agents/dev.echo/ready").await.expect(200).json()["checks"]["store"]["status"], "ok");
    let version = server.get("/agents/dev.echo/version").await.expect(200).json();
    assert_eq!((&version["name"], &version["version"]), (&json!("dev.echo"), &json!("0.1.0")));

    let headers = [("content-type", "application/json"), ("idempotency-key", "j")];
    let give = async || server.ask(Method::POST, "/agents/dev.echo/v1/jobs", &headers, r#"{"q":1}"#).await.expect(202);
    let accepted = give().await;
    let id = accepted.json()["job_id"].as_str().unwrap().to_owned();
    let job = format!("/agents/dev.echo/v1/jobs/{id}");
    assert_eq!(accepted.headers["location"], job);
    assert_eq!(give().await.headers["idempotency-replayed"], "true");
    server.finished(&id).await;
    let done = server.get(&job).await.expect(200).json();
    assert_eq!(done, json!({"id": id, "status": "completed", "result": {"q": 1}, "error": null}));
    let stream = server.get(&format!("{job}/events")).await.expect(200).text();
    assert_eq!(events(&stream).last().unwrap().1, "task.completed");
    let metrics = server.get("/agents/dev.echo/metrics").await.expect(200).text();
    assert!(
        metrics.contains(r#"sutazai_agents_tasks_total{agent="dev.echo",kind="task",status="completed"} 1"#),
        "{metrics}"
    );

    server.get(&format!("/agents/dev.sleep/v1/jobs/{id}")).await.problem(404, "job_not_found");
    server.get(&format!("/agents/dev.sleep/v1/jobs/{id}/events")).await.problem(404, "job_not_found");
    server.get("/agents/dev.echo/v1/jobs/nonsense").await.problem(404, "job_not_found");
    let problem = server.post("/agents/dev.sleep/v1/jobs", r#"{"ms":-1}"#).await.problem(422, "invalid_input");
    assert_eq!(problem["errors"][0]["path"], "/ms");
    server.post("/agents/dev.echo/v1/jobs", "{").await.problem(400, "malformed_json");
    server.post("/agents/nobody/v1/jobs", "{}").await.problem(404, "agent_not_found");
    for path in ["health", "ready", "metrics", "version"] {
        server.get(&format!("/agents/nobody/{path}")).await.problem(404, "agent_not_found");
    }
}

/// Answers kept in a server that is away.
struct Away;

#[async_trait]
impl AnswerCache for Away {
    async fn ready(&self) -> Result<()> {
        Err(Error::new(ErrorKind::Unavailable, "the cache does not answer").about("redis://cache:6379/0"))
    }

    async fn get(&self, _: &AnswerKey) -> Result<Option<Arc<CachedAnswer>>> {
        Ok(None)
    }

    async fn put(&self, _: AnswerKey, _: CachedAnswer) -> Result<()> {
        Ok(())
    }

    async fn invalidate(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn clear(&self) -> Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_cache_that_is_away_is_told_and_stops_nothing() {
    let state = state(Options::default()).await.with_answers(Arc::new(Away));
    let server = Server { router: router(state) };
    let away = json!({"status": "unavailable", "detail": "redis://cache:6379/0: the cache does not answer"});
    for path in ["/ready", "/agents/dev.echo/ready"] {
        let ready = server.get(path).await.expect(200).json();
        let store = json!({"status": "ok", "detail": null});
        assert_eq!(ready, json!({"status": "ok", "checks": {"store": store, "answer_cache": away}}), "{path}");
    }
}

#[tokio::test]
async fn operators_are_answered() {
    let server = server().await;
    let id = server.submit("dev.echo", json!({})).await;
    server.finished(&id).await;
    let health = server.get("/health").await.expect(200).json();
    assert!(health["status"] == "ok" && health["version"].is_string() && health["uptime_s"].is_u64());
    let ready = server.get("/ready").await.expect(200).json();
    assert_eq!(ready, json!({"status": "ok", "checks": {"store": {"status": "ok", "detail": null}}}));
    let version = server.get("/version").await.expect(200).json();
    assert_eq!(version["name"], "sutazai-server");
    assert!(version["git_sha"].is_string() && version["build_time"].is_string());
    let metrics = server.get("/metrics").await.expect(200);
    assert_eq!(metrics.headers["content-type"], "text/plain; version=0.0.4");
    let metrics = metrics.text();
    for line in [
        r#"sutazai_agents_tasks_total{agent="dev.echo",kind="task",status="completed"} 1"#,
        r#"sutazai_agents_queue_depth{agent="dev.echo"} 0"#,
        r#"sutazai_http_requests_total{method="POST",route="/api/v1/tasks",status="202"} 1"#,
        r#"sutazai_http_requests_total{method="GET",route="/api/v1/tasks/{id}",status="200"} 1"#,
        "sutazai_tasks_running 0",
        "sutazai_tasks_queued 0",
        "# TYPE sutazai_agents_task_latency_ms histogram",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    #[cfg(target_os = "linux")]
    assert!(metrics.contains("sutazai_process_resident_memory_bytes"));
    server.ask(Method::HEAD, "/health", &[], Body::empty()).await.expect(200);
}
