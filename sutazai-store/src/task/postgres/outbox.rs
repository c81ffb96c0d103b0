//! The outbox: which tasks with a webhook have events that are still to be posted.

use std::time::Duration;

use sutazai_core::{
    clock::Timestamp,
    store::{Delivery, Page, Posted},
    task::TaskId,
};

use super::{
    error::Result,
    pool::{Lease, safe},
    row::Columns,
    text::{Text, escaped, limit, uuid},
};

const DELIVERY: &str = "d.task_id, d.url, d.posted, d.failures, d.due_at, d.given_up";

fn delivery(row: &sqlx::postgres::PgRow) -> Result<Delivery> {
    let mut row = Columns::of(row);
    Ok(Delivery {
        task: row.id()?,
        url: row.shared()?,
        posted: row.count()?,
        failures: row.number()?,
        due_at: row.get::<Option<i64>>()?.map(Timestamp::from_millis),
        given_up: row.maybe_text()?,
    })
}

pub(super) async fn take(lease: &mut Lease, now: Timestamp, most: usize, hold: Duration) -> Result<Vec<Delivery>> {
    let mut text = Text::default();
    text.add(now.as_millis())?;
    text.add(limit(most))?;
    text.add(now.plus(hold).as_millis())?;
    let sql = format!(
        "WITH due AS MATERIALIZED (SELECT task_id FROM deliveries WHERE due_at IS NOT NULL AND due_at <= $1 \
         ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED) \
         UPDATE deliveries AS d SET due_at = $3 FROM due WHERE d.task_id = due.task_id RETURNING {DELIVERY}"
    );
    lease.rows(safe(sql), text.arguments).await?.iter().map(delivery).collect()
}

pub(super) async fn posted(lease: &mut Lease, taken: &Delivery, what: &Posted, now: Timestamp) -> Result<bool> {
    let (posted, failures, moment, why) = match what {
        Posted::UpTo(posted) => (posted, 0, now, None),
        Posted::Later { posted, failures, due_at } => (posted, *failures, *due_at, None),
        Posted::GivenUp { posted, failures, why } => (posted, *failures, now, Some(escaped(why))),
    };
    let mut text = Text::default();
    text.add(uuid(taken.task))?;
    text.add(taken.due_at.map(Timestamp::as_millis))?;
    text.add(taken.posted.cast_signed())?;
    text.add(i64::from(taken.failures))?;
    text.add(posted.cast_signed())?;
    text.add(i64::from(failures))?;
    text.add(moment.as_millis())?;
    text.add(why.as_deref())?;
    let due_at = match what {
        Posted::UpTo(_) => "CASE WHEN (SELECT t.seq FROM tasks AS t WHERE t.id = $1) > $5 THEN $7 END",
        Posted::Later { .. } => "$7",
        Posted::GivenUp { .. } => "NULL",
    };
    let sql = format!(
        "UPDATE deliveries AS d SET posted = $5, failures = $6, given_up = $8, due_at = {due_at} \
         WHERE d.task_id = $1 AND d.due_at = $2 AND d.posted = $3 AND d.failures = $4 RETURNING 1"
    );
    alone(lease, taken.task, sql, text).await
}

pub(super) async fn revive(lease: &mut Lease, task: TaskId, skip: bool, now: Timestamp) -> Result<bool> {
    let mut text = Text::default();
    text.add(uuid(task))?;
    text.add(Some(now.as_millis()).filter(|_| !skip))?;
    let sql = "UPDATE deliveries AS d SET given_up = NULL, failures = 0, due_at = $2, posted = CASE WHEN $2 IS NULL \
               THEN (SELECT t.seq FROM tasks AS t WHERE t.id = $1) ELSE d.posted END \
               WHERE d.task_id = $1 AND d.given_up IS NOT NULL RETURNING 1";
    alone(lease, task, sql.to_owned(), text).await
}

/// Changes a delivery; whether there was one to change. First the row is locked: whoever stores events of the task has committed then, and is seen by
/// what comes next, or waits for this.
async fn alone(lease: &mut Lease, task: TaskId, sql: String, text: Text) -> Result<bool> {
    lease.begin().await?;
    let changed = async {
        let mut row = Text::default();
        row.add(uuid(task))?;
        lease.rows("SELECT 1 FROM deliveries WHERE task_id = $1 FOR UPDATE", row.arguments).await?;
        lease.rows(safe(sql), text.arguments).await
    };
    match changed.await {
        Ok(rows) => lease.commit().await.map(|()| !rows.is_empty()),
        Err(fault) => {
            lease.roll_back().await;
            Err(fault)
        }
    }
}

pub(super) async fn undelivered(lease: &mut Lease, before: Option<TaskId>, most: usize) -> Result<Page<Delivery>> {
    let mut text = Text::default();
    text.add(limit(most.saturating_add(1)))?;
    let mut condition = "";
    if let Some(before) = before {
        text.add(uuid(before))?;
        condition = " AND d.task_id < $2";
    }
    let sql = format!(
        "SELECT {DELIVERY} FROM deliveries AS d WHERE d.given_up IS NOT NULL{condition} ORDER BY d.task_id DESC LIMIT $1"
    );
    let mut items: Vec<Delivery> =
        lease.rows(safe(sql), text.arguments).await?.iter().map(delivery).collect::<Result<_>>()?;
    let more = most > 0 && items.len() > most;
    items.truncate(most);
    Ok(Page { items, more })
}
