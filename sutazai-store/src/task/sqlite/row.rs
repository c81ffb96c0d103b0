//! A task as a row, its events as JSON, and entries of its journal.

use std::{
    borrow::Cow,
    error::Error as StdError,
    sync::{Arc, LazyLock},
};

use serde::{Deserialize, Serialize};
use sqlx::{Row, Sqlite, Type, decode::Decode, sqlite::SqliteRow};
use sutazai_core::{
    Payload,
    clock::Timestamp,
    task::{
        Entry, EntryId, EntryKind, Event, EventKind, JournalMark, Labels, NodeId, Outcome, Priority, Progress,
        RetryPolicy, Revision, Task, TaskError, TaskId, Wait,
    },
};

use super::error::{Fault, Result};

/// The columns of a task, in the order in which they are written and read. From [`RARE`] on they are NULL or 0 for nearly every task.
pub(super) const COLUMNS: [&str; 33] = [
    "id",
    "agent",
    "agent_version",
    "tenant",
    "state",
    "priority",
    "due_at",
    "deadline",
    "node",
    "parent_id",
    "epoch",
    "seq",
    "attempt",
    "max_attempts",
    "retry_initial_ms",
    "retry_max_ms",
    "recoveries",
    "created_at",
    "started_at",
    "finished_at",
    "progress_fraction",
    "progress_message",
    "error_code",
    "error_message",
    "labels",
    "input",
    "output",
    "wakes",
    "wait",
    "journal_mark",
    "detached",
    "webhook",
    "discarded",
];

/// Where in [`COLUMNS`] those begin that are rarely used.
pub(super) const RARE: usize = 27;

/// `t.id, t.agent, …`
pub(super) static SELECTED: LazyLock<String> = LazyLock::new(|| COLUMNS.map(|column| format!("t.{column}")).join(", "));

/// The columns of an entry of a journal, after the task and the era.
pub(super) const ENTRY: &str = "idx, path, name, occurrence, kind, epoch, at, stage, body";

/// Where the journal of a task stands that nothing has happened to.
fn plain_mark(attempt: u32) -> JournalMark {
    JournalMark { attempt_epoch: u64::from(attempt > 0), ..JournalMark::default() }
}

/// What `journal_mark` holds.
pub(super) fn encode_mark(task: &Task) -> Option<String> {
    let JournalMark { era, length, attempt_epoch } = task.journal;
    (task.journal != plain_mark(task.attempt)).then(|| format!("[{era},{length},{attempt_epoch}]"))
}

fn decode_mark(text: Option<&str>, attempt: u32) -> Result<JournalMark> {
    let Some(text) = text else { return Ok(plain_mark(attempt)) };
    let (era, length, attempt_epoch) = serde_json::from_str(text).map_err(unreadable("where a journal stands"))?;
    Ok(JournalMark { era, length, attempt_epoch })
}

/// An event as it is stored; the task's id is its row's.
#[derive(Serialize, Deserialize)]
struct StoredEvent<'a> {
    seq: u64,
    /// Milliseconds since 1970.
    at: i64,
    event: Cow<'a, EventKind>,
}

/// The events of one write as one JSON array.
pub(super) fn encode_events<'a>(events: impl Iterator<Item = &'a Event>) -> Result<String> {
    let mut text = Vec::with_capacity(512);
    text.push(b'[');
    for event in events {
        if text.len() > 1 {
            text.push(b',');
        }
        let stored = StoredEvent { seq: event.seq, at: event.at.as_millis(), event: Cow::Borrowed(&event.kind) };
        serde_json::to_writer(&mut text, &stored).map_err(unreadable("an event"))?;
    }
    text.push(b']');
    String::from_utf8(text).map_err(unreadable("an event"))
}

/// The events of a row of `task`.
pub(super) fn decode_events(task: TaskId, text: &str) -> Result<impl Iterator<Item = Event>> {
    let stored: Vec<StoredEvent<'_>> = serde_json::from_str(text).map_err(unreadable("an event"))?;
    Ok(stored.into_iter().map(move |StoredEvent { seq, at, event }| Event {
        seq,
        task_id: task,
        at: Timestamp::from_millis(at),
        kind: event.into_owned(),
    }))
}

/// Reads the [`COLUMNS`] of a row, from the first column on.
pub(super) fn decode_task(row: &SqliteRow) -> Result<Task> {
    decode_task_from(row, 0)
}

/// Reads the [`COLUMNS`] of a row, from column `next` on.
pub(super) fn decode_task_from(row: &SqliteRow, next: usize) -> Result<Task> {
    let mut row = Columns { row, next };
    let id = row.id()?;
    let agent = row.shared()?;
    let agent_version = row.shared()?;
    let tenant = row.shared()?;
    let state = row.get::<&str>()?.parse().map_err(unreadable("a state"))?;
    let priority = Priority::new(row.number()?).ok_or("above 9").map_err(unreadable("a priority"))?;
    let due_at = Timestamp::from_millis(row.get()?);
    let deadline = row.time()?;
    let node = row.get::<Option<&str>>()?.map(NodeId::new);
    let parent_id = row.get::<Option<&[u8]>>()?.map(id_from).transpose()?;
    let revision = Revision { epoch: row.number()?, seq: row.number()? };
    let attempt = row.number()?;
    let max_attempts = row.number()?;
    let (initial_ms, max_ms) = (row.get::<i64>()?.cast_unsigned(), row.get::<i64>()?.cast_unsigned());
    let recoveries = row.number()?;
    let created_at = Timestamp::from_millis(row.get()?);
    let started_at = row.time()?;
    let finished_at = row.time()?;
    let fraction = row.get()?;
    let progress = row.get::<Option<String>>()?.map(|message| Progress { fraction, message });
    let code = row.get::<Option<String>>()?;
    let message = row.get::<Option<String>>()?;
    let error = code.zip(message).map(|(code, message)| TaskError { code, message });
    let labels = match row.get::<Option<&str>>()? {
        Some(text) => serde_json::from_str(text).map_err(unreadable("the labels"))?,
        None => Labels::new(),
    };
    let input = payload(row.get()?)?;
    let output = row.get::<Option<String>>()?.map(payload).transpose()?;
    let wakes = row.get::<i64>()?.cast_unsigned();
    let wait = row.get::<Option<&str>>()?.map(|text| known(Wait::parse(text), "what a task waits for")).transpose()?;
    let journal = decode_mark(row.get()?, attempt)?;
    let detached = row.get::<Option<bool>>()?.unwrap_or(false);
    let webhook = row.get::<Option<&str>>()?.map(Arc::from);
    let discarded = row.get::<Option<bool>>()?.unwrap_or(false);
    Ok(Task {
        id,
        agent,
        agent_version,
        state,
        priority,
        tenant,
        labels,
        input,
        output,
        error,
        attempt,
        retry: RetryPolicy { max_attempts, initial_ms, max_ms },
        recoveries,
        progress,
        created_at,
        started_at,
        finished_at,
        deadline,
        parent_id,
        detached,
        wait,
        due_at,
        wakes,
        journal,
        webhook,
        discarded,
        revision,
        node,
    })
}

/// Reads [`ENTRY`].
pub(super) fn decode_entry(row: &SqliteRow) -> Result<Entry> {
    let mut row = Columns::of(row);
    let index = row.get::<i64>()?.cast_unsigned();
    let id = EntryId { path: row.get()?, name: row.get()?, occurrence: row.number()? };
    let kind = known(EntryKind::parse(row.get()?), "the kind of an entry")?;
    let epoch = row.get::<i64>()?.cast_unsigned();
    let at = Timestamp::from_millis(row.get()?);
    let stage: &str = row.get()?;
    let outcome = known(Outcome::from_parts(stage, payload(row.get()?)?), "the outcome of an entry")?;
    Ok(Entry { index, id, kind, outcome, epoch, at })
}

/// The 16 bytes of an id.
pub(super) fn id_from(bytes: &[u8]) -> Result<TaskId> {
    bytes.try_into().map(TaskId::from_bytes).map_err(unreadable("an id"))
}

pub(super) fn payload(text: String) -> Result<Payload> {
    Payload::from_text(text).map_err(unreadable("a payload"))
}

fn known<T>(value: Option<T>, what: &'static str) -> Result<T> {
    value.ok_or("no such word").map_err(unreadable(what))
}

pub(super) fn unreadable<E: Into<Box<dyn StdError + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> Fault {
    move |error| Fault::Value(what, error.into())
}

/// Reads a row's columns one after the other.
pub(super) struct Columns<'r> {
    row: &'r SqliteRow,
    next: usize,
}

impl<'r> Columns<'r> {
    pub(super) fn of(row: &'r SqliteRow) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn get<T: Decode<'r, Sqlite> + Type<Sqlite>>(&mut self) -> Result<T> {
        let index = self.next;
        self.next += 1;
        // The types are those of our own schema, which a comparison by name for every value would only slow down.
        Ok(self.row.try_get_unchecked(index)?)
    }

    pub(super) fn id(&mut self) -> Result<TaskId> {
        id_from(self.get()?)
    }

    pub(super) fn shared(&mut self) -> Result<Arc<str>> {
        self.get::<&str>().map(Arc::from)
    }

    pub(super) fn number<T: TryFrom<i64, Error: StdError + Send + Sync + 'static>>(&mut self) -> Result<T> {
        T::try_from(self.get::<i64>()?).map_err(unreadable("a number"))
    }

    pub(super) fn time(&mut self) -> Result<Option<Timestamp>> {
        Ok(self.get::<Option<i64>>()?.map(Timestamp::from_millis))
    }
}
