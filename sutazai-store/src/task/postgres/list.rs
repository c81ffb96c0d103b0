//! Lists of tasks, newest first, each read from the index that holds least besides.

use sutazai_core::{
    store::{Page, TaskQuery},
    task::{DEFAULT_TENANT, Task, TaskState},
};

use super::{
    error::Result,
    pool::{Lease, safe},
    row::{Columns, TASK, decode_task},
    text::{Text, escaped, limit, uuid},
};

/// A label that more tasks have is not read through for the few among them that live.
const MANY: i64 = 1_000;

pub(super) async fn list(lease: &mut Lease, query: &TaskQuery) -> Result<Page<Task>> {
    if query.limit == 0 {
        return Ok(Page { items: Vec::new(), more: false });
    }
    let (sql, text) = match living(query) {
        Some(states) if query.parent.is_none() && !is_rare(lease, query).await? => of_living(&states, query)?,
        _ => of_all(query)?,
    };
    let rows = lease.rows(safe(sql), text.arguments).await?;
    let more = rows.len() > query.limit;
    let items = rows.iter().take(query.limit).map(decode_task).collect::<Result<_>>()?;
    Ok(Page { items, more })
}

/// The states asked for, if tasks in them have not ended: these are few beside those that have.
fn living(query: &TaskQuery) -> Option<Vec<TaskState>> {
    match query.state {
        Some(state) => (!state.is_terminal()).then(|| vec![state]),
        None if query.live => {
            Some(vec![TaskState::Created, TaskState::Assigned, TaskState::Running, TaskState::Waiting])
        }
        None => None,
    }
}

/// Whether so few tasks have the label that all of them may be looked at.
async fn is_rare(lease: &mut Lease, query: &TaskQuery) -> Result<bool> {
    let Some((key, value)) = &query.label else { return Ok(false) };
    let mut text = Text::default();
    text.add(&*escaped(key))?;
    text.add(&*escaped(value))?;
    text.add(MANY)?;
    let sql = "SELECT count(*) = $3 FROM (SELECT 1 FROM task_labels WHERE key = $1 AND value = $2 LIMIT $3) AS l";
    let rows = lease.rows(sql, text.arguments).await?;
    Ok(!rows.first().map_or(Ok(false), |row| Columns::of(row).get::<bool>())?)
}

/// The newest of each state, and of these the newest. Whatever else is asked for is looked at task by task, in a form that no other index serves.
fn of_living(states: &[TaskState], query: &TaskQuery) -> Result<(String, Text)> {
    let mut text = Text::default();
    let mut conditions = String::new();
    if let Some(agent) = &query.agent {
        conditions.push_str(&format!(" AND c.agent || '' = ${}", text.add(&*escaped(agent))?));
    }
    if let Some(tenant) = &query.tenant {
        conditions.push_str(&format!(" AND c.tenant || '' = ${}", text.add(&*escaped(tenant))?));
    }
    if let Some((key, value)) = &query.label {
        let (key, value) = (text.add(&*escaped(key))?, text.add(&*escaped(value))?);
        conditions.push_str(&format!(
            " AND coalesce((SELECT true FROM task_labels AS l WHERE l.key = ${key} AND l.value = ${value} AND l.task_id = c.id), false)"
        ));
    }
    if query.dead_letters {
        conditions.push_str(" AND false");
    }
    if let Some(before) = query.before {
        conditions.push_str(&format!(" AND c.id < ${}", text.add(uuid(before))?));
    }
    let most = text.add(limit(query.limit.saturating_add(1)))?;
    let branches: Vec<_> = states
        .iter()
        .map(|state| {
            // What runs stands in the index of its node alone.
            let held = if matches!(state, TaskState::Assigned | TaskState::Running) { " AND c.node IS NOT NULL" } else { "" };
            format!("(SELECT c.id FROM tasks AS c WHERE c.state = '{state}'{held}{conditions} ORDER BY c.id DESC LIMIT ${most})")
        })
        .collect();
    let newest = format!("SELECT n.id FROM ({}) AS n ORDER BY n.id DESC LIMIT ${most}", branches.join(" UNION ALL "));
    Ok((format!("SELECT {TASK} FROM ({newest}) AS n JOIN tasks AS t ON t.id = n.id ORDER BY n.id DESC"), text))
}

/// From the one index, in the order of the list, that leaves the least. Partial indexes are found by what is written out.
fn of_all(query: &TaskQuery) -> Result<(String, Text)> {
    let mut text = Text::default();
    let mut conditions = Vec::new();
    if let Some(state) = query.state {
        conditions.push(format!("t.state = '{state}'"));
    }
    if query.dead_letters {
        conditions.push("t.state = 'failed' AND t.discarded IS NULL".to_owned());
    }
    if query.live {
        conditions.push(format!("t.{}", super::statement::LIVE));
    }
    if let Some(agent) = &query.agent {
        conditions.push(format!("t.agent = ${}", text.add(&*escaped(agent))?));
    }
    if let Some(tenant) = &query.tenant {
        let narrow = if tenant == DEFAULT_TENANT { "" } else { " AND t.tenant <> 'default'" };
        conditions.push(format!("t.tenant = ${}{narrow}", text.add(&*escaped(tenant))?));
    }
    if let Some(parent) = query.parent {
        conditions.push(format!("t.parent_id = ${}", text.add(uuid(parent))?));
    }
    let mut from = "tasks AS t";
    let mut id = "t.id";
    if let Some((key, value)) = &query.label {
        from = "task_labels AS l JOIN tasks AS t ON t.id = l.task_id";
        id = "l.task_id";
        let (key, value) = (text.add(&*escaped(key))?, text.add(&*escaped(value))?);
        conditions.push(format!("l.key = ${key} AND l.value = ${value}"));
    }
    if let Some(before) = query.before {
        conditions.push(format!("{id} < ${}", text.add(uuid(before))?));
    }
    let limit = text.add(limit(query.limit.saturating_add(1)))?;
    let conditions = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    Ok((format!("SELECT {TASK} FROM {from}{conditions} ORDER BY {id} DESC LIMIT ${limit}"), text))
}
