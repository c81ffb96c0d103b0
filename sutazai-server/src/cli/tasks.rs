//! `tasks …`: what a running server does with tasks.

use std::io::Read;

use serde_json::{Map, Value, json};

use super::{
    dead,
    grammar::{List, Submit, Tasks},
    journal,
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
        Tasks::Watch { id } => return watch(&id, &client, out).await,
        Tasks::Cancel { id, key } => {
            let path = format!("/api/v1/tasks/{}/cancel", segment(&id));
            out.answer(&client.post(&path, &json!({}), key.get()).await?, |task| show(task, out))?;
        }
        Tasks::Signal { id, name, payload, key } => journal::signal(&id, &name, &payload, &key, &client, out).await?,
        Tasks::Journal { id, limit, cursor } => journal::list(&id, limit, cursor, &client, out).await?,
        Tasks::Fork(fork) => journal::fork(fork, &client, out).await?,
        Tasks::Resolve(resolve) => journal::resolve(resolve, &client, out).await?,
        Tasks::Replay(_) => return Ok(Exit::Usage), // it may do without a server
        Tasks::Dead(command) => dead::run(command, &client, out).await?,
    }
    Ok(Exit::Done)
}

async fn submit(submit: Submit, client: &Client, out: Output) -> Result<Exit, Failure> {
    let input = document("--input", &submit.input)?;
    let fields = [
        ("agent", submit.agent.map(Value::from)),
        ("capability", submit.capability.map(Value::from)),
        ("input", Some(input)),
        ("priority", submit.priority.map(Value::from)),
        ("deadline", submit.deadline.map(|time| time.to_string().into())),
        ("retry", submit.max_attempts.map(|attempts| json!({ "max_attempts": attempts }))),
        ("labels", labels(submit.labels)),
        ("tenant", submit.tenant.map(Value::from)),
        ("webhook", submit.webhook.map(|url| json!({ "url": url }))),
    ];
    let mut task = client.post("/api/v1/tasks", &object(fields), submit.idempotency_key.as_deref()).await?;
    if submit.wait {
        task = finished(client, &text(&task["id"])).await?;
    }
    out.answer(&task, |task| show(task, out))?;
    fault(&task).filter(|_| submit.wait).map_or(Ok(Exit::Done), Err)
}

/// Shows the events of a task; its end decides how the command ends.
async fn watch(id: &str, client: &Client, out: Output) -> Result<Exit, Failure> {
    let mut end = Value::Null;
    let each = |event: &TaskEvent| {
        match event.kind.as_str() {
            "task.failed" => end = json!({ "id": id, "state": "failed", "error": event.data["error"] }),
            "task.cancelled" => end = json!({ "id": id, "state": "cancelled" }),
            "task.discarded" => {} // of a task that failed
            _ => end = Value::Null,
        }
        show_event(event, out)
    };
    client.follow(id, each).await?;
    fault(&end).map_or(Ok(Exit::Done), Err)
}

/// An object of the fields that have a value.
pub(super) fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect::<Map<_, _>>().into()
}

/// Labels as a task has them, if there are any.
pub(super) fn labels(labels: Vec<(String, String)>) -> Option<Value> {
    let labels: Map<String, Value> = labels.into_iter().map(|(key, value)| (key, value.into())).collect();
    (!labels.is_empty()).then_some(labels.into())
}

/// A label as a query has it.
pub(super) fn label((key, value): (String, String)) -> String {
    format!("{key}:{value}")
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
    let query = [
        ("state", list.state),
        ("agent", list.agent),
        ("tenant", list.tenant),
        ("label", list.label.map(label)),
        ("limit", Some(list.limit.to_string())),
        ("cursor", list.cursor),
    ];
    client.get("/api/v1/tasks", &given(query)).await
}

/// The parameters of a query that have a value.
pub(super) fn given<const N: usize>(query: [(&'static str, Option<String>); N]) -> Vec<(&'static str, String)> {
    query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// JSON as it stands, from a file (`@path`) or from stdin (`-`).
pub(super) fn document(name: &str, argument: &str) -> Result<Value, Failure> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("{name} {argument}: {error}"));
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
        Failure::usage(format!("{name} is not JSON: {error}"))
            .hint(format!("for example {name} '{{\"text\":\"hello\"}}', @FILE or - for stdin"))
    })
}

/// Shows a task to people.
pub(super) fn show(task: &Value, out: Output) -> Result<(), Failure> {
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
    show_page(page, &["id", "agent", "state", "priority", "attempt", "created_at"], out)
}

/// Shows these columns of a page to people, and where it goes on.
pub(super) fn show_page(page: &Value, columns: &[&str], out: Output) -> Result<(), Failure> {
    let none = Vec::new();
    let items = page["items"].as_array().unwrap_or(&none);
    let cell = |item: &Value, column: &&str| item.get(*column).filter(|value| !value.is_null()).map(text);
    let row = |item: &Value| columns.iter().map(|column| cell(item, column).unwrap_or_default()).collect();
    out.table(columns, items.iter().map(row))?;
    say_more(page);
    Ok(())
}

/// Says where a page goes on, if it does.
pub(super) fn say_more(page: &Value) {
    if let Some(cursor) = page["next_cursor"].as_str() {
        say(&format!("there are more: --cursor {cursor}"));
    }
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
