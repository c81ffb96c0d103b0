//! Lists of tasks.

use sqlx::{Arguments, AssertSqlSafe, sqlite::SqliteArguments};
use sutazai_core::{
    store::{Page, TaskQuery},
    task::{DEFAULT_TENANT, Task, TaskState},
};

use super::{
    error::Result,
    read::{Readers, page},
    row::{SELECTED, decode_task},
    write::{arguments, limit},
};

/// States of tasks that have not ended.
const LIVE: [TaskState; 4] = [TaskState::Created, TaskState::Assigned, TaskState::Running, TaskState::Waiting];

impl Readers {
    pub(super) async fn list(&self, query: &TaskQuery) -> Result<Page<Task>> {
        let states = states(query);
        if query.limit == 0 || states.as_ref().is_some_and(Vec::is_empty) {
            return Ok(page(Vec::new(), 0));
        }
        let (sql, arguments) = listing(query, states.as_deref())?;
        let rows = self.long_rows(AssertSqlSafe(sql), arguments).await?;
        let items = rows.iter().map(decode_task).collect::<Result<Vec<_>>>()?;
        Ok(page(items, query.limit))
    }
}

/// The states that a query leaves, unless it is all of them.
pub(super) fn states(query: &TaskQuery) -> Option<Vec<TaskState>> {
    if query.state.is_none() && !query.live && !query.dead_letters {
        return None;
    }
    let left = |state: &TaskState| {
        query.state.is_none_or(|wanted| wanted == *state)
            && (!query.live || !state.is_terminal())
            && (!query.dead_letters || *state == TaskState::Failed)
    };
    Some(TaskState::ALL.into_iter().filter(left).collect())
}

/// One page of a list, and one task more. Each condition is written so that an index of its own can serve it; where several hold, SQLite
/// chooses. Only the live, of whom there are few beside the history, and the failed are always found by their state, except among a task's
/// children; several states are merged in the order of the ids.
pub(super) fn listing(query: &TaskQuery, states: Option<&[TaskState]>) -> Result<(String, SqliteArguments)> {
    let states = states.unwrap_or_default();
    let by_state = !states.is_empty() && (query.dead_letters || states.iter().all(|state| LIVE.contains(state)));
    let by_state = by_state && query.parent.is_none();
    let (mut from, mut id) = (if by_state { "tasks AS t INDEXED BY tasks_state" } else { "tasks AS t" }, "t.id");
    let mut conditions = Vec::new();
    let arguments = arguments(|arguments| {
        arguments.add(limit(query.limit.saturating_add(1)))?;
        let mut numbers = 2..;
        let mut next = || numbers.next().unwrap_or_default();
        if let Some((key, value)) = &query.label {
            let (first, second) = (next(), next());
            if by_state {
                conditions.push(format!(
                    "EXISTS (SELECT 1 FROM task_labels AS l WHERE l.key = ?{first} AND l.value = ?{second} AND l.task_id = t.id)"
                ));
            } else {
                // From the label to its tasks, which it has in the order of their ids.
                (from, id) = ("task_labels AS l CROSS JOIN tasks AS t ON t.id = l.task_id", "l.task_id");
                conditions.push(format!("l.key = ?{first} AND l.value = ?{second}"));
            }
            arguments.add(key.as_str())?;
            arguments.add(value.as_str())?;
        }
        if let Some(before) = query.before {
            conditions.push(format!("{id} < ?{}", next()));
            arguments.add(&before.as_bytes()[..])?;
        }
        if query.dead_letters {
            conditions.push("t.discarded IS NULL".to_owned());
        }
        if let Some(agent) = &query.agent {
            conditions.push(format!("t.agent = ?{}", next()));
            arguments.add(agent.as_str())?;
        }
        if let Some(tenant) = &query.tenant {
            let partial = if tenant == DEFAULT_TENANT { "" } else { " AND t.tenant <> 'default'" };
            conditions.push(format!("t.tenant = ?{}{partial}", next()));
            arguments.add(tenant.as_str())?;
        }
        if let Some(parent) = query.parent {
            conditions.push(format!("t.parent_id = ?{}", next()));
            arguments.add(&parent.as_bytes()[..])?;
        }
        Ok(())
    })?;
    let select = |states: &[TaskState]| {
        let mut conditions = conditions.clone();
        match states {
            [] => {}
            [TaskState::Completed] => conditions.push("t.state = 'completed'".to_owned()),
            [state] => conditions.push(format!("t.state = '{state}' AND t.state <> 'completed'")),
            several => {
                let names: Vec<_> = several.iter().map(|state| format!("'{state}'")).collect();
                conditions.push(format!("t.state IN ({})", names.join(", ")));
            }
        }
        let conditions =
            if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        format!("SELECT {} FROM {from}{conditions}", *SELECTED)
    };
    if by_state && states.len() > 1 {
        // A merge of what the index has in order.
        let selects: Vec<_> = states.chunks(1).map(select).collect();
        return Ok((format!("{} ORDER BY 1 DESC LIMIT ?1", selects.join(" UNION ALL ")), arguments));
    }
    Ok((format!("{} ORDER BY {id} DESC LIMIT ?1", select(states)), arguments))
}
