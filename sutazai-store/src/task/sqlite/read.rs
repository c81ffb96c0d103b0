//! What only reads: a small pool of connections, each opened when it is first needed.

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use sqlx::{
    Arguments, AssertSqlSafe, Row, SqlSafeStr, SqlitePool, query_with,
    sqlite::{SqliteArguments, SqlitePoolOptions, SqliteRow},
};
use sutazai_core::{
    clock::Timestamp,
    store::{Page, QueueDepths, TaskQuery},
    task::{DEFAULT_TENANT, Event, NodeId, Task, TaskId, TaskState},
};

use super::{
    config::SqliteConfig,
    error::Result,
    row::{COLUMNS, decode_events, decode_task},
    statement,
    write::{arguments, limit},
};

/// A connection that nobody needed for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// How long a call waits for a free connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// States of tasks that have not ended, as the partial indexes name them.
const LIVE: &str = "state IN ('created', 'assigned', 'running', 'waiting')";

static SELECT: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {}", COLUMNS.map(|column| format!("t.{column}")).join(", ")));

static NEXT_DUE: LazyLock<String> = LazyLock::new(|| {
    let of_priority = |priority: u8| {
        format!(
            "SELECT min(due_at) AS at FROM tasks INDEXED BY tasks_runnable \
             WHERE state IN ('created', 'waiting') AND priority = {priority} AND due_at > ?1"
        )
    };
    let parts: Vec<_> = (0..=9).map(of_priority).collect();
    format!(
        "SELECT min(at) FROM ({} UNION ALL SELECT min(deadline) FROM tasks INDEXED BY tasks_deadline \
         WHERE deadline IS NOT NULL AND {LIVE} AND deadline > ?1)",
        parts.join(" UNION ALL ")
    )
});

pub(super) struct Readers {
    pool: SqlitePool,
}

impl Readers {
    pub(super) fn new(config: &SqliteConfig) -> Self {
        let options = SqlitePoolOptions::new()
            .min_connections(0)
            .max_connections(config.readers.max(1))
            .idle_timeout(IDLE)
            .acquire_timeout(PATIENCE)
            .test_before_acquire(false);
        Self { pool: options.connect_lazy_with(config.reader()) }
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    async fn rows(&self, sql: impl SqlSafeStr, arguments: SqliteArguments) -> Result<Vec<SqliteRow>> {
        Ok(query_with(sql, arguments).fetch_all(&self.pool).await?)
    }

    async fn tasks(&self, sql: impl SqlSafeStr, arguments: SqliteArguments) -> Result<Vec<Task>> {
        self.rows(sql, arguments).await?.iter().map(decode_task).collect()
    }

    pub(super) async fn load(&self, ids: &[TaskId]) -> Result<Vec<Option<Task>>> {
        let mut found = HashMap::with_capacity(ids.len());
        for chunk in statement::id_chunks(ids) {
            let (list, arguments) = statement::id_list(chunk)?;
            let sql = format!("{} FROM tasks AS t WHERE t.id IN {list}", *SELECT);
            found.extend(self.tasks(AssertSqlSafe(sql), arguments).await?.into_iter().map(|task| (task.id, task)));
        }
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    /// Each condition is written so that an index of its own can serve it; where several hold, SQLite chooses.
    pub(super) async fn list(&self, query: &TaskQuery) -> Result<Page<Task>> {
        if query.limit == 0 {
            return Ok(Page { items: Vec::new(), more: false });
        }
        let (mut from, mut id) = ("tasks AS t", "t.id");
        let mut conditions = Vec::new();
        let arguments = arguments(|arguments| {
            if let Some((key, value)) = &query.label {
                // From the label to its tasks, which it has in the order of their ids.
                (from, id) = ("task_labels AS l CROSS JOIN tasks AS t ON t.id = l.task_id", "l.task_id");
                conditions.push("l.key = ? AND l.value = ?".to_owned());
                arguments.add(key.as_str())?;
                arguments.add(value.as_str())?;
            }
            if let Some(before) = query.before {
                conditions.push(format!("{id} < ?"));
                arguments.add(&before.as_bytes()[..])?;
            }
            if let Some(state) = query.state {
                let partial = if state == TaskState::Completed { "" } else { " AND t.state <> 'completed'" };
                conditions.push(format!("t.state = ?{partial}"));
                arguments.add(state.as_str())?;
            }
            if let Some(agent) = &query.agent {
                conditions.push("t.agent = ?".to_owned());
                arguments.add(agent.as_str())?;
            }
            if let Some(tenant) = &query.tenant {
                let partial = if tenant == DEFAULT_TENANT { "" } else { " AND t.tenant <> 'default'" };
                conditions.push(format!("t.tenant = ?{partial}"));
                arguments.add(tenant.as_str())?;
            }
            if let Some(parent) = query.parent {
                conditions.push("t.parent_id = ?".to_owned());
                arguments.add(&parent.as_bytes()[..])?;
            }
            arguments.add(limit(query.limit.saturating_add(1)))
        })?;
        let mut sql = format!("{} FROM {from}", *SELECT);
        if !conditions.is_empty() {
            sql.push_str(" WHERE ");
            sql.push_str(&conditions.join(" AND "));
        }
        sql.push_str(&format!(" ORDER BY {id} DESC LIMIT ?"));
        let mut items = self.tasks(AssertSqlSafe(sql), arguments).await?;
        let more = items.len() > query.limit;
        items.truncate(query.limit);
        Ok(Page { items, more })
    }

    pub(super) async fn events(&self, task: TaskId, after: u64, most: usize) -> Result<Vec<Event>> {
        let arguments = arguments(|arguments| {
            arguments.add(&task.as_bytes()[..])?;
            arguments.add(i64::try_from(after).unwrap_or(i64::MAX))?;
            arguments.add(limit(most)) // each row has an event at least
        })?;
        let sql = "SELECT events FROM task_events WHERE task_id = ? AND last_seq > ? ORDER BY last_seq LIMIT ?";
        let mut events = Vec::new();
        for row in self.rows(sql, arguments).await? {
            let text: &str = row.try_get_unchecked(0)?;
            events.extend(decode_events(task, text)?.filter(|event| event.seq > after));
        }
        events.truncate(most);
        Ok(events)
    }

    pub(super) async fn held_by(&self, node: &NodeId, most: usize) -> Result<Vec<Task>> {
        let arguments = arguments(|arguments| {
            arguments.add(node.as_str())?;
            arguments.add(limit(most))
        })?;
        let sql = format!(
            "{} FROM tasks AS t INDEXED BY tasks_node WHERE t.node = ? AND t.state IN ('assigned', 'running') LIMIT ?",
            *SELECT
        );
        self.tasks(AssertSqlSafe(sql), arguments).await
    }

    pub(super) async fn overdue(&self, now: Timestamp, most: usize) -> Result<Vec<Task>> {
        let arguments = arguments(|arguments| {
            arguments.add(now.as_millis())?;
            arguments.add(limit(most))
        })?;
        let sql = format!(
            "{} FROM tasks AS t INDEXED BY tasks_deadline WHERE deadline IS NOT NULL AND {LIVE} AND deadline <= ? LIMIT ?",
            *SELECT
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
        // The index alone holds all that is asked for.
        let sql = "SELECT agent, count(*) FROM tasks INDEXED BY tasks_runnable WHERE state IN ('created', 'waiting') GROUP BY agent";
        let rows = self.rows(sql, SqliteArguments::default()).await?;
        rows.iter()
            .map(|row| {
                let (agent, depth): (String, i64) = (row.try_get_unchecked(0)?, row.try_get_unchecked(1)?);
                Ok((agent, depth.cast_unsigned()))
            })
            .collect()
    }

    pub(super) async fn ping(&self) -> Result<()> {
        self.rows("SELECT 1 FROM meta LIMIT 1", SqliteArguments::default()).await.map(drop)
    }
}
