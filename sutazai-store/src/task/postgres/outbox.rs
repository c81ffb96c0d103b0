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

const DELIVERY: &str = "d.task_id, d.url, d.posted, d.failures, d.given_up";

fn delivery(row: &sqlx::postgres::PgRow) -> Result<Delivery> {
    let mut row = Columns::of(row);
    Ok(Delivery {
        task: row.id()?,
        url: row.shared()?,
        posted: row.count()?,
        failures: row.number()?,
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

/// First the row is locked: whoever stores events of the task has committed then, and is seen by what comes next, or waits for this.
pub(super) async fn posted(lease: &mut Lease, task: TaskId, what: &Posted, now: Timestamp) -> Result<()> {
    lease.begin().await?;
    let noted = async {
        let mut text = Text::default();
        text.add(uuid(task))?;
        lease.rows("SELECT 1 FROM deliveries WHERE task_id = $1 FOR UPDATE", text.arguments).await?;
        let mut text = Text::default();
        text.add(uuid(task))?;
        let sql = match what {
            Posted::UpTo(seq) => {
                text.add(now.as_millis())?;
                text.add(seq.cast_signed())?;
                "UPDATE deliveries AS d SET posted = greatest(d.posted, $3), failures = 0, due_at = CASE WHEN d.given_up IS NULL \
                 AND (SELECT t.seq FROM tasks AS t WHERE t.id = $1) > greatest(d.posted, $3) THEN $2 END WHERE d.task_id = $1"
            }
            Posted::Failed { retry_at } => {
                text.add(retry_at.as_millis())?;
                "UPDATE deliveries SET failures = failures + 1, due_at = $2 WHERE task_id = $1 AND given_up IS NULL"
            }
            Posted::GivenUp { why } => {
                text.add(&*escaped(why))?;
                "UPDATE deliveries SET given_up = $2, due_at = NULL WHERE task_id = $1"
            }
            Posted::Revived => {
                text.add(now.as_millis())?;
                "UPDATE deliveries SET given_up = NULL, failures = 0, due_at = $2 WHERE task_id = $1 AND given_up IS NOT NULL"
            }
        };
        lease.rows(sql, text.arguments).await
    };
    match noted.await {
        Ok(_) => lease.commit().await,
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
