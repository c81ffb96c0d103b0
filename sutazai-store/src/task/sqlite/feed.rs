//! What has happened: the events of one task, and those of all in one order.

use sqlx::{Arguments, Row};
use sutazai_core::task::{Event, NumberedEvent, TaskId};

use super::{
    error::Result,
    read::Readers,
    row::{Columns, decode_events},
    statement::EVENTS,
    write::{arguments, limit},
};

impl Readers {
    pub(super) async fn events(&self, task: TaskId, after: u64, most: usize) -> Result<Vec<Event>> {
        let arguments = arguments(|arguments| {
            arguments.add(&task.as_bytes()[..])?;
            arguments.add(i64::try_from(after).unwrap_or(i64::MAX))?;
            arguments.add(limit(most)) // each row has an event at least
        })?;
        let sql = "SELECT events FROM task_events WHERE task_id = ? AND last_seq > ? ORDER BY last_seq LIMIT ?";
        let mut events = Vec::new();
        for row in self.long_rows(sql, arguments).await? {
            let text: &str = row.try_get_unchecked(0)?;
            events.extend(decode_events(task, text)?.filter(|event| event.seq > after));
        }
        events.truncate(most);
        Ok(events)
    }

    /// One process writes at a time, so rows are numbered in the order of their commits.
    pub(super) async fn feed(&self, after: u64, most: usize) -> Result<Vec<NumberedEvent>> {
        let arguments = arguments(|arguments| {
            arguments.add(i64::try_from(after / EVENTS as u64).unwrap_or(i64::MAX))?;
            arguments.add(limit(most.saturating_add(1))) // the first one may be read to its end
        })?;
        let sql = "SELECT number, task_id, events FROM task_events WHERE number >= ? ORDER BY number LIMIT ?";
        let mut events = Vec::new();
        for row in self.long_rows(sql, arguments).await? {
            let mut row = Columns::of(&row);
            let first = row.number::<u64>()? * EVENTS as u64;
            let task = row.id()?;
            let numbered = (first..).zip(decode_events(task, row.get()?)?);
            events.extend(numbered.map(|(number, event)| NumberedEvent { number, event }).filter(|e| e.number > after));
            if events.len() >= most {
                break;
            }
        }
        events.truncate(most);
        Ok(events)
    }
}
