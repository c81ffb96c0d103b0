//! `tasks …`: what a running server does with tasks.

use std::io::Read;

use serde_json::{Map, Value, json};

use super::{
    grammar::{List, Submit, Tasks},
    output::{Output, say},
    progress::Spinner,
};
use crate::{
    client::{Client, TaskEvent, segment},
    process::{Exit, Failure},
};

/// Runs `tasks …`.
pub(super) async fn run(command: Tasks, client: Client, out: Output) -> Result<Exit, Failure> {
    match command {
        Tasks::Submit(submit) => return self::submit(*submit, &client, out).await,
        Tasks::Get { id } => out.answer(&client.task(&id).await?, |task| show(task, out))?,
        Tasks::List(list) => out.answer(&self::list(list, &client).await?, |page| show_list(page, out))?,
        Tasks::Watch { id } => client.follow(&id, |event| show_event(event, out)).await?,
        Tasks::Cancel { id } => {
            let path = format!("/api/v1/tasks/{}/cancel", segment(&id));
            out.answer(&client.post(&path, &json!({}), None).await?, |task| show(task, out))?;
        }
    }
    Ok(Exit::Done)
}

async fn submit(submit: Submit, client: &Client, out: Output) -> Result<Exit, Failure> {
    let input = document(&submit.input)?;
    let labels: Map<String, Value> = submit.labels.into_iter().map(|(key, value)| (key, value.into())).collect();
    let fields = [
        ("agent", submit.agent.map(Value::from)),
        ("capability", submit.capability.map(Value::from)),
        ("input", Some(input)),
        ("priority", submit.priority.map(Value::from)),
        ("deadline", submit.deadline.map(|time| time.to_string().into())),
        ("retry", submit.max_attempts.map(|attempts| json!({ "max_attempts": attempts }))),
        ("labels", Some(Value::from(labels)).filter(|labels| labels != &json!({}))),
        ("tenant", submit.tenant.map(Value::from)),
    ];
    let body: Map<String, Value> =
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let mut task = client.post("/api/v1/tasks", &body.into(), submit.idempotency_key.as_deref()).await?;
    if submit.wait {
        task = finished(client, &text(&task["id"])).await?;
    }
    out.answer(&task, |task| show(task, out))?;
    fault(&task).filter(|_| submit.wait).map_or(Ok(Exit::Done), Err)
}

/// Waits for the end of a task and shows its progress meanwhile.
pub(super) async fn finished(client: &Client, id: &str) -> Result<Value, Failure> {
    let spinner = Spinner::new(&format!("task {id}"));
    client
        .follow(id, |event| {
            spinner.event(&event.kind, &event.data);
            Ok(())
        })
        .await?;
    drop(spinner);
    client.task(id).await
}

/// Why a finished task ends a command that waited for it, unless it went well.
pub(super) fn fault(task: &Value) -> Option<Failure> {
    let state = task["state"].as_str().filter(|state| matches!(*state, "failed" | "cancelled"))?;
    let (code, message) = (text(&task["error"]["code"]), text(&task["error"]["message"]));
    let why = if state == "failed" { format!(": {message} ({code})") } else { String::new() };
    let failure = Failure::new(Exit::Failed, format!("task {} {state}{why}", text(&task["id"])));
    Some(failure.for_code(&code))
}

async fn list(list: List, client: &Client) -> Result<Value, Failure> {
    let label = list.label.map(|(key, value)| format!("{key}:{value}"));
    let query = [
        ("state", list.state),
        ("agent", list.agent),
        ("tenant", list.tenant),
        ("label", label),
        ("cursor", list.cursor),
    ];
    let mut query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    query.push(("limit", list.limit.to_string()));
    client.get("/api/v1/tasks", &query).await
}

/// JSON as it stands, from a file (`@path`) or from stdin (`-`).
fn document(argument: &str) -> Result<Value, Failure> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("--input {argument}: {error}"));
    let text = match argument.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(unreadable)?,
        None if argument == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(unreadable)?;
            text
        }
        None => argument.to_owned(),
    };
    serde_json::from_str(&text).map_err(|error| {
        Failure::usage(format!("--input is not JSON: {error}"))
            .hint("for example --input '{\"text\":\"hello\"}', @FILE or - for stdin")
    })
}

fn show(task: &Value, out: Output) -> Result<(), Failure> {
    const FIELDS: &[&str] = &[
        "id",
        "agent",
        "state",
        "priority",
        "attempt",
        "created_at",
        "started_at",
        "finished_at",
        "deadline",
        "error",
        "output",
    ];
    let rows = FIELDS.iter().filter(|field| !task[**field].is_null());
    out.table(&["field", "value"], rows.map(|field| vec![(*field).to_owned(), text(&task[*field])]))
}

fn show_list(page: &Value, out: Output) -> Result<(), Failure> {
    let none = Vec::new();
    let items = page["items"].as_array().unwrap_or(&none);
    const COLUMNS: &[&str] = &["id", "agent", "state", "priority", "attempt", "created_at"];
    let row = |task: &Value| COLUMNS.iter().map(|field| text(&task[*field])).collect();
    out.table(COLUMNS, items.iter().map(row))?;
    if let Some(cursor) = page["next_cursor"].as_str() {
        say(&format!("there are more: --cursor {cursor}"));
    }
    Ok(())
}

fn show_event(event: &TaskEvent, out: Output) -> Result<(), Failure> {
    if out.is_json() {
        return out.line(&event.text);
    }
    let data = if event.data == json!({}) || event.data.is_null() { String::new() } else { text(&event.data) };
    out.line(format!("{:>4}  {}  {:<15}  {data}", event.seq, event.at, event.kind).trim_end())
}

/// A value for people: text without quotes.
pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
