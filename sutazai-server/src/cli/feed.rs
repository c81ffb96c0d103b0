//! `events` and `nodes`: all tasks, and all servers that share a store.

use serde_json::Value;

use super::{
    grammar::{Events, Nodes},
    output::Output,
    tasks::{given, show_page, text},
};
use crate::{
    client::Client,
    process::{Exit, Failure},
};

/// Events of one request at most.
const PAGE: u64 = 200;

/// Runs `nodes …`.
pub(super) async fn nodes(command: Nodes, client: Client, out: Output) -> Result<Exit, Failure> {
    match command {
        Nodes::List { limit, cursor } => {
            let query = given([("limit", Some(limit.to_string())), ("cursor", cursor)]);
            let page = client.get("/api/v1/nodes", &query).await?;
            let columns = &["id", "role", "state", "running", "version", "address", "seen_at"];
            out.answer(&page, |page| show_page(page, columns, out))?;
        }
    }
    Ok(Exit::Done)
}

/// Runs `events`: a line for each.
pub(super) async fn events(events: Events, client: Client, out: Output) -> Result<Exit, Failure> {
    if events.follow {
        client.follow_all(events.after, |event| show(&event.document(), out)).await?;
        return Ok(Exit::Done);
    }
    let (mut after, mut left) = (events.after, events.limit.unwrap_or(u64::MAX));
    loop {
        let limit = left.min(PAGE);
        let query = [("after", after.to_string()), ("limit", limit.to_string())];
        let page = client.get("/api/v1/events", &query).await?;
        let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        for event in items {
            show(event, out)?;
        }
        after = items.last().and_then(|event| event["seq"].as_u64()).unwrap_or(after);
        left -= items.len() as u64;
        if left == 0 || items.is_empty() {
            return Ok(Exit::Done);
        }
    }
}

fn show(event: &Value, out: Output) -> Result<(), Failure> {
    if out.is_json() {
        return out.line(&event.to_string());
    }
    let field = |name: &str| text(&event[name]);
    let data = &event["data"];
    let data = if data.as_object().is_some_and(serde_json::Map::is_empty) { String::new() } else { text(data) };
    let line = format!("{}  {}  {}  {:<15}  {data}", field("seq"), field("at"), field("task_id"), field("type"));
    out.line(line.trim_end())
}
