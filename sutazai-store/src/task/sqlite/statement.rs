//! The statements that store tasks with their events, keys and labels, one for many rows.
//!
//! A task that uses none of the rare columns is written without them: they are NULL or 0 then.

use std::sync::{Arc, LazyLock};

use sutazai_core::{
    store::KEY_LIFE,
    task::{Task, TaskState},
};

use super::{
    error::{Fault, Result},
    follow,
    row::{COLUMNS, RARE, encode_events, encode_mark},
    text::{MOST, Statement, Text, placeholders},
};
use crate::task::shared::{plan::Plan, track::Write};

/// Events in one row at most: an event's number is that of its row and its place there.
pub(super) const EVENTS: usize = 1_024;

/// The columns of a task that an update writes.
const CHANGING: [&str; 20] = [
    "agent_version",
    "state",
    "priority",
    "due_at",
    "deadline",
    "node",
    "epoch",
    "seq",
    "attempt",
    "max_attempts",
    "retry_initial_ms",
    "retry_max_ms",
    "recoveries",
    "started_at",
    "finished_at",
    "progress_fraction",
    "progress_message",
    "error_code",
    "error_message",
    "output",
];

/// The columns of the key and the revision in front of them.
const EXPECTED: usize = 3;

/// Rare ones behind them: what the task waits for, where its journal stands, whether it is discarded, a new input, wakes to add, the wakes that
/// were to be there, and when it is due if they are not.
const ALSO: usize = 7;

/// The statements that store a batch inside a transaction.
pub(super) fn store(plan: &Plan<'_>) -> Result<Vec<Statement>> {
    let mut statements = Vec::new();
    for chunk in plan.keys.chunks(MOST) {
        let mut text = Text::new();
        let insert = "INSERT INTO idempotency_keys (tenant, key, fingerprint, task_id, expires_at)";
        text.rows(insert, 5, chunk, |row, used| {
            row.add(&*used.key.tenant)?;
            row.add(&*used.key.key)?;
            row.add(&used.key.fingerprint[..])?;
            row.id(used.task)?;
            row.add(used.at.map(|at| at.plus(KEY_LIFE).as_millis()))
        })?;
        statements.push(text.end());
    }
    follow::before(plan, &mut statements)?;
    let (inserts, updates): (Vec<_>, Vec<_>) = plan.writes.iter().partition(|write| write.expected.is_none());
    let (plain, full): (Vec<&Write<'_>>, Vec<_>) = inserts.iter().copied().partition(|write| is_plain(write));
    for (insert, writes) in [(&*INSERT_PLAIN, plain), (&*INSERT, full)] {
        for chunk in writes.chunks(MOST) {
            let mut text = Text::new();
            text.rows(&insert.sql, insert.width, chunk, |row, write| row.whole(write, insert.width > PLAIN))?;
            text.events(chunk)?;
            statements.push(text.end());
        }
    }
    let (plain, full): (Vec<&Write<'_>>, Vec<_>) =
        updates.into_iter().partition(|write| is_plain(write) && !write.new_input);
    for (writes, plain) in [(plain, true), (full, false)] {
        for chunk in writes.chunks(MOST) {
            let mut text = Text::new();
            text.updates(chunk, plain)?;
            text.events(chunk)?;
            statements.push(text.end());
        }
    }
    let labels: Vec<_> = inserts
        .iter()
        .flat_map(|write| write.task.labels.iter().map(|(key, value)| (key, value, write.task.id)))
        .collect();
    for chunk in labels.chunks(MOST) {
        let mut text = Text::new();
        text.rows("INSERT INTO task_labels (key, value, task_id)", 3, chunk, |row, (key, value, task)| {
            row.add(key.as_str())?;
            row.add(value.as_str())?;
            row.id(*task)
        })?;
        statements.push(text.end());
    }
    follow::after(plan, &mut statements)?;
    Ok(statements)
}

/// Whether a task uses none of the rare columns that may change.
fn is_plain(write: &Write<'_>) -> bool {
    let task = write.task;
    let new = write.expected.is_none();
    task.wait.is_none()
        && !task.discarded
        && encode_mark(task).is_none()
        && if new { write.wakes() == 0 && !task.detached && task.webhook.is_none() } else { write.woken == 0 }
}

struct Insert {
    sql: String,
    width: usize,
}

/// Columns of a task without the rare ones, and its queue.
const PLAIN: usize = RARE + 1;

static INSERT_PLAIN: LazyLock<Insert> = LazyLock::new(|| insert_of(RARE));

static INSERT: LazyLock<Insert> = LazyLock::new(|| insert_of(COLUMNS.len()));

fn insert_of(columns: usize) -> Insert {
    // Its id comes first, which is never NULL.
    let columns: Vec<_> = COLUMNS[..columns].iter().chain(["queue"].iter()).copied().collect();
    Insert { sql: format!("INSERT INTO tasks ({})", columns.join(", ")), width: columns.len() }
}

static SET_PLAIN: LazyLock<String> = LazyLock::new(|| {
    let columns = CHANGING.iter().zip(EXPECTED + 1..);
    let set: Vec<_> = columns.map(|(column, number)| format!("{column} = v.column{number}")).collect();
    format!("{}, wait = NULL, journal_mark = NULL, discarded = NULL", set.join(", "))
});

static SET: LazyLock<String> = LazyLock::new(|| {
    let mut set = Vec::new();
    for (column, number) in CHANGING.iter().zip(EXPECTED + 1..) {
        if *column == "due_at" {
            let (seen, at) = (EXPECTED + CHANGING.len() + 6, EXPECTED + CHANGING.len() + 7);
            set.push(format!(
                "due_at = CASE WHEN v.column{at} < v.column{number} AND tasks.wakes <> v.column{seen} \
                 THEN v.column{at} ELSE v.column{number} END"
            ));
        } else {
            set.push(format!("{column} = v.column{number}"));
        }
    }
    for (column, number) in ["wait", "journal_mark", "discarded"].iter().zip(EXPECTED + CHANGING.len() + 1..) {
        set.push(format!("{column} = v.column{number}"));
    }
    let next = EXPECTED + CHANGING.len() + 4;
    set.push(format!("input = coalesce(v.column{next}, input), wakes = wakes + v.column{}", next + 1));
    set.join(", ")
});

impl Text {
    /// The rows of events of some tasks.
    fn events(&mut self, writes: &[&Write<'_>]) -> Result<()> {
        let mut rows = Vec::with_capacity(writes.len());
        for write in writes {
            if write.events.iter().map(|events| events.len()).sum::<usize>() > EVENTS {
                let events: Vec<_> = write.events().collect();
                rows.extend(events.chunks(EVENTS).map(|events| (write.task.id, events.to_vec())));
            } else {
                rows.push((write.task.id, write.events().collect()));
            }
        }
        rows.retain(|(_, events)| !events.is_empty());
        for chunk in rows.chunks(MOST) {
            let insert = "INSERT INTO task_events (task_id, first_seq, last_seq, events)";
            self.rows(insert, 4, chunk, |row, (task, events)| {
                row.id(*task)?;
                row.add(events.first().map(|event| event.seq.cast_signed()))?;
                row.add(events.last().map(|event| event.seq.cast_signed()))?;
                row.add(encode_events(events.iter().copied())?)
            })?;
        }
        Ok(())
    }

    /// Updates each task that is at the revision it should be at; the guard refuses the whole statement if one is not.
    fn updates(&mut self, writes: &[&Write<'_>], plain: bool) -> Result<()> {
        let width = EXPECTED + CHANGING.len() + if plain { 0 } else { ALSO };
        let values = placeholders(width, writes.len());
        let set = if plain { &*SET_PLAIN } else { &*SET };
        self.sql(format_args!(
            "UPDATE tasks INDEXED BY tasks_id SET {set} FROM (VALUES {values}) AS v \
             WHERE tasks.id = v.column1 AND tasks.epoch = v.column2 AND tasks.seq = v.column3"
        ));
        self.all(width, writes, |row, write| {
            let expected = write.expected.unwrap_or_default();
            row.id(write.task.id)?;
            row.add(expected.epoch.cast_signed())?;
            row.add(expected.seq.cast_signed())?;
            row.changing(write)?;
            if plain { Ok(()) } else { row.also(write) }
        })?;
        self.guard(writes.len())
    }

    /// The values of [`COLUMNS`] and the queue.
    fn whole(&mut self, write: &Write<'_>, rare: bool) -> Result<()> {
        let task = write.task;
        self.id(task.id)?;
        self.add(Arc::clone(&task.agent))?;
        self.add(Arc::clone(&task.agent_version))?;
        self.add(Arc::clone(&task.tenant))?;
        self.add(task.state.as_str())?;
        self.add(i64::from(task.priority.get()))?;
        self.add(write.due_at.as_millis())?;
        self.time(task.deadline)?;
        self.add(task.node.as_ref().map(|node| node.as_str()))?;
        self.add(task.parent_id.as_ref().map(|id| &id.as_bytes()[..]))?;
        self.progress_of_life(task)?;
        self.add(task.created_at.as_millis())?;
        self.times_and_words(task)?;
        let labels = (!task.labels.is_empty()).then(|| serde_json::to_string(&task.labels)).transpose();
        self.add(labels.map_err(|error| Fault::Driver(sqlx::Error::Encode(error.into())))?)?;
        self.add(write.input.as_str())?;
        self.add(task.output.as_ref().map(|output| output.as_str()))?;
        if rare {
            self.add(write.wakes().cast_signed())?;
            self.add(task.wait.map(|wait| wait.as_str()))?;
            self.add(encode_mark(task))?;
            self.add(task.detached.then_some(true))?;
            self.add(task.webhook.as_deref())?;
            self.add(task.discarded.then_some(true))?;
        }
        let over = matches!(task.state, TaskState::Completed | TaskState::Cancelled);
        self.add((!over).then(|| task.queue()))
    }

    /// The values of [`CHANGING`].
    fn changing(&mut self, write: &Write<'_>) -> Result<()> {
        let task = write.task;
        self.add(Arc::clone(&task.agent_version))?;
        self.add(task.state.as_str())?;
        self.add(i64::from(task.priority.get()))?;
        self.add(write.due_at.as_millis())?;
        self.time(task.deadline)?;
        self.add(task.node.as_ref().map(|node| node.as_str()))?;
        self.progress_of_life(task)?;
        self.times_and_words(task)?;
        self.add(task.output.as_ref().map(|output| output.as_str()))
    }

    /// The values of [`ALSO`].
    fn also(&mut self, write: &Write<'_>) -> Result<()> {
        let task = write.task;
        self.add(task.wait.map(|wait| wait.as_str()))?;
        self.add(encode_mark(task))?;
        self.add(task.discarded.then_some(true))?;
        self.add(write.new_input.then(|| write.input.as_str()))?;
        self.add(write.woken.cast_signed())?;
        self.add(write.unseen.map(|(seen, _)| seen))?;
        self.time(write.unseen.map(|(_, at)| at))
    }

    /// From `epoch` to `recoveries`.
    fn progress_of_life(&mut self, task: &Task) -> Result<()> {
        self.add(task.revision.epoch.cast_signed())?;
        self.add(task.revision.seq.cast_signed())?;
        self.add(i64::from(task.attempt))?;
        self.add(i64::from(task.retry.max_attempts))?;
        self.add(task.retry.initial_ms.cast_signed())?;
        self.add(task.retry.max_ms.cast_signed())?;
        self.add(i64::from(task.recoveries))
    }

    /// From `started_at` to `error_message`.
    fn times_and_words(&mut self, task: &Task) -> Result<()> {
        self.time(task.started_at)?;
        self.time(task.finished_at)?;
        self.add(task.progress.as_ref().and_then(|progress| progress.fraction))?;
        self.add(task.progress.as_ref().map(|progress| progress.message.as_str()))?;
        self.add(task.error.as_ref().map(|error| error.code.as_str()))?;
        self.add(task.error.as_ref().map(|error| error.message.as_str()))
    }
}
