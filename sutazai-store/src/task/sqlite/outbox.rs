//! Deliveries: which tasks have events that are still to be posted.

use std::time::Duration;

use sqlx::{Arguments, AssertSqlSafe, sqlite::SqliteRow};
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
               RETURNING task_id, (SELECT webhook FROM tasks WHERE id = task_id), posted, failures, due_at, given_up";
    alone(writer, sql, arguments).await?.iter().map(decode).collect()
}

pub(super) async fn posted(writer: &Writer, taken: &Delivery, what: &Posted, now: Timestamp) -> Result<bool> {
    let (posted, failures, moment, why) = match what {
        Posted::UpTo(posted) => (posted, 0, now, None),
        Posted::Later { posted, failures, due_at } => (posted, *failures, *due_at, None),
        Posted::GivenUp { posted, failures, why } => (posted, *failures, now, Some(why.as_str())),
    };
    let arguments = arguments(|arguments| {
        arguments.add(&taken.task.as_bytes()[..])?;
        arguments.add(taken.due_at.map(Timestamp::as_millis))?;
        arguments.add(taken.posted.cast_signed())?;
        arguments.add(i64::from(taken.failures))?;
        arguments.add(posted.cast_signed())?;
        arguments.add(i64::from(failures))?;
        arguments.add(moment.as_millis())?;
        arguments.add(why)
    })?;
    let due_at = match what {
        Posted::UpTo(_) => "(SELECT ?7 FROM tasks WHERE id = ?1 AND seq > ?5)",
        Posted::Later { .. } => "?7",
        Posted::GivenUp { .. } => "NULL",
    };
    let sql = format!(
        "UPDATE deliveries SET posted = ?5, failures = ?6, given_up = ?8, due_at = {due_at} \
         WHERE task_id = ?1 AND due_at = ?2 AND posted = ?3 AND failures = ?4 RETURNING 1"
    );
    Ok(!alone(writer, AssertSqlSafe(sql), arguments).await?.is_empty())
}

pub(super) async fn revive(writer: &Writer, task: TaskId, skip: bool, now: Timestamp) -> Result<bool> {
    let arguments = arguments(|arguments| {
        arguments.add(&task.as_bytes()[..])?;
        arguments.add(Some(now.as_millis()).filter(|_| !skip))
    })?;
    let sql = "UPDATE deliveries SET given_up = NULL, failures = 0, due_at = ?2, \
               posted = CASE WHEN ?2 IS NULL THEN (SELECT seq FROM tasks WHERE id = ?1) ELSE posted END \
               WHERE task_id = ?1 AND given_up IS NOT NULL RETURNING 1";
    Ok(!alone(writer, sql, arguments).await?.is_empty())
}

impl Readers {
    pub(super) async fn undelivered(&self, before: Option<TaskId>, most: usize) -> Result<Page<Delivery>> {
        let arguments = arguments(|arguments| {
            arguments.add(before.as_ref().map(|id| &id.as_bytes()[..]))?;
            arguments.add(limit(most.saturating_add(1)))
        })?;
        let sql = "SELECT d.task_id, t.webhook, d.posted, d.failures, d.due_at, d.given_up FROM deliveries AS d INDEXED BY deliveries_given_up \
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
        due_at: row.get::<Option<i64>>()?.map(Timestamp::from_millis),
        given_up: row.get()?,
    })
}
