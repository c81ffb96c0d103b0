//! The statements for what hangs on tasks: journals, signals, wake-ups and the outbox. Most batches have none.

use std::collections::HashMap;

use sutazai_core::task::Entry;

use super::{
    error::Result,
    row::ENTRY,
    text::{MOST, Statement, Text, placeholders},
};
use crate::task::shared::plan::{Entries, Plan, Told};

/// States of tasks that have not ended, as the partial indexes name them.
pub(super) const LIVE: &str = "state IN ('created', 'assigned', 'running', 'waiting')";

/// What asks how a task is stored, before the batch changes that.
pub(super) fn before(plan: &Plan<'_>, statements: &mut Vec<Statement>) -> Result<()> {
    entries(plan, true, statements)?;
    signals(plan, true, statements)
}

/// What follows from the batch's tasks, or needs them.
pub(super) fn after(plan: &Plan<'_>, statements: &mut Vec<Statement>) -> Result<()> {
    entries(plan, false, statements)?;
    for copied in &plan.copies {
        let mut text = Text::new();
        text.sql(format_args!(
            "INSERT INTO journal_entries (task_id, era, {ENTRY}) SELECT ?, ?, {ENTRY} FROM journal_entries \
             WHERE task_id = ? AND era = ? AND idx < ?"
        ));
        text.id(copied.to.0)?;
        text.add(i64::from(copied.to.1))?;
        text.id(copied.of.from)?;
        text.add(i64::from(copied.of.era))?;
        text.add(copied.of.before.cast_signed())?;
        text.guard(usize::try_from(copied.of.before).unwrap_or(usize::MAX))?;
        statements.push(text.end());
    }
    signals(plan, false, statements)?;
    for chunk in plan.wakes.chunks(MOST) {
        let mut text = Text::new();
        let values = placeholders(3, chunk.len());
        text.sql(format_args!(
            "UPDATE tasks INDEXED BY tasks_id SET wakes = wakes + v.column2, \
             due_at = CASE WHEN wait = 'event' THEN min(due_at, v.column3) ELSE due_at END \
             FROM (VALUES {values}) AS v WHERE tasks.id = v.column1"
        ));
        text.all(3, chunk, |row, (task, wake)| {
            row.id(*task)?;
            row.add(wake.count.cast_signed())?;
            row.add(wake.at.as_millis())
        })?;
        statements.push(text.end());
    }
    outbox(plan, statements)
}

fn entries(plan: &Plan<'_>, fenced: bool, statements: &mut Vec<Statement>) -> Result<()> {
    const WIDTH: usize = 13;
    let of = |entries: &&Entries<'_>| entries.fence.is_some() == fenced;
    let mut rows: Vec<(&Entries<'_>, &Entry, Option<u64>)> = Vec::new();
    for of in plan.entries.iter().filter(of) {
        let after = std::iter::once(of.after).chain(std::iter::repeat(None));
        rows.extend(of.entries.iter().zip(after).map(|(entry, after)| (of, entry, after)));
    }
    let fence =
        format!("CROSS JOIN tasks AS t INDEXED BY tasks_id ON t.id = v.column1 AND t.epoch = v.column12 AND t.{LIVE}");
    let fence = if fenced { fence.as_str() } else { "" };
    for chunk in rows.chunks(MOST) {
        let mut text = Text::new();
        let values = placeholders(WIDTH, chunk.len());
        text.sql(format_args!(
            "INSERT INTO journal_entries (task_id, era, {ENTRY}) SELECT column1, column2, column3, column4, column5, \
             column6, column7, column8, column9, column10, column11 FROM (VALUES {values}) AS v {fence} \
             WHERE v.column1 IS NOT NULL AND (v.column13 IS NULL OR EXISTS (SELECT 1 FROM journal_entries AS j \
             WHERE j.task_id = v.column1 AND j.era = v.column2 AND j.idx = v.column13))"
        ));
        text.all(WIDTH, chunk, |row, (of, entry, after)| {
            row.entry(of, entry)?;
            row.add(of.fence.map(u64::cast_signed))?;
            row.add(after.map(u64::cast_signed))
        })?;
        text.guard(chunk.len())?;
        statements.push(text.end());
    }
    Ok(())
}

fn signals(plan: &Plan<'_>, fenced: bool, statements: &mut Vec<Statement>) -> Result<()> {
    let told: Vec<&Told<'_>> = plan.signals.iter().filter(|told| told.fenced == fenced).collect();
    for chunk in told.chunks(MOST) {
        let mut before = HashMap::new();
        let mut numbered = Vec::with_capacity(chunk.len());
        for told in chunk {
            let place: &mut i64 = before.entry((told.task, told.signal.name.as_str())).or_default();
            numbered.push((*told, *place));
            *place += 1;
        }
        let mut text = Text::new();
        let values = placeholders(5, chunk.len());
        let condition = if fenced {
            format!("CROSS JOIN tasks AS t INDEXED BY tasks_id ON t.id = v.column1 AND t.{LIVE}")
        } else {
            "WHERE column1 IS NOT NULL".to_owned()
        };
        text.sql(format_args!(
            "INSERT INTO signals (task_id, name, number, payload, at) SELECT v.column1, v.column2, v.column3 + coalesce(\
             (SELECT max(s.number) + 1 FROM signals AS s WHERE s.task_id = v.column1 AND s.name = v.column2), 0), \
             v.column4, v.column5 FROM (VALUES {values}) AS v {condition}"
        ));
        text.all(5, &numbered, |row, (told, place)| {
            row.id(told.task)?;
            row.add(told.signal.name.as_str())?;
            row.add(*place)?;
            row.add(told.signal.payload.as_str())?;
            row.add(told.signal.at.as_millis())
        })?;
        text.guard(chunk.len())?;
        statements.push(text.end());
    }
    Ok(())
}

/// Events of a task with a webhook are to be posted.
fn outbox(plan: &Plan<'_>, statements: &mut Vec<Statement>) -> Result<()> {
    let hooked = plan.writes.iter().filter(|write| write.task.webhook.is_some());
    let (new, old): (Vec<_>, Vec<_>) = hooked.partition(|write| write.expected.is_none());
    for chunk in new.chunks(MOST) {
        let mut text = Text::new();
        text.rows("INSERT INTO deliveries (task_id, posted, failures, due_at)", 4, chunk, |row, write| {
            row.id(write.task.id)?;
            row.add(0)?;
            row.add(0)?;
            row.time(write.noted_at)
        })?;
        statements.push(text.end());
    }
    let old: Vec<_> = old.into_iter().filter(|write| write.noted_at.is_some()).collect();
    for write in old.iter().filter(|write| write.revives()) {
        let mut text = Text::new();
        text.sql(format_args!(
            "UPDATE deliveries SET given_up = NULL, failures = 0 WHERE given_up IS NOT NULL AND task_id = ?"
        ));
        text.id(write.task.id)?;
        statements.push(text.end());
    }
    for chunk in old.chunks(MOST) {
        let mut text = Text::new();
        let values = placeholders(2, chunk.len());
        text.sql(format_args!(
            "UPDATE deliveries SET due_at = v.column2 FROM (VALUES {values}) AS v \
             WHERE deliveries.task_id = v.column1 AND deliveries.due_at IS NULL AND deliveries.given_up IS NULL"
        ));
        text.all(2, chunk, |row, write| {
            row.id(write.task.id)?;
            row.time(write.noted_at)
        })?;
        statements.push(text.end());
    }
    Ok(())
}

impl Text {
    /// The task, the era and the values of [`ENTRY`].
    fn entry(&mut self, of: &Entries<'_>, entry: &Entry) -> Result<()> {
        self.id(of.journal.0)?;
        self.add(i64::from(of.journal.1))?;
        self.add(entry.index.cast_signed())?;
        self.add(entry.id.path.as_str())?;
        self.add(entry.id.name.as_str())?;
        self.add(i64::from(entry.id.occurrence))?;
        self.add(entry.kind.as_str())?;
        self.add(entry.epoch.cast_signed())?;
        self.add(entry.at.as_millis())?;
        self.add(entry.outcome.stage())?;
        self.add(entry.outcome.body().as_str())
    }
}
