//! The statements that write, one for many rows.
//!
//! A statement costs a trip to the connection's thread and a compilation, so rows share one in sizes of powers of two: the rows that are
//! missing are NULL and left out. Several statements travel as one text, from `BEGIN` to `COMMIT`; the driver runs them in turn and stops at
//! the first that fails.

use std::{
    fmt::Write as _,
    sync::{Arc, LazyLock},
};

use sqlx::{Arguments, AssertSqlSafe, Encode, SqlSafeStr, SqlStr, Sqlite, Type, sqlite::SqliteArguments};
use sutazai_core::{
    clock::Timestamp,
    task::{IdempotencyKey, Task, TaskId},
};

use super::{
    error::{Fault, Result},
    plan::Write,
    row::{COLUMNS, encode_events},
};

/// Rows in one statement at most.
const MOST: usize = 256;

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

/// Gives a connection the row that a transaction sets to whether its update changed as many tasks as it should: anything but yes is refused.
pub(super) const GUARD: &str = "CREATE TEMP TABLE guard (ok INTEGER NOT NULL CHECK (ok)); INSERT INTO guard VALUES (1)";

/// A text of one or more statements with its arguments.
pub(super) struct Statement {
    sql: String,
    arguments: SqliteArguments,
}

impl Statement {
    pub(super) fn into_parts(self) -> (SqlStr, SqliteArguments) {
        (AssertSqlSafe(self.sql).into_sql_str(), self.arguments)
    }
}

/// All statements that store `writes`, the first of which begins a transaction and the last of which commits it.
pub(super) fn transaction(writes: &[Write<'_>]) -> Result<Vec<Statement>> {
    let mut statements = store(writes)?;
    if let Some(first) = statements.first_mut() {
        first.sql.insert_str(0, "BEGIN IMMEDIATE;");
    }
    commit(&mut statements);
    Ok(statements)
}

/// Lets the last statement commit.
pub(super) fn commit(statements: &mut [Statement]) {
    if let Some(last) = statements.last_mut() {
        last.sql.push_str(";COMMIT");
    }
}

/// The statements that store `writes` inside a transaction.
pub(super) fn store(writes: &[Write<'_>]) -> Result<Vec<Statement>> {
    let (inserts, updates): (Vec<_>, Vec<_>) = writes.iter().partition(|write| write.expected.is_none());
    let keys: Vec<_> = inserts.iter().filter_map(|write| Some((write.key?, write.task.id))).collect();
    let labels: Vec<_> = inserts
        .iter()
        .flat_map(|write| write.task.labels.iter().map(|(key, value)| (key, value, write.task.id)))
        .collect();
    let mut statements = Vec::new();
    for chunk in keys.chunks(MOST) {
        let mut text = Text::new();
        text.rows("INSERT INTO idempotency_keys (tenant, key, fingerprint, task_id)", 4, chunk, |row, (key, task)| {
            row.add(&*key.tenant)?;
            row.add(&*key.key)?;
            row.add(&key.fingerprint[..])?;
            row.id(*task)
        })?;
        statements.push(text.end());
    }
    for chunk in inserts.chunks(MOST) {
        let mut text = Text::new();
        text.rows(&INSERT, COLUMNS.len(), chunk, |row, write| row.whole(write.task))?;
        text.events(chunk)?;
        statements.push(text.end());
    }
    for chunk in updates.chunks(MOST) {
        let mut text = Text::new();
        text.updates(chunk)?;
        text.events(chunk)?;
        statements.push(text.end());
    }
    for chunk in labels.chunks(MOST) {
        let mut text = Text::new();
        text.rows("INSERT INTO task_labels (key, value, task_id)", 3, chunk, |row, (key, value, task)| {
            row.add(key.as_str())?;
            row.add(value.as_str())?;
            row.id(*task)
        })?;
        statements.push(text.end());
    }
    Ok(statements)
}

/// `(?,?,…)` for `rows` rows, rounded up to a power of two.
fn placeholders(width: usize, rows: usize) -> String {
    let row = format!("({}?),", "?,".repeat(width - 1));
    let mut all = row.repeat(rows.next_power_of_two());
    all.pop();
    all
}

/// A list of ids as `(?,?,…)`, rounded up like rows, and its arguments.
pub(super) fn id_list(ids: &[TaskId]) -> Result<(String, SqliteArguments)> {
    let mut text = Text::new();
    for id in ids {
        text.id(*id)?;
    }
    Ok((placeholders(ids.len().next_power_of_two(), 1), text.arguments))
}

/// Tenants and keys as `(?,?),…`, rounded up like rows, and their arguments.
pub(super) fn key_list(keys: &[&IdempotencyKey]) -> Result<(String, SqliteArguments)> {
    let mut text = Text::new();
    for key in keys {
        text.add(&*key.tenant)?;
        text.add(&*key.key)?;
    }
    text.pad(2, keys.len())?;
    Ok((placeholders(2, keys.len()), text.arguments))
}

/// The keys that fit one statement.
pub(super) fn key_chunks<'a>(keys: &'a [&'a IdempotencyKey]) -> impl Iterator<Item = &'a [&'a IdempotencyKey]> {
    keys.chunks(MOST)
}

/// The ids that fit one statement.
pub(super) fn id_chunks(ids: &[TaskId]) -> impl Iterator<Item = &[TaskId]> {
    ids.chunks(MOST)
}

static INSERT: LazyLock<String> = LazyLock::new(|| format!("INSERT INTO tasks ({})", COLUMNS.join(", ")));

static SET: LazyLock<String> = LazyLock::new(|| {
    let columns = CHANGING.iter().zip(EXPECTED + 1..);
    columns.map(|(column, number)| format!("{column} = v.column{number}")).collect::<Vec<_>>().join(", ")
});

/// Statements being written.
struct Text {
    sql: String,
    arguments: SqliteArguments,
}

impl Text {
    fn new() -> Self {
        Self { sql: String::new(), arguments: SqliteArguments::default() }
    }

    fn end(self) -> Statement {
        Statement { sql: self.sql, arguments: self.arguments }
    }

    fn add<'q, T: Encode<'q, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> Result<()> {
        self.arguments.add(value).map_err(|error| Fault::Driver(sqlx::Error::Encode(error)))
    }

    fn id(&mut self, id: TaskId) -> Result<()> {
        self.add(&id.as_bytes()[..])
    }

    /// Milliseconds that may be missing.
    fn time(&mut self, time: Option<Timestamp>) -> Result<()> {
        self.add(time.map(|time| time.as_millis()))
    }

    fn separate(&mut self) {
        if !self.sql.is_empty() {
            self.sql.push(';');
        }
    }

    /// The NULLs of the rows that round `rows` up to what the statement has.
    fn pad(&mut self, width: usize, rows: usize) -> Result<()> {
        (0..(rows.next_power_of_two() - rows) * width).try_for_each(|_| self.add(None::<i64>))
    }

    /// `insert` for all rows; each must begin with a column that is never NULL.
    fn rows<R>(
        &mut self,
        insert: &str,
        width: usize,
        rows: &[R],
        write: impl Fn(&mut Self, &R) -> Result<()>,
    ) -> Result<()> {
        self.separate();
        let values = placeholders(width, rows.len());
        let _ = write!(self.sql, "{insert} SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL");
        self.arguments.reserve(rows.len().next_power_of_two() * width, 0);
        rows.iter().try_for_each(|row| write(self, row))?;
        self.pad(width, rows.len())
    }

    /// One row of events for each task.
    fn events(&mut self, writes: &[&Write<'_>]) -> Result<()> {
        let insert = "INSERT INTO task_events (task_id, first_seq, last_seq, events)";
        self.rows(insert, 4, writes, |row, write| {
            let bounds = write.events().next().zip(write.events().last());
            let Some((first, last)) = bounds else { return row.pad_row(4) };
            row.id(write.task.id)?;
            row.add(first.seq.cast_signed())?;
            row.add(last.seq.cast_signed())?;
            row.add(encode_events(write.events())?)
        })
    }

    fn pad_row(&mut self, width: usize) -> Result<()> {
        (0..width).try_for_each(|_| self.add(None::<i64>))
    }

    /// Updates each task that is at the revision it should be at; the guard refuses the whole statement if one is not.
    fn updates(&mut self, writes: &[&Write<'_>]) -> Result<()> {
        let width = EXPECTED + CHANGING.len();
        let values = placeholders(width, writes.len());
        let _ = write!(
            self.sql,
            "UPDATE tasks INDEXED BY tasks_id SET {} FROM (VALUES {values}) AS v \
             WHERE tasks.id = v.column1 AND tasks.epoch = v.column2 AND tasks.seq = v.column3;\
             UPDATE temp.guard SET ok = changes() = ?",
            *SET,
        );
        self.arguments.reserve(writes.len().next_power_of_two() * width + 1, 0);
        for write in writes {
            let expected = write.expected.unwrap_or_default();
            self.id(write.task.id)?;
            self.add(expected.epoch.cast_signed())?;
            self.add(expected.seq.cast_signed())?;
            self.changing(write.task)?;
        }
        self.pad(width, writes.len())?;
        self.add(i64::try_from(writes.len()).unwrap_or(i64::MAX))
    }

    /// The values of [`COLUMNS`].
    fn whole(&mut self, task: &Task) -> Result<()> {
        self.id(task.id)?;
        self.add(Arc::clone(&task.agent))?;
        self.add(Arc::clone(&task.agent_version))?;
        self.add(Arc::clone(&task.tenant))?;
        self.add(task.state.as_str())?;
        self.add(i64::from(task.priority.get()))?;
        self.add(task.due_at.as_millis())?;
        self.time(task.deadline)?;
        self.add(task.node.as_ref().map(|node| node.as_str()))?;
        self.add(task.parent_id.as_ref().map(|id| &id.as_bytes()[..]))?;
        self.progress_of_life(task)?;
        self.add(task.created_at.as_millis())?;
        self.times_and_words(task)?;
        let labels = (!task.labels.is_empty()).then(|| serde_json::to_string(&task.labels)).transpose();
        self.add(labels.map_err(|error| Fault::Driver(sqlx::Error::Encode(error.into())))?)?;
        self.add(task.input.as_str())?;
        self.add(task.output.as_ref().map(|output| output.as_str()))
    }

    /// The values of [`CHANGING`].
    fn changing(&mut self, task: &Task) -> Result<()> {
        self.add(Arc::clone(&task.agent_version))?;
        self.add(task.state.as_str())?;
        self.add(i64::from(task.priority.get()))?;
        self.add(task.due_at.as_millis())?;
        self.time(task.deadline)?;
        self.add(task.node.as_ref().map(|node| node.as_str()))?;
        self.progress_of_life(task)?;
        self.times_and_words(task)?;
        self.add(task.output.as_ref().map(|output| output.as_str()))
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
