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

/// The agents that have something runnable, the priorities of each, and the next due time of each of both: each found by one step into the
/// index, however many tasks wait.
static NEXT_DUE: LazyLock<String> = LazyLock::new(|| {
    const RUNNABLE: &str = "FROM tasks INDEXED BY tasks_runnable WHERE state IN ('created', 'waiting')";
    format!(
        "WITH RECURSIVE named (agent) AS (\
         SELECT min(agent) {RUNNABLE} \
         UNION ALL \
         SELECT (SELECT min(agent) {RUNNABLE} AND agent > named.agent) FROM named WHERE agent IS NOT NULL\
         ), queue (agent, priority) AS (\
         SELECT agent, (SELECT max(priority) {RUNNABLE} AND agent = named.agent) FROM named WHERE agent IS NOT NULL \
         UNION ALL \
         SELECT agent, (SELECT max(priority) {RUNNABLE} AND agent = queue.agent AND priority < queue.priority) \
         FROM queue WHERE priority IS NOT NULL\
         ) SELECT min(at) FROM (\
         SELECT (SELECT min(due_at) {RUNNABLE} AND agent = queue.agent AND priority = queue.priority AND due_at > ?1) AS at FROM queue \
         UNION ALL SELECT min(deadline) FROM tasks INDEXED BY tasks_deadline \
         WHERE deadline IS NOT NULL AND {LIVE} AND deadline > ?1)"
    )
});

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

    pub(super) async fn list(&self, query: &TaskQuery) -> Result<Page<Task>> {
        if query.limit == 0 {
            return Ok(Page { items: Vec::new(), more: false });
        }
        let (sql, arguments) = listing(query)?;
        let rows = query_with(AssertSqlSafe(sql), arguments).fetch_all(&self.lists).await?;
        let mut items = rows.iter().map(decode_task).collect::<Result<Vec<_>>>()?;
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
        for row in query_with(sql, arguments).fetch_all(&self.lists).await? {
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

/// One page of a list, and one task more. Each condition is written so that an index of its own can serve it; where several hold, SQLite
/// chooses. Only the live, of whom there are few beside the history, are always found by their state, except among a task's children.
pub(super) fn listing(query: &TaskQuery) -> Result<(String, SqliteArguments)> {
    let live = query.state.is_some_and(|state| !state.is_terminal()) && query.parent.is_none();
    let (mut from, mut id) = (if live { "tasks AS t INDEXED BY tasks_state" } else { "tasks AS t" }, "t.id");
    let mut conditions = Vec::new();
    let arguments = arguments(|arguments| {
        if let Some((key, value)) = &query.label {
            if live {
                conditions.push(
                    "EXISTS (SELECT 1 FROM task_labels AS l WHERE l.key = ? AND l.value = ? AND l.task_id = t.id)"
                        .to_owned(),
                );
            } else {
                // From the label to its tasks, which it has in the order of their ids.
                (from, id) = ("task_labels AS l CROSS JOIN tasks AS t ON t.id = l.task_id", "l.task_id");
                conditions.push("l.key = ? AND l.value = ?".to_owned());
            }
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
    Ok((sql, arguments))
}
