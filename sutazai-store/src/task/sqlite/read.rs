//! What only reads: a small pool of connections, each opened when it is first needed.

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use sqlx::{
    Arguments, AssertSqlSafe, Row, SqlSafeStr, SqlitePool, query_with,
    sqlite::{SqliteArguments, SqlitePoolOptions, SqliteRow},
};
use sutazai_core::{
    clock::Timestamp,
    store::{Held, Page, QueueDepths},
    task::{NodeId, Task, TaskId},
};

use super::{
    config::SqliteConfig,
    error::Result,
    follow::LIVE,
    row::{COLUMNS, Columns, SELECTED, decode_task},
    text::{self, MOST},
    write::{arguments, limit},
};

/// A connection that nobody needed for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// How long a call waits for a free connection.
const PATIENCE: Duration = Duration::from_secs(30);

static NEXT_DUE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT min(at) FROM (\
         SELECT (SELECT min(due_at) FROM tasks INDEXED BY tasks_timer \
         WHERE state = 'waiting' AND due_at < 9223372036854775807 AND due_at > ?1) AS at \
         UNION ALL SELECT (SELECT min(deadline) FROM tasks INDEXED BY tasks_deadline \
         WHERE deadline IS NOT NULL AND {LIVE} AND deadline > ?1) \
         UNION ALL SELECT (SELECT min(next) FROM schedules INDEXED BY schedules_next WHERE next IS NOT NULL AND next > ?1)\
         ) WHERE at < 9223372036854775807"
    )
});

/// A page of what was read, which is one more than it holds if there are more.
pub(super) fn page<T>(mut items: Vec<T>, limit: usize) -> Page<T> {
    let more = limit > 0 && items.len() > limit;
    items.truncate(limit);
    Page { items, more }
}

pub(super) struct Readers {
    /// For the engine, whose reads are short and must not wait for those of users.
    pool: SqlitePool,
    /// For lists and histories, which may take long.
    pub(super) lists: SqlitePool,
}

impl Readers {
    pub(super) fn new(config: &SqliteConfig) -> Self {
        let pool = |most| {
            SqlitePoolOptions::new()
                .min_connections(0)
                .max_connections(most)
                .idle_timeout(IDLE)
                .acquire_timeout(PATIENCE)
                .test_before_acquire(false)
                .connect_lazy_with(config.reader())
        };
        Self { pool: pool(1), lists: pool(config.readers.max(1)) }
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
        self.lists.close().await;
    }

    pub(super) async fn rows(&self, sql: impl SqlSafeStr, arguments: SqliteArguments) -> Result<Vec<SqliteRow>> {
        Ok(query_with(sql, arguments).fetch_all(&self.pool).await?)
    }

    async fn tasks(&self, sql: impl SqlSafeStr, arguments: SqliteArguments) -> Result<Vec<Task>> {
        self.rows(sql, arguments).await?.iter().map(decode_task).collect()
    }

    /// As [`rows`](Self::rows), for what may take long.
    pub(super) async fn long_rows(&self, sql: impl SqlSafeStr, arguments: SqliteArguments) -> Result<Vec<SqliteRow>> {
        Ok(query_with(sql, arguments).fetch_all(&self.lists).await?)
    }

    pub(super) async fn load(&self, ids: &[TaskId]) -> Result<Vec<Option<Task>>> {
        let mut found = HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(MOST) {
            let (list, arguments) = text::id_list(chunk)?;
            let sql = format!("SELECT {} FROM tasks AS t WHERE t.id IN {list}", *SELECTED);
            found.extend(self.tasks(AssertSqlSafe(sql), arguments).await?.into_iter().map(|task| (task.id, task)));
        }
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    pub(super) async fn held_by(&self, node: &NodeId, most: usize) -> Result<Vec<Held>> {
        let arguments = arguments(|arguments| {
            arguments.add(node.as_str())?;
            arguments.add(limit(most))
        })?;
        let sql = format!(
            "SELECT {}, (SELECT coalesce(max(j.idx) + 1, 0) FROM journal_entries AS j INDEXED BY journal_entries_place \
             WHERE j.task_id = t.id AND j.era = coalesce(t.journal_mark ->> 0, 0)) \
             FROM tasks AS t INDEXED BY tasks_node WHERE t.node = ? AND t.state IN ('assigned', 'running') LIMIT ?",
            *SELECTED
        );
        let rows = self.rows(AssertSqlSafe(sql), arguments).await?;
        rows.iter()
            .map(|row| {
                let journal: i64 = row.try_get_unchecked(COLUMNS.len())?;
                Ok(Held { task: decode_task(row)?, journal: journal.cast_unsigned() })
            })
            .collect()
    }

    pub(super) async fn overdue(&self, now: Timestamp, most: usize) -> Result<Vec<Task>> {
        let arguments = arguments(|arguments| {
            arguments.add(now.as_millis())?;
            arguments.add(limit(most))
        })?;
        let sql = format!(
            "SELECT {} FROM tasks AS t INDEXED BY tasks_deadline WHERE deadline IS NOT NULL AND {LIVE} AND deadline <= ? LIMIT ?",
            *SELECTED
        );
        self.tasks(AssertSqlSafe(sql), arguments).await
    }

    pub(super) async fn next_due(&self, after: Timestamp) -> Result<Option<Timestamp>> {
        let arguments = arguments(|arguments| arguments.add(after.as_millis()))?;
        let rows = self.rows(AssertSqlSafe(NEXT_DUE.as_str()), arguments).await?;
        let at: Option<i64> = rows.first().map(|row| row.try_get_unchecked(0)).transpose()?.flatten();
        Ok(at.map(Timestamp::from_millis))
    }

    pub(super) async fn queue_depths(&self) -> Result<QueueDepths> {
        // The index alone holds what is counted; whose queue it is, any one of its tasks says.
        const QUEUED: &str = "FROM tasks INDEXED BY tasks_runnable WHERE state IN ('created', 'waiting')";
        let sql = format!(
            "SELECT (SELECT agent {QUEUED} AND queue = counted.queue LIMIT 1), counted.depth \
             FROM (SELECT queue, count(*) AS depth {QUEUED} GROUP BY queue) AS counted"
        );
        let mut depths = QueueDepths::new();
        for row in self.rows(AssertSqlSafe(sql), SqliteArguments::default()).await? {
            let mut row = Columns::of(&row);
            let agent = row.get::<String>()?;
            *depths.entry(agent).or_default() += row.number::<u64>()?;
        }
        Ok(depths)
    }

    pub(super) async fn queued(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM tasks INDEXED BY tasks_state WHERE state = 'created' AND state <> 'completed'";
        let rows = self.rows(sql, SqliteArguments::default()).await?;
        rows.first().map_or(Ok(0), |row| Columns::of(row).number())
    }

    pub(super) async fn ping(&self) -> Result<()> {
        self.rows("SELECT 1 FROM meta LIMIT 1", SqliteArguments::default()).await.map(drop)
    }
}
