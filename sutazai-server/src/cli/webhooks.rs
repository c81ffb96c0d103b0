//! `webhooks dead …`: tasks whose webhook was given up.

use serde_json::{Value, json};

use super::{
    grammar::{Undelivered, Webhooks},
    output::Output,
    tasks::{given, object, say_more, text},
};
use crate::{
    client::{Client, segment},
    process::{Exit, Failure},
};

const PATH: &str = "/api/v1/webhooks/dead-letters";

/// Runs `webhooks …`.
pub(super) async fn run(command: Webhooks, client: Client, out: Output) -> Result<Exit, Failure> {
    let Webhooks::Dead(command) = command;
    let of = |id: &str| format!("{PATH}/{}", segment(id));
    match command {
        Undelivered::List { limit, cursor } => {
            let query = [("limit", Some(limit.to_string())), ("cursor", cursor)];
            out.answer(&client.get(PATH, &given(query)).await?, |page| show(page, out))?;
        }
        Undelivered::Requeue { id, key } => {
            client.post(&format!("{}/requeue", of(&id)), &object([]), key.get()).await?;
            out.answer(&json!({ "id": id, "requeued": true }), |_| {
                out.line(&format!("the events of task {id} are posted again"))
            })?;
        }
        Undelivered::Discard { id, key } => {
            client.delete(&of(&id), key.get()).await?;
            out.answer(&json!({ "id": id, "discarded": true }), |_| {
                out.line(&format!("what task {id} has not posted is left out"))
            })?;
        }
    }
    Ok(Exit::Done)
}

fn show(page: &Value, out: Output) -> Result<(), Failure> {
    let none = Vec::new();
    let items = page["items"].as_array().unwrap_or(&none);
    let columns = ["task_id", "target", "posted", "failures", "reason"];
    out.table(&columns, items.iter().map(|letter| columns.iter().map(|name| text(&letter[*name])).collect()))?;
    say_more(page);
    Ok(())
}
