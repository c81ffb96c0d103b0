//! What has had its day: tasks that ended, and their keys.

use sqlx::{Arguments, AssertSqlSafe};
use sutazai_core::{
    clock::Timestamp,
    store::Ended,
    task::{TaskId, TaskState},
};

use super::{
    error::Result,
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
            arguments.add(&first_id(before)[..])?;
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

/// Removes those of the tasks that have ended, some at a time so that writers wait little.
pub(super) async fn purge(writer: &Writer, tasks: &[TaskId]) -> Result<u64> {
    let mut purged = 0;
    for ids in tasks.chunks(MOST) {
        let mut lease = writer.lease().await?;
        match purge_some(&mut lease, ids).await {
            Ok(some) => purged += some,
            Err(fault) => {
                lease.roll_back().await;
                return Err(fault);
            }
        }
    }
    Ok(purged)
}

async fn purge_some(lease: &mut Lease, ids: &[TaskId]) -> Result<u64> {
    lease.begin().await?;
    let (list, arguments) = text::id_list(ids)?;
    let sql = format!("SELECT id FROM tasks WHERE id IN {list} AND {OVER}");
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

/// Before every id that is made at `at` or later: ids begin with their time of creation.
pub(super) fn first_id(at: Timestamp) -> [u8; 16] {
    let mut id = [0; 16];
    id[..6].copy_from_slice(&at.as_millis().clamp(0, (1 << 48) - 1).to_be_bytes()[2..]);
    id
}
