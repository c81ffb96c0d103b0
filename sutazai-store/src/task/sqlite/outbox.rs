//! Deliveries: which tasks have events that are still to be posted.

use std::time::Duration;

use sqlx::{Arguments, sqlite::SqliteRow};
use sutazai_core::{
    clock::Timestamp,
    store::{Delivery, Page, Posted},
    task::TaskId,
};

use super::{
    error::Result,
    read::{Readers, page},
    row::Columns,
    write::{alone, arguments, limit},
};
use crate::sqlite::writer::Writer;

pub(super) async fn take(
    writer: &Writer,
    readers: &Readers,
    now: Timestamp,
    most: usize,
    hold: Duration,
) -> Result<Vec<Delivery>> {
    let due = arguments(|arguments| arguments.add(now.as_millis()))?;
    let sql = "SELECT 1 FROM deliveries INDEXED BY deliveries_due WHERE due_at IS NOT NULL AND due_at <= ? LIMIT 1";
    if most == 0 || readers.rows(sql, due).await?.is_empty() {
        return Ok(Vec::new()); // mostly so, and nobody who writes had to wait
    }
    let arguments = arguments(|arguments| {
        arguments.add(now.as_millis())?;
        arguments.add(limit(most))?;
        arguments.add(now.plus(hold).as_millis())
    })?;
    let sql = "UPDATE deliveries SET due_at = ?3 WHERE task_id IN (\
               SELECT task_id FROM deliveries INDEXED BY deliveries_due WHERE due_at IS NOT NULL AND due_at <= ?1 \
               ORDER BY due_at LIMIT ?2) \
               RETURNING task_id, (SELECT webhook FROM tasks WHERE id = task_id), posted, failures, given_up";
    alone(writer, sql, arguments).await?.iter().map(decode).collect()
}

pub(super) async fn posted(writer: &Writer, task: TaskId, what: &Posted, now: Timestamp) -> Result<()> {
    let arguments = arguments(|arguments| {
        arguments.add(&task.as_bytes()[..])?;
        match what {
            Posted::UpTo(seq) => {
                arguments.add(i64::try_from(*seq).unwrap_or(i64::MAX))?;
                arguments.add(now.as_millis())
            }
            Posted::Failed { retry_at } => arguments.add(retry_at.as_millis()),
            Posted::GivenUp { why } => arguments.add(why.as_str()),
            Posted::Revived => arguments.add(now.as_millis()),
        }
    })?;
    let sql = match what {
        Posted::UpTo(_) => {
            "UPDATE deliveries SET posted = max(posted, ?2), failures = 0, due_at = (SELECT ?3 FROM tasks \
             WHERE id = ?1 AND seq > max(deliveries.posted, ?2) AND deliveries.given_up IS NULL) WHERE task_id = ?1"
        }
        Posted::Failed { .. } => {
            "UPDATE deliveries SET failures = failures + 1, due_at = ?2 WHERE task_id = ?1 AND given_up IS NULL"
        }
        Posted::GivenUp { .. } => "UPDATE deliveries SET given_up = ?2, due_at = NULL WHERE task_id = ?1",
        Posted::Revived => {
            "UPDATE deliveries SET given_up = NULL, failures = 0, due_at = ?2 WHERE task_id = ?1 AND given_up IS NOT NULL"
        }
    };
    alone(writer, sql, arguments).await.map(drop)
}

impl Readers {
    pub(super) async fn undelivered(&self, before: Option<TaskId>, most: usize) -> Result<Page<Delivery>> {
        let arguments = arguments(|arguments| {
            arguments.add(before.as_ref().map(|id| &id.as_bytes()[..]))?;
            arguments.add(limit(most.saturating_add(1)))
        })?;
        let sql = "SELECT d.task_id, t.webhook, d.posted, d.failures, d.given_up FROM deliveries AS d INDEXED BY deliveries_given_up \
                   CROSS JOIN tasks AS t ON t.id = d.task_id WHERE d.given_up IS NOT NULL AND (?1 IS NULL OR d.task_id < ?1) \
                   ORDER BY d.task_id DESC LIMIT ?2";
        let items = self.long_rows(sql, arguments).await?.iter().map(decode).collect::<Result<Vec<_>>>()?;
        Ok(page(items, most))
    }
}

fn decode(row: &SqliteRow) -> Result<Delivery> {
    let mut row = Columns::of(row);
    Ok(Delivery {
        task: row.id()?,
        url: row.shared()?,
        posted: row.number()?,
        failures: row.number()?,
        given_up: row.get()?,
    })
}
