//! SQL being written, with its arguments.
//!
//! A statement costs a trip to the connection's thread and a compilation, so rows share one in sizes of powers of two: the rows that are
//! missing are NULL and left out. Several statements travel as one text; the driver runs them in turn and stops at the first that fails.

use std::fmt::Write as _;

use sqlx::{Arguments, AssertSqlSafe, Encode, SqlSafeStr, SqlStr, Sqlite, Type, sqlite::SqliteArguments};
use sutazai_core::{
    clock::Timestamp,
    task::{IdempotencyKey, TaskId},
};

use super::error::{Fault, Result};

/// Rows in one statement at most.
pub(super) const MOST: usize = 256;

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

/// Lets the first statement begin a transaction.
pub(super) fn begin(statements: &mut [Statement]) {
    if let Some(first) = statements.first_mut() {
        first.sql.insert_str(0, "BEGIN IMMEDIATE;");
    }
}

/// Lets the last statement commit.
pub(super) fn commit(statements: &mut [Statement]) {
    if let Some(last) = statements.last_mut() {
        last.sql.push_str(";COMMIT");
    }
}

/// `(?,?,…)` for `rows` rows, rounded up to a power of two.
pub(super) fn placeholders(width: usize, rows: usize) -> String {
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

/// A list of names as `(?,?,…)`, rounded up like rows, and its arguments.
pub(super) fn name_list(names: &[String]) -> Result<(String, SqliteArguments)> {
    let mut text = Text::new();
    for name in names {
        text.add(name.as_str())?;
    }
    Ok((placeholders(names.len().next_power_of_two(), 1), text.arguments))
}

/// Tenants and keys as `(?,?),…`, rounded up like rows, and their arguments.
pub(super) fn key_list(keys: &[&IdempotencyKey]) -> Result<(String, SqliteArguments)> {
    let mut text = Text::new();
    text.all(2, keys, |row, key| {
        row.add(&*key.tenant)?;
        row.add(&*key.key)
    })?;
    Ok((placeholders(2, keys.len()), text.arguments))
}

/// Statements being written.
pub(super) struct Text {
    sql: String,
    arguments: SqliteArguments,
}

impl Text {
    pub(super) fn new() -> Self {
        Self { sql: String::new(), arguments: SqliteArguments::default() }
    }

    pub(super) fn end(self) -> Statement {
        Statement { sql: self.sql, arguments: self.arguments }
    }

    /// Begins the next statement.
    pub(super) fn sql(&mut self, sql: std::fmt::Arguments<'_>) {
        if !self.sql.is_empty() {
            self.sql.push(';');
        }
        let _ = self.sql.write_fmt(sql);
    }

    pub(super) fn add<'q, T: Encode<'q, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> Result<()> {
        self.arguments.add(value).map_err(|error| Fault::Driver(sqlx::Error::Encode(error)))
    }

    pub(super) fn id(&mut self, id: TaskId) -> Result<()> {
        self.add(&id.as_bytes()[..])
    }

    /// Milliseconds that may be missing.
    pub(super) fn time(&mut self, time: Option<Timestamp>) -> Result<()> {
        self.add(time.map(|time| time.as_millis()))
    }

    /// The values of all rows, rounded up by rows of NULL.
    pub(super) fn all<R>(
        &mut self,
        width: usize,
        rows: &[R],
        write: impl Fn(&mut Self, &R) -> Result<()>,
    ) -> Result<()> {
        let whole = rows.len().next_power_of_two();
        self.arguments.reserve(whole * width + 1, 0);
        rows.iter().try_for_each(|row| write(self, row))?;
        (0..(whole - rows.len()) * width).try_for_each(|_| self.add(None::<i64>))
    }

    /// `insert` for all rows; each must begin with a column that is never NULL.
    pub(super) fn rows<R>(
        &mut self,
        insert: &str,
        width: usize,
        rows: &[R],
        write: impl Fn(&mut Self, &R) -> Result<()>,
    ) -> Result<()> {
        let values = placeholders(width, rows.len());
        self.sql(format_args!("{insert} SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL"));
        self.all(width, rows, write)
    }

    /// Refuses the statement before unless it changed so many rows.
    pub(super) fn guard(&mut self, changes: usize) -> Result<()> {
        self.sql(format_args!("UPDATE temp.guard SET ok = changes() = ?"));
        self.add(i64::try_from(changes).unwrap_or(i64::MAX))
    }
}
