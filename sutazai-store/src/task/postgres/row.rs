//! A task as a row, and its events as JSON.

use std::{borrow::Cow, collections::BTreeMap, error::Error as StdError, sync::Arc};

use serde::{Deserialize, Serialize};
use sqlx::{Postgres, Row, Type, decode::Decode, postgres::PgRow};
use sutazai_core::{
    Payload,
    clock::Timestamp,
    task::{
        Entry, EntryId, EntryKind, Event, EventKind, JournalMark, Labels, NodeId, Outcome, Priority, Progress,
        RetryPolicy, Revision, Task, TaskError, TaskId, Wait,
    },
};
use uuid::Uuid;

use super::{
    error::{Fault, Result},
    text::{escaped, unescaped},
};

/// The columns of a task as they are read.
pub(super) const TASK: &str = "t.id, t.agent, t.agent_version, t.tenant, t.state, t.priority, t.due_at, t.deadline, t.node, t.parent_id, \
     t.epoch, t.seq, t.attempt, t.max_attempts, t.retry_initial_ms, t.retry_max_ms, t.recoveries, t.created_at, t.started_at, \
     t.finished_at, t.progress_fraction, t.progress_message, t.error_code, t.error_message, t.labels, t.input, t.output, t.detached, \
     t.wait, t.wakes, t.journal_era, t.journal_length, t.attempt_epoch, t.webhook, t.discarded";

/// How many they are.
pub(super) const WIDTH: usize = 35;

/// The columns of an entry as they are read.
pub(super) const ENTRY: &str = "idx, path, name, occurrence, kind, epoch, at, stage, body";

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

/// Labels as a JSON object of texts that the database can keep, where there are any.
pub(super) fn encode_labels(labels: &Labels) -> Result<Option<String>> {
    if labels.is_empty() {
        return Ok(None);
    }
    let kept: BTreeMap<_, _> = labels.iter().map(|(key, value)| (escaped(key), escaped(value))).collect();
    serde_json::to_string(&kept).map(Some).map_err(unreadable("the labels"))
}

fn decode_labels(text: &str) -> Result<Labels> {
    let kept: Labels = serde_json::from_str(text).map_err(unreadable("the labels"))?;
    Ok(kept.into_iter().map(|(key, value)| (unescaped(&key).into_owned(), unescaped(&value).into_owned())).collect())
}

/// Reads the columns of [`TASK`], from the first column on.
pub(super) fn decode_task(row: &PgRow) -> Result<Task> {
    let mut row = Columns::of(row);
    let id = row.id()?;
    let agent = row.shared()?;
    let agent_version = row.shared()?;
    let tenant = row.shared()?;
    let state = row.get::<&str>()?.parse().map_err(unreadable("a state"))?;
    let priority = u8::try_from(row.get::<i16>()?).ok().and_then(Priority::new);
    let priority = priority.ok_or("above 9").map_err(unreadable("a priority"))?;
    let due_at = row.time()?;
    let deadline = row.maybe_time()?;
    let node = row.maybe_text()?.map(NodeId::new);
    let parent_id = row.get::<Option<Uuid>>()?.map(task_id);
    let revision = Revision { epoch: row.count()?, seq: row.count()? };
    let attempt = row.number()?;
    let max_attempts = row.number()?;
    let (initial_ms, max_ms) = (row.count()?, row.count()?);
    let recoveries = row.number()?;
    let created_at = row.time()?;
    let started_at = row.maybe_time()?;
    let finished_at = row.maybe_time()?;
    let fraction = row.get()?;
    let progress = row.maybe_text()?.map(|message| Progress { fraction, message });
    let (code, message) = (row.maybe_text()?, row.maybe_text()?);
    let error = code.zip(message).map(|(code, message)| TaskError { code, message });
    let labels = match row.get::<Option<&str>>()? {
        Some(text) => decode_labels(text)?,
        None => Labels::new(),
    };
    let input = payload(row.get()?)?;
    let output = row.get::<Option<String>>()?.map(payload).transpose()?;
    let detached = row.flag()?;
    let wait = row.get::<Option<&str>>()?;
    let wait = wait.map(|text| Wait::parse(text).ok_or("no such wait").map_err(unreadable("a wait"))).transpose()?;
    let wakes = row.count()?;
    let journal = JournalMark { era: row.number()?, length: row.count()?, attempt_epoch: row.count()? };
    let webhook = row.get::<Option<&str>>()?.map(Arc::from);
    let discarded = row.flag()?;
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

/// Reads the columns of [`ENTRY`].
pub(super) fn decode_entry(row: &PgRow) -> Result<Entry> {
    let mut row = Columns::of(row);
    let index = row.count()?;
    let id = EntryId { path: row.text()?, name: row.text()?, occurrence: row.number()? };
    let kind = EntryKind::parse(row.get()?).ok_or("no such kind").map_err(unreadable("a kind of entry"))?;
    let (epoch, at) = (row.count()?, row.time()?);
    let (stage, body) = (row.get::<&str>()?, row.get::<String>()?);
    let outcome =
        Outcome::from_parts(stage, payload(body)?).ok_or("no such outcome").map_err(unreadable("an outcome"))?;
    Ok(Entry { index, id, kind, outcome, epoch, at })
}

pub(super) fn task_id(id: Uuid) -> TaskId {
    TaskId::from_bytes(id.into_bytes())
}

pub(super) fn payload(text: String) -> Result<Payload> {
    Payload::from_text(text).map_err(unreadable("a payload"))
}

pub(super) fn unreadable<E: Into<Box<dyn StdError + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> Fault {
    move |error| Fault::Value(what, error.into())
}

/// Reads a row's columns one after the other.
pub(super) struct Columns<'r> {
    row: &'r PgRow,
    next: usize,
}

impl<'r> Columns<'r> {
    pub(super) fn of(row: &'r PgRow) -> Self {
        Self::from(row, 0)
    }

    pub(super) fn from(row: &'r PgRow, next: usize) -> Self {
        Self { row, next }
    }

    pub(super) fn get<T: Decode<'r, Postgres> + Type<Postgres>>(&mut self) -> Result<T> {
        let index = self.next;
        self.next += 1;
        // The types are those of our own schema, which a comparison by name for every value would only slow down.
        Ok(self.row.try_get_unchecked(index)?)
    }

    pub(super) fn id(&mut self) -> Result<TaskId> {
        self.get().map(task_id)
    }

    pub(super) fn text(&mut self) -> Result<String> {
        self.get::<&str>().map(|text| unescaped(text).into_owned())
    }

    pub(super) fn maybe_text(&mut self) -> Result<Option<String>> {
        Ok(self.get::<Option<&str>>()?.map(|text| unescaped(text).into_owned()))
    }

    pub(super) fn shared(&mut self) -> Result<Arc<str>> {
        self.get::<&str>().map(|text| unescaped(text).into())
    }

    /// A number that counts from 0; nothing is 0.
    pub(super) fn count(&mut self) -> Result<u64> {
        Ok(self.get::<Option<i64>>()?.unwrap_or_default().cast_unsigned())
    }

    /// The same in fewer bits.
    pub(super) fn number<T: TryFrom<i64, Error: StdError + Send + Sync + 'static>>(&mut self) -> Result<T> {
        T::try_from(self.get::<Option<i64>>()?.unwrap_or_default()).map_err(unreadable("a number"))
    }

    pub(super) fn flag(&mut self) -> Result<bool> {
        Ok(self.get::<Option<bool>>()?.unwrap_or_default())
    }

    pub(super) fn time(&mut self) -> Result<Timestamp> {
        self.get().map(Timestamp::from_millis)
    }

    pub(super) fn maybe_time(&mut self) -> Result<Option<Timestamp>> {
        Ok(self.get::<Option<i64>>()?.map(Timestamp::from_millis))
    }
}
