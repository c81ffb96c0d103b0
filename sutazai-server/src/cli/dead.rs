//! `tasks dead …`: tasks that failed.

use serde_json::{Value, json};

use super::{
    grammar::{Dead, Requeue},
    output::Output,
    tasks::{document, given, label, object, show, text},
};
use crate::{
    client::{Client, segment},
    process::Failure,
};

const PATH: &str = "/api/v1/dead-letters";

/// Runs `tasks dead …`.
pub(super) async fn run(command: Dead, client: &Client, out: Output) -> Result<(), Failure> {
    let of = |id: &str| format!("{PATH}/{}", segment(id));
    match command {
        Dead::List(list) => {
            let query = [
                ("agent", list.agent),
                ("tenant", list.tenant),
                ("label", list.label.map(label)),
                ("limit", Some(list.limit.to_string())),
                ("cursor", list.cursor),
            ];
            out.answer(&client.get(PATH, &given(query)).await?, |page| show_list(page, out))
        }
        Dead::Show { id } => out.answer(&client.get(&of(&id), &[]).await?, |task| show_one(task, out)),
        Dead::Requeue(requeue) => self::requeue(requeue, client, out).await,
        Dead::Discard { id, key } => {
            client.delete(&of(&id), key.get()).await?;
            out.answer(&json!({ "id": id, "discarded": true }), |_| out.line(&format!("task {id} is given up")))
        }
    }
}

async fn requeue(requeue: Requeue, client: &Client, out: Output) -> Result<(), Failure> {
    if let Some(id) = requeue.id {
        let input = requeue.input.map(|input| document("--input", &input)).transpose()?;
        let body = object([("input", input), ("deadline", requeue.deadline.map(|time| time.to_string().into()))]);
        let path = format!("{PATH}/{}/requeue", segment(&id));
        return out.answer(&client.post(&path, &body, requeue.key.get()).await?, |task| show(task, out));
    }
    let body = object([
        ("agent", requeue.agent.map(Value::from)),
        ("tenant", requeue.tenant.map(Value::from)),
        ("label", requeue.label.map(|pair| label(pair).into())),
    ]);
    let answer = client.post(&format!("{PATH}/requeue"), &body, requeue.key.get()).await?;
    out.answer(&answer, |answer| out.line(&format!("{} tasks start again", answer["requeued"])))
}

fn show_list(page: &Value, out: Output) -> Result<(), Failure> {
    let none = Vec::new();
    let items = page["items"].as_array().unwrap_or(&none);
    let row = |task: &Value| {
        let error = &task["error"];
        let why = format!("{}: {}", text(&error["code"]), text(&error["message"]));
        vec![text(&task["id"]), text(&task["agent"]), text(&task["finished_at"]), text(&task["attempt"]), why]
    };
    out.table(&["id", "agent", "finished_at", "attempt", "error"], items.iter().map(row))?;
    super::tasks::say_more(page);
    Ok(())
}

fn show_one(task: &Value, out: Output) -> Result<(), Failure> {
    show(task, out)?;
    let none = Vec::new();
    let attempts = task["attempts"].as_array().unwrap_or(&none);
    let row = |attempt: &Value| {
        let error = &attempt["error"];
        vec![text(&attempt["attempt"]), text(&attempt["at"]), text(&error["code"]), text(&error["message"])]
    };
    out.table(&["attempt", "at", "code", "message"], attempts.iter().map(row))
}
