//! What these tests ask a server for.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::binary::{PATIENCE, http};

/// A lease so short that a take-over needs no patience.
pub(crate) const LEASE: [&str; 2] = ["--lease-ms", "1500"];

/// Faults of a case.
pub(crate) fn rounds() -> u64 {
    std::env::var("SUTAZAI_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// A moment that differs from round to round.
pub(crate) fn moment(round: u64) -> Duration {
    Duration::from_millis(50 + round * 67 % 200)
}

pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

pub(crate) async fn submit(url: &str, agent: &str, input: Value) -> String {
    let task = json!({ "agent": agent, "input": input });
    let answer = http().post(format!("{url}/api/v1/tasks")).json(&task).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned()
}

/// A task of recorded steps that write to the ledger.
pub(crate) async fn steps(url: &str, count: u64, ledger: &Path, label: &str) -> String {
    submit(url, "dev.steps", json!({ "count": count, "ms": 10, "path": ledger, "label": label })).await
}

/// The task once `wanted` says so of it.
pub(crate) async fn until(url: &str, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let (client, end) = (http(), Instant::now() + 2 * PATIENCE);
    loop {
        let task: Value = client.get(format!("{url}/api/v1/tasks/{id}")).send().await.unwrap().json().await.unwrap();
        if wanted(&task) {
            return task;
        }
        assert!(Instant::now() < end, "task {id} stays as it is: {task}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a task has ended.
pub(crate) fn is_over(task: &Value) -> bool {
    matches!(task["state"].as_str(), Some("completed" | "failed" | "cancelled"))
}

pub(crate) async fn completed(url: &str, id: &str) -> Value {
    let task = until(url, id, is_over).await;
    assert_eq!(task["state"], "completed", "{task}");
    task
}

pub(crate) async fn events(url: &str, id: &str) -> Vec<String> {
    let text = http().get(format!("{url}/api/v1/tasks/{id}/events")).send().await.unwrap().text().await.unwrap();
    text.lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned).collect()
}

/// Returns when the server says that it is ready.
pub(crate) async fn ready(server: &crate::binary::Server) {
    let (client, end) = (http(), Instant::now() + PATIENCE);
    let ask = || client.get(format!("{}/ready", server.url())).timeout(Duration::from_secs(5)).send();
    while !ask().await.is_ok_and(|answer| answer.status() == 200) {
        assert!(Instant::now() < end, "the server does not get ready: {}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
