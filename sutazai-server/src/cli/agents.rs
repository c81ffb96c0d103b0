//! `agents …`: the agents of a running server.

use serde_json::Value;

use super::{grammar::Agents, output::Output, tasks::text};
use crate::{
    client::{Client, segment},
    process::{Exit, Failure},
};

/// Runs `agents …`.
pub(super) async fn run(command: Agents, client: Client, out: Output) -> Result<Exit, Failure> {
    match command {
        Agents::List => {
            let page = client.get("/api/v1/agents", &[("limit", "200".into())]).await?;
            out.answer(&page, |page| {
                let none = Vec::new();
                let items = page["items"].as_array().unwrap_or(&none);
                const COLUMNS: &[&str] = &["name", "version", "phase", "state", "description"];
                out.table(COLUMNS, items.iter().map(|agent| COLUMNS.iter().map(|field| text(&agent[*field])).collect()))
            })?;
        }
        Agents::Show { name } => {
            let agent = client.get(&format!("/api/v1/agents/{}", segment(&name)), &[]).await?;
            out.answer(&agent, |agent| {
                let fields = agent.as_object().into_iter().flatten();
                out.table(&["field", "value"], fields.map(|(name, value)| vec![name.clone(), indented(value)]))
            })?;
        }
    }
    Ok(Exit::Done)
}

fn indented(value: &Value) -> String {
    match value {
        Value::Object(_) => serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string()),
        _ => text(value),
    }
}
