//! What has had its day: tasks that ended, and their keys.

use sqlx::{Arguments, AssertSqlSafe};
use sutazai_core::{
    clock::Timestamp,
    store::{Ended, KEY_LIFE, POST_LIFE},
    task::{TaskId, TaskState},
};

use super::{
    error::{Fault, Result},
    read::Readers,
    row::{Columns, unreadable},
    text::{self, MOST},
    write::{arguments, limit, rows},
};
use crate::sqlite::writer::{Lease, Writer};

/// States of tasks that have ended.
const OVER: &str = "state IN ('completed', 'failed', 'cancelled')";

/// Tables with rows of a task, by its id.
const OF_TASKS: [&str; 5] = ["task_events", "journal_entries", "signals", "deliveries", "idempotency_keys"];

impl Readers {
    pub(super) async fn ended(&self, after: Option<TaskId>, before: Timestamp, most: usize) -> Result<Vec<Ended>> {
        let arguments = arguments(|arguments| {
            arguments.add(after.as_ref().map_or(&[][..], |id| &id.as_bytes()[..]))?;
            arguments.add(&TaskId::first_at(before).as_bytes()[..])?;
            arguments.add(before.as_millis())?;
            arguments.add(limit(most))
        })?;
        let sql = format!(
            "SELECT id, state, finished_at FROM tasks INDEXED BY tasks_id WHERE id > ? AND id < ? AND created_at < ? AND {OVER} \
             AND finished_at IS NOT NULL ORDER BY id LIMIT ?"
        );
        let rows = self.long_rows(AssertSqlSafe(sql), arguments).await?;
        rows.iter()
            .map(|row| {
                let mut row = Columns::of(row);
                let id = row.id()?;
                let state = row.get::<&str>()?.parse().map_err(unreadable("a state"))?;
                Ok(Ended { id, state, finished_at: Timestamp::from_millis(row.get()?) })
            })
            .collect()
    }

    pub(super) async fn ended_parents(&self, most: usize) -> Result<Vec<TaskId>> {
        let arguments = arguments(|arguments| arguments.add(limit(most)))?;
        self.long_rows(ENDED_PARENTS, arguments).await?.iter().map(|row| Columns::of(row).id()).collect()
    }

    pub(super) async fn nth_newest(&self, state: TaskState, n: u64) -> Result<Option<TaskId>> {
        let arguments = arguments(|arguments| arguments.add(i64::try_from(n).unwrap_or(i64::MAX)))?;
        // Those that have completed stand in no index by state: the newest tasks of all are walked through.
        let (index, partial) = match state {
            TaskState::Completed => ("tasks_id", ""),
            _ => ("tasks_state", " AND state <> 'completed'"),
        };
        let sql = format!(
            "SELECT id FROM tasks INDEXED BY {index} WHERE state = '{state}'{partial} ORDER BY id DESC LIMIT 1 OFFSET ?"
        );
        let rows = self.long_rows(AssertSqlSafe(sql), arguments).await?;
        rows.first().map(|row| Columns::of(row).id()).transpose()
    }
}

/// Every parent of a living task that must end with it, from one to the next over the index, unless it lives too.
pub(super) const ENDED_PARENTS: &str = "SELECT DISTINCT c.parent_id FROM tasks AS c INDEXED BY tasks_dependents \
    WHERE c.parent_id IS NOT NULL AND c.detached IS NULL AND c.state IN ('created', 'assigned', 'running', 'waiting') \
    AND NOT EXISTS (SELECT 1 FROM tasks AS p INDEXED BY tasks_id \
    WHERE p.id = c.parent_id AND p.state IN ('created', 'assigned', 'running', 'waiting')) LIMIT ?";

/// Removes those of the tasks that have ended and nobody relies on any more, some at a time so that writers wait little.
pub(super) async fn purge(writer: &Writer, tasks: &[TaskId], now: Timestamp) -> Result<u64> {
    let mut purged = 0;
    for ids in tasks.chunks(MOST) {
        let mut lease = writer.lease().await?;
        match purge_some(&mut lease, ids, now).await {
            Ok(some) => purged += some,
            Err(fault) => {
                lease.roll_back().await;
                return Err(fault);
            }
        }
    }
    Ok(purged)
}

async fn purge_some(lease: &mut Lease, ids: &[TaskId], now: Timestamp) -> Result<u64> {
    lease.begin().await?;
    let (list, mut arguments) = text::id_list(ids)?;
    // Behind the list, whose places are rounded up.
    let width = ids.len().next_power_of_two();
    let driver = |error| Fault::Driver(sqlx::Error::Encode(error));
    (ids.len()..width).try_for_each(|_| arguments.add(None::<i64>)).map_err(driver)?;
    for moment in [now.minus(KEY_LIFE), now, now.minus(POST_LIFE)] {
        arguments.add(moment.as_millis()).map_err(driver)?;
    }
    let next = width + 1;
    let sql = format!(
        "SELECT id FROM tasks AS t WHERE id IN {list} AND {OVER} \
         AND NOT EXISTS (SELECT 1 FROM idempotency_keys AS k WHERE k.task_id = t.id AND (t.finished_at > ?{next} OR k.expires_at > ?{})) \
         AND NOT (t.finished_at > ?{} AND EXISTS (SELECT 1 FROM deliveries AS d WHERE d.task_id = t.id AND d.due_at IS NOT NULL))",
        next + 1,
        next + 2,
    );
    let ended = rows(lease, AssertSqlSafe(sql), arguments).await?;
    let ended = ended.iter().map(|row| Columns::of(row).id()).collect::<Result<Vec<_>>>()?;
    if ended.is_empty() {
        lease.roll_back().await;
        return Ok(0);
    }
    let labels = "DELETE FROM task_labels WHERE (key, value, task_id) IN \
                  (SELECT l.key, l.value, t.id FROM tasks AS t CROSS JOIN json_each(t.labels) AS l WHERE t.id IN ";
    let (list, arguments) = text::id_list(&ended)?;
    rows(lease, AssertSqlSafe(format!("{labels}{list})")), arguments).await?;
    for table in OF_TASKS {
        let (list, arguments) = text::id_list(&ended)?;
        rows(lease, AssertSqlSafe(format!("DELETE FROM {table} WHERE task_id IN {list}")), arguments).await?;
    }
    let (list, arguments) = text::id_list(&ended)?;
    rows(lease, AssertSqlSafe(format!("DELETE FROM tasks WHERE id IN {list}")), arguments).await?;
    lease.commit().await?;
    Ok(ended.len() as u64)
}
