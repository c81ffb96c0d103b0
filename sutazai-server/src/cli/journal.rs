//! `tasks signal|journal|fork|resolve`: what a task has recorded, and what people decide about it.

use serde_json::{Value, json};

use super::{
    grammar::{Fork, Keyed, Resolve},
    output::Output,
    tasks::{document, given, object, show, show_page},
};
use crate::{
    client::{Client, segment},
    process::Failure,
};

/// The address of something of a task.
pub(super) fn address(id: &str, what: &str) -> String {
    format!("/api/v1/tasks/{}/{what}", segment(id))
}

/// Runs `tasks signal`.
pub(super) async fn signal(
    id: &str,
    name: &str,
    payload: &str,
    key: &Keyed,
    client: &Client,
    out: Output,
) -> Result<(), Failure> {
    let payload = document("the signal", payload)?;
    let told = client.post(&address(id, &format!("signals/{}", segment(name))), &payload, key.get()).await?;
    out.answer(&told, |_| out.line(&format!("task {id} was told {name}")))
}

/// Runs `tasks journal`.
pub(super) async fn list(
    id: &str,
    limit: u32,
    cursor: Option<String>,
    client: &Client,
    out: Output,
) -> Result<(), Failure> {
    let query = given([("limit", Some(limit.to_string())), ("cursor", cursor)]);
    let page = client.get(&address(id, "journal"), &query).await?;
    out.answer(&page, |page| show_page(page, &["index", "at", "kind", "name", "outcome"], out))
}

/// Runs `tasks fork`.
pub(super) async fn fork(fork: Fork, client: &Client, out: Output) -> Result<(), Failure> {
    let input = fork.input.map(|input| document("--input", &input)).transpose()?;
    let body = object([("from", Some(fork.from.into())), ("input", input)]);
    out.answer(&client.post(&address(&fork.id, "fork"), &body, fork.key.get()).await?, |task| show(task, out))
}

/// Runs `tasks resolve`.
pub(super) async fn resolve(resolve: Resolve, client: &Client, out: Output) -> Result<(), Failure> {
    let body = match (resolve.outcome, resolve.fail) {
        (Some(outcome), _) => json!({ "outcome": document("--outcome", &outcome)? }),
        (None, Some(why)) => json!({ "fail": why }),
        (None, None) => json!({ "retry": Value::Bool(resolve.retry) }),
    };
    let path = address(&resolve.id, &format!("journal/{}/resolve", resolve.index));
    out.answer(&client.post(&path, &body, resolve.key.get()).await?, |task| show(task, out))
}
