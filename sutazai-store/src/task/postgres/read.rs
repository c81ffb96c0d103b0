//! What reads tasks and what hangs on them.

use std::collections::HashMap;

use sutazai_core::{
    clock::Timestamp,
    store::{Held, QueueDepths},
    task::{Entry, Event, NodeId, NumberedEvent, Signal, Task, TaskId},
};

use super::{
    error::Result,
    order::SETTLED,
    pool::{Lease, safe},
    row::{Columns, ENTRY, TASK, WIDTH, decode_entry, decode_events, decode_task, payload},
    statement::LIVE,
    text::{Text, escaped, limit, uuid, uuids},
};

/// Tasks by id; those that do not exist are missing.
pub(super) async fn tasks(lease: &mut Lease, ids: &[TaskId]) -> Result<HashMap<TaskId, Task>> {
    let mut text = Text::default();
    text.add(uuids(ids))?;
    let sql = format!("SELECT {TASK} FROM tasks AS t WHERE t.id = ANY($1)");
    let mut tasks = HashMap::with_capacity(ids.len());
    for row in lease.rows(safe(sql), text.arguments).await? {
        let task = decode_task(&row)?;
        tasks.insert(task.id, task);
    }
    Ok(tasks)
}

pub(super) async fn load(lease: &mut Lease, ids: &[TaskId]) -> Result<Vec<Option<Task>>> {
    let tasks = tasks(lease, ids).await?;
    Ok(ids.iter().map(|id| tasks.get(id).cloned()).collect())
}

pub(super) async fn held_by(lease: &mut Lease, node: &NodeId, most: usize) -> Result<Vec<Held>> {
    let mut text = Text::default();
    text.add(&*escaped(node.as_str()))?;
    text.add(limit(most))?;
    let sql = format!(
        "SELECT {TASK}, (SELECT max(j.idx) + 1 FROM journal_entries AS j WHERE j.task_id = t.id AND j.era = coalesce(t.journal_era, 0)) \
         FROM tasks AS t WHERE t.node = $1 AND t.node IS NOT NULL LIMIT $2"
    );
    let held =
        |row: &sqlx::postgres::PgRow| Ok(Held { task: decode_task(row)?, journal: Columns::from(row, WIDTH).count()? });
    lease.rows(safe(sql), text.arguments).await?.iter().map(held).collect()
}

pub(super) async fn ended_parents(lease: &mut Lease, most: usize) -> Result<Vec<TaskId>> {
    let mut text = Text::default();
    text.add(limit(most))?;
    let sql = format!(
        "SELECT DISTINCT c.parent_id FROM tasks AS c WHERE c.parent_id IS NOT NULL AND c.detached IS NULL AND c.{LIVE} \
         AND NOT EXISTS (SELECT 1 FROM tasks AS p WHERE p.id = c.parent_id AND p.{LIVE}) LIMIT $1"
    );
    lease.rows(safe(sql), text.arguments).await?.iter().map(|row| Columns::of(row).id()).collect()
}

pub(super) async fn overdue(lease: &mut Lease, now: Timestamp, most: usize) -> Result<Vec<Task>> {
    let mut text = Text::default();
    text.add(now.as_millis())?;
    text.add(limit(most))?;
    let sql = format!(
        "SELECT {TASK} FROM tasks AS t WHERE t.deadline <= $1 AND t.deadline IS NOT NULL AND t.{LIVE} ORDER BY t.deadline, t.id LIMIT $2"
    );
    lease.rows(safe(sql), text.arguments).await?.iter().map(decode_task).collect()
}

pub(super) async fn next_due(lease: &mut Lease, after: Timestamp) -> Result<Option<Timestamp>> {
    let mut text = Text::default();
    text.add(after.as_millis())?;
    let sql = format!(
        "SELECT least(\
         (SELECT due_at FROM tasks WHERE state = 'waiting' AND due_at < 9223372036854775807 AND due_at > $1 ORDER BY due_at LIMIT 1), \
         (SELECT deadline FROM tasks WHERE deadline IS NOT NULL AND {LIVE} AND deadline > $1 ORDER BY deadline LIMIT 1), \
         (SELECT next FROM schedules WHERE next IS NOT NULL AND next > $1 ORDER BY next LIMIT 1))"
    );
    let rows = lease.rows(safe(sql), text.arguments).await?;
    let next = rows.first().map(|row| Columns::of(row).maybe_time()).transpose()?.flatten();
    Ok(next.filter(|at| *at < Timestamp::NEVER))
}

/// By queue first: the index alone tells these.
pub(super) async fn queue_depths(lease: &mut Lease) -> Result<QueueDepths> {
    let sql = "WITH d AS MATERIALIZED (SELECT queue, count(*) AS depth FROM tasks WHERE state IN ('created', 'waiting') GROUP BY queue) \
               SELECT (SELECT t.agent FROM tasks AS t WHERE t.state IN ('created', 'waiting') AND t.queue = d.queue LIMIT 1), d.depth FROM d";
    let mut depths = QueueDepths::new();
    for row in lease.rows(sql, Text::default().arguments).await? {
        let mut row = Columns::of(&row);
        if let Some(agent) = row.maybe_text()? {
            *depths.entry(agent).or_default() += row.count()?;
        }
    }
    Ok(depths)
}

pub(super) async fn queued(lease: &mut Lease) -> Result<u64> {
    let rows = lease.rows("SELECT count(*) FROM tasks WHERE state = 'created'", Text::default().arguments).await?;
    rows.first().map_or(Ok(0), |row| Columns::of(row).count())
}

pub(super) async fn events(lease: &mut Lease, task: TaskId, after: u64, most: usize) -> Result<Vec<Event>> {
    let after_seq = i64::try_from(after).unwrap_or(i64::MAX);
    let mut text = Text::default();
    text.add(uuid(task))?;
    text.add(after_seq)?;
    // A row has one event at least.
    text.add(limit(most))?;
    let sql = "SELECT events FROM task_events WHERE task_id = $1 AND last_seq > $2 ORDER BY last_seq LIMIT $3";
    let mut events = Vec::new();
    for row in lease.rows(sql, text.arguments).await? {
        let of_row = decode_events(task, Columns::of(&row).get()?)?;
        events.extend(of_row.filter(|event| event.seq > after));
    }
    events.truncate(most);
    Ok(events)
}

/// What is shown here is final, and so is its order.
pub(super) async fn feed(lease: &mut Lease, after: u64, most: usize) -> Result<Vec<NumberedEvent>> {
    let mut text = Text::default();
    text.add(i64::try_from(after).unwrap_or(i64::MAX))?;
    text.add(limit(most))?;
    let sql = format!(
        "SELECT number, task_id, last_seq, events FROM task_events WHERE number > $1 AND number < {SETTLED} ORDER BY number LIMIT $2"
    );
    let mut events = Vec::new();
    for row in lease.rows(safe(sql), text.arguments).await? {
        let mut row = Columns::of(&row);
        let (last, task, last_seq) = (row.count()?, row.id()?, row.count()?);
        let numbered = decode_events(task, row.get()?)?.map(|event| {
            let number = last.saturating_sub(last_seq.saturating_sub(event.seq));
            NumberedEvent { number, event }
        });
        events.extend(numbered.filter(|event| event.number > after));
    }
    events.truncate(most);
    Ok(events)
}

pub(super) async fn journal(lease: &mut Lease, task: TaskId, era: u32, from: u64, most: usize) -> Result<Vec<Entry>> {
    let mut text = Text::default();
    text.add(uuid(task))?;
    text.add(i64::from(era))?;
    text.add(i64::try_from(from).unwrap_or(i64::MAX))?;
    text.add(limit(most))?;
    let sql = format!(
        "SELECT {ENTRY} FROM journal_entries WHERE task_id = $1 AND era = $2 AND idx >= $3 ORDER BY idx LIMIT $4"
    );
    lease.rows(safe(sql), text.arguments).await?.iter().map(decode_entry).collect()
}

pub(super) async fn signals(
    lease: &mut Lease,
    task: TaskId,
    name: &str,
    from: u64,
    most: usize,
) -> Result<Vec<Signal>> {
    let mut text = Text::default();
    text.add(uuid(task))?;
    text.add(&*escaped(name))?;
    text.add(i64::try_from(from).unwrap_or(i64::MAX))?;
    text.add(limit(most))?;
    let sql =
        "SELECT payload, at FROM signals WHERE task_id = $1 AND name = $2 AND number >= $3 ORDER BY number LIMIT $4";
    let signal = |row: &sqlx::postgres::PgRow| {
        let mut row = Columns::of(row);
        Ok(Signal { name: name.to_owned(), payload: payload(row.get()?)?, at: row.time()? })
    };
    lease.rows(sql, text.arguments).await?.iter().map(signal).collect()
}
