//! `schedules …`: tasks that come by the clock.

use serde_json::{Value, json};

use super::{
    grammar::{Define, Keyed, Schedules},
    output::Output,
    tasks::{document, given, labels, object, show, show_page, text},
};
use crate::{
    client::{Client, segment},
    process::{Exit, Failure},
};

const PATH: &str = "/api/v1/schedules";

/// Runs `schedules …`.
pub(super) async fn run(command: Schedules, client: Client, out: Output) -> Result<Exit, Failure> {
    let of = |name: &str| format!("{PATH}/{}", segment(name));
    let tell = async |name: &str, what: &str, key: &Keyed| {
        client.post(&format!("{}/{what}", of(name)), &json!({}), key.get()).await
    };
    let shown = |schedule: &Value| show_one(schedule, out);
    match command {
        Schedules::List { limit, cursor } => {
            let query = given([("limit", Some(limit.to_string())), ("cursor", cursor)]);
            let columns = &["name", "cron", "every_ms", "at", "time_zone", "paused", "next_at"];
            out.answer(&client.get(PATH, &query).await?, |page| show_page(page, columns, out))?;
        }
        Schedules::Show { name } => out.answer(&client.get(&of(&name), &[]).await?, shown)?,
        Schedules::Create { define, key } => {
            out.answer(&client.post(PATH, &schedule(*define)?, key.get()).await?, shown)?;
        }
        Schedules::Update(define) => {
            let (path, schedule) = (of(&define.name), schedule(*define)?);
            client.get(&path, &[]).await?; // one that does not exist is not made
            out.answer(&client.put(&path, &schedule).await?, shown)?;
        }
        Schedules::Delete { name } => {
            client.delete(&of(&name), None).await?;
            let document = json!({ "name": name, "deleted": true });
            out.answer(&document, |_| out.line(&format!("the schedule {name} is gone; its tasks go on")))?;
        }
        Schedules::Pause { name, key } => out.answer(&tell(&name, "pause", &key).await?, shown)?,
        Schedules::Resume { name, key } => out.answer(&tell(&name, "resume", &key).await?, shown)?,
        Schedules::Trigger { name, key } => out.answer(&tell(&name, "trigger", &key).await?, |task| show(task, out))?,
    }
    Ok(Exit::Done)
}

fn schedule(define: Define) -> Result<Value, Failure> {
    let task = object([
        ("agent", define.agent.map(Value::from)),
        ("capability", define.capability.map(Value::from)),
        ("input", Some(document("--input", &define.input)?)),
        ("priority", define.priority.map(Value::from)),
        ("retry", define.max_attempts.map(|attempts| json!({ "max_attempts": attempts }))),
        ("labels", labels(define.labels)),
        ("tenant", define.tenant.map(Value::from)),
        ("webhook", define.webhook.map(|url| json!({ "url": url }))),
    ]);
    Ok(object([
        ("name", Some(define.name.into())),
        ("cron", define.cron.map(Value::from)),
        ("every_ms", define.every.map(|every| every.ms.into())),
        ("at", define.at.map(|time| time.to_string().into())),
        ("time_zone", define.time_zone.map(Value::from)),
        ("catch_up", define.catch_up.map(Value::from)),
        ("overlap", define.overlap.map(Value::from)),
        ("task", Some(task)),
    ]))
}

fn show_one(schedule: &Value, out: Output) -> Result<(), Failure> {
    let fields = schedule.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    out.table(&["field", "value"], fields.map(|(name, value)| vec![name.clone(), text(value)]))
}
