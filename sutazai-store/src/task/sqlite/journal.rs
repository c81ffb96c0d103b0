//! Journals and signals, as they are read.

use sqlx::{Arguments, AssertSqlSafe};
use sutazai_core::{
    clock::Timestamp,
    task::{Entry, Signal, TaskId},
};

use super::{
    error::Result,
    read::Readers,
    row::{Columns, ENTRY, decode_entry, payload},
    write::{arguments, limit},
};

impl Readers {
    pub(super) async fn journal(&self, task: TaskId, era: u32, from: u64, most: usize) -> Result<Vec<Entry>> {
        let arguments = arguments(|arguments| {
            arguments.add(&task.as_bytes()[..])?;
            arguments.add(i64::from(era))?;
            arguments.add(i64::try_from(from).unwrap_or(i64::MAX))?;
            arguments.add(limit(most))
        })?;
        let sql = format!(
            "SELECT {ENTRY} FROM journal_entries INDEXED BY journal_entries_place \
             WHERE task_id = ? AND era = ? AND idx >= ? ORDER BY idx LIMIT ?"
        );
        self.rows(AssertSqlSafe(sql), arguments).await?.iter().map(decode_entry).collect()
    }

    pub(super) async fn signals(&self, task: TaskId, name: &str, from: u64, most: usize) -> Result<Vec<Signal>> {
        let arguments = arguments(|arguments| {
            arguments.add(&task.as_bytes()[..])?;
            arguments.add(name)?;
            arguments.add(i64::try_from(from).unwrap_or(i64::MAX))?;
            arguments.add(limit(most))
        })?;
        let sql = "SELECT name, payload, at FROM signals INDEXED BY signals_number \
                   WHERE task_id = ? AND name = ? AND number >= ? ORDER BY number LIMIT ?";
        let rows = self.rows(sql, arguments).await?;
        rows.iter()
            .map(|row| {
                let mut row = Columns::of(row);
                let (name, payload) = (row.get()?, payload(row.get()?)?);
                Ok(Signal { name, payload, at: Timestamp::from_millis(row.get()?) })
            })
            .collect()
    }
}
