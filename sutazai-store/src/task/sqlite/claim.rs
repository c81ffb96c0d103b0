//! Grants tasks by the engine's own policy, each step one statement inside the transaction of the grant.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use sqlx::{Arguments, AssertSqlSafe, Row, sqlite::SqliteArguments};
use sutazai_core::{
    clock::Timestamp,
    engine::{self, Ask, Candidate, Command, Head, Rate, Running, Selected, Selection},
    store::{Claim, Granted, TaskWrite},
    task::{Priority, Task, TaskId, TaskState},
};

use super::{
    error::{Fault, Result},
    row::{Columns, SELECTED, decode_task_from, unreadable},
    statement,
    text::{self, MOST, Text},
    write::{arguments, limit, rows, run},
};
use crate::sqlite::writer::{Lease, Writer};
use crate::task::shared::plan::plan;

const RUNNABLE: &str = "FROM tasks INDEXED BY tasks_runnable WHERE state IN ('created', 'waiting')";

/// What is not of the task in [`HEADS`].
const OF_HEAD: usize = 4;

/// The sub-queues of the queues named that have something due: each is found by one step into the index from the one before, however many
/// tasks wait. If there is but one, as there mostly is, its first tasks come along.
///
/// The step compares with what no task comes after in its sub-queue: SQLite seeks to a row value itself, and tells what equals it in its first
/// columns from there on row by row. The `+` takes the tenant's affinity out of the comparison, with which the index serves the priority alone.
pub(super) static HEADS: LazyLock<String> = LazyLock::new(|| {
    const PLACE: &str = "t.queue, t.priority, t.tenant, t.due_at";
    const END: &str = "9223372036854775807, x'ffffffffffffffffffffffffffffffffff'";
    const ORDER: &str = "ORDER BY priority, tenant, due_at, id LIMIT 1";
    format!(
        "BEGIN IMMEDIATE;WITH RECURSIVE lane (queue, priority, tenant, due_at) AS (\
         SELECT {PLACE} FROM json_each(?2) AS q CROSS JOIN tasks AS t ON t.rowid = (\
         SELECT rowid {RUNNABLE} AND queue = q.value {ORDER}) \
         UNION ALL \
         SELECT {PLACE} FROM lane CROSS JOIN tasks AS t ON t.rowid = (\
         SELECT rowid {RUNNABLE} AND queue = lane.queue AND (priority, tenant, due_at, id) > (lane.priority, +lane.tenant, {END}) {ORDER})\
         ), head AS MATERIALIZED (SELECT * FROM lane WHERE due_at <= ?1) \
         SELECT head.*, {} FROM head LEFT JOIN tasks AS t ON t.rowid IN (\
         SELECT rowid {RUNNABLE} AND queue = head.queue AND priority = head.priority AND tenant = head.tenant \
         AND due_at <= ?1 ORDER BY due_at, id LIMIT ?3 * ((SELECT count(*) FROM head) = 1))",
        *SELECTED
    )
});

/// The tasks that a round of asks is for: `[queue, priority, tenant, due_by, limit, due_at and id in hex of the last one read]` each, and
/// which ask each is for. One after the other is found by one step into the index.
pub(super) static ASKED: LazyLock<String> = LazyLock::new(|| {
    const STEP: &str = "ORDER BY due_at, id LIMIT 1";
    format!(
        "WITH RECURSIVE next (ask, queue, priority, tenant, due_by, wanted, place, due_at, id) AS (\
         SELECT ask.key, ask.value ->> 0, ask.value ->> 1, ask.value ->> 2, ask.value ->> 3, ask.value ->> 4, t.rowid, t.due_at, t.id \
         FROM json_each(?1) AS ask CROSS JOIN tasks AS t ON t.rowid = (\
         SELECT rowid {RUNNABLE} AND queue = ask.value ->> 0 AND priority = ask.value ->> 1 AND tenant = ask.value ->> 2 \
         AND due_at <= ask.value ->> 3 AND (due_at, id) > (ask.value ->> 5, unhex(ask.value ->> 6)) {STEP}) \
         UNION ALL \
         SELECT next.ask, next.queue, next.priority, next.tenant, next.due_by, next.wanted - 1, t.rowid, t.due_at, t.id \
         FROM next CROSS JOIN tasks AS t ON t.rowid = (\
         SELECT rowid {RUNNABLE} AND queue = next.queue AND priority = next.priority AND tenant = next.tenant \
         AND due_at <= next.due_by AND (due_at, id) > (next.due_at, next.id) {STEP}) WHERE next.wanted > 1\
         ) SELECT next.ask, {} FROM next CROSS JOIN tasks AS t ON t.rowid = next.place",
        *SELECTED
    )
});

/// Grants tasks by the engine's own rules.
pub(super) async fn claim(writer: &Writer, claim: &Claim) -> Result<Granted> {
    if claim.limit == 0 || claim.policy.queues.is_empty() {
        return Ok(Granted::default());
    }
    let mut lease = writer.lease().await?;
    match claim_under(&mut lease, claim).await {
        Ok(granted) => {
            lease.committed();
            Ok(granted)
        }
        Err(fault) => {
            lease.roll_back().await;
            Err(fault)
        }
    }
}

async fn claim_under(lease: &mut Lease, claim: &Claim) -> Result<Granted> {
    let mut found = Found::default();
    let selected = select(lease, claim, &mut found).await?;
    let mut from_created = 0;
    let mut batch = Vec::with_capacity(selected.picks.len());
    for task in selected.picks.iter().filter_map(|id| found.tasks.remove(id)) {
        let command = Command::Claim { node: claim.node.clone() };
        if let Ok(step) = engine::apply(&task, command, claim.now) {
            from_created += usize::from(task.state == TaskState::Created);
            batch.push(TaskWrite::Update {
                task: Arc::new(step.task),
                expected: task.revision,
                events: step.events,
                entries: Vec::new(),
                key: None,
            });
        }
    }
    let mut statements = statement::store(&plan(&batch, None))?;
    if statements.is_empty() {
        lease.roll_back().await;
    } else {
        for chunk in selected.rates.chunks(MOST) {
            let mut text = Text::new();
            text.rows("INSERT OR REPLACE INTO rates (agent, tat)", 2, chunk, |row, rate| {
                row.add(&*rate.agent)?;
                row.add(rate.tat)
            })?;
            statements.push(text.end());
        }
        text::commit(&mut statements);
        run(lease, statements).await?;
    }
    let tasks = batch.iter().filter_map(TaskWrite::image).map(|task| Task::clone(task)).collect();
    Ok(Granted { tasks, from_created, again_at: selected.again_at, held_back: selected.held_back })
}

/// What was read on the way.
#[derive(Default)]
struct Found {
    tasks: HashMap<TaskId, Task>,
    /// The first tasks of the only sub-queue there is, as many as the claim may take.
    only: Option<Vec<Candidate>>,
}

async fn select(lease: &mut Lease, claim: &Claim, found: &mut Found) -> Result<Selected> {
    let heads = heads(lease, claim, found).await?;
    let (running, rates) = if heads.is_empty() { Default::default() } else { limits(lease, claim).await? };
    let mut selection = Selection::new(&claim.policy, claim.now, claim.limit, heads, &running, &rates);
    loop {
        let asks = selection.asks();
        if asks.is_empty() {
            return Ok(selection.finish());
        }
        if let ([ask], Some(only)) = (&asks[..], &found.only) {
            // Shorter than the claim's limit, it is all there is; else the asks add up to no more than it.
            let after = |task: &&Candidate| ask.after.is_none_or(|after| (task.due_at, task.id) > after);
            let tasks = only.iter().filter(after).take_while(|task| task.due_at <= ask.due_by).take(ask.limit);
            let tasks = tasks.copied().collect();
            selection.offer(0, tasks);
            continue;
        }
        for (index, tasks) in asked(lease, &asks, found).await?.into_iter().enumerate() {
            selection.offer(index, tasks);
        }
    }
}

async fn heads(lease: &mut Lease, claim: &Claim, found: &mut Found) -> Result<Vec<Head>> {
    let queues: Vec<&str> = claim.policy.queues.keys().map(|queue| &**queue).collect();
    let queues = json(&queues)?;
    let arguments = arguments(|arguments| {
        arguments.add(claim.now.as_millis())?;
        arguments.add(queues)?;
        arguments.add(limit(claim.limit))
    })?;
    let mut heads: Vec<Head> = Vec::new();
    let mut only = Vec::new();
    for row in rows(lease, AssertSqlSafe(HEADS.as_str()), arguments).await? {
        if row.try_get_unchecked::<Option<&[u8]>, _>(OF_HEAD)?.is_some() {
            let task = decode_task_from(&row, OF_HEAD)?;
            only.push(Candidate { due_at: task.due_at, id: task.id });
            found.tasks.insert(task.id, task);
            if !heads.is_empty() {
                continue;
            }
        }
        let mut row = Columns::of(&row);
        let queue = row.shared()?;
        let priority = Priority::new(row.number()?).ok_or("above 9").map_err(unreadable("a priority"))?;
        heads.push(Head { queue, priority, tenant: row.shared()?, due_at: Timestamp::from_millis(row.get()?) });
    }
    if !only.is_empty() {
        only.sort_unstable_by_key(|task| (task.due_at, task.id));
        found.only = Some(only);
    }
    Ok(heads)
}

/// What runs and what rates have let through, as far as the policy has limits that ask for it.
async fn limits(lease: &mut Lease, claim: &Claim) -> Result<(Vec<Running>, Vec<Rate>)> {
    let policy = &claim.policy;
    let mut running = Vec::new();
    let mut rates = Vec::new();
    if policy.queues.values().any(|rule| rule.concurrency.is_some())
        || policy.tenants.values().chain([&policy.other_tenants]).any(|rule| rule.concurrency.is_some())
    {
        let sql = "SELECT agent, tenant, count(*) FROM tasks INDEXED BY tasks_node WHERE node IS NOT NULL GROUP BY agent, tenant";
        for row in rows(lease, sql, SqliteArguments::default()).await? {
            let mut row = Columns::of(&row);
            running.push(Running { agent: row.shared()?, tenant: row.shared()?, count: row.number()? });
        }
    }
    if policy.queues.values().any(|rule| rule.rate.is_some()) {
        for row in rows(lease, "SELECT agent, tat FROM rates", SqliteArguments::default()).await? {
            let mut row = Columns::of(&row);
            rates.push(Rate { agent: row.shared()?, tat: row.get()? });
        }
    }
    Ok((running, rates))
}

/// The answers to a round of asks.
async fn asked(lease: &mut Lease, asks: &[Ask], found: &mut Found) -> Result<Vec<Vec<Candidate>>> {
    let as_json = |ask: &Ask| {
        let (after, id) = match ask.after {
            Some((due_at, id)) => (due_at.as_millis(), hex(id)),
            None => (-i64::MAX, String::new()),
        };
        let due_by = ask.due_by.as_millis();
        (ask.queue.clone(), ask.priority.get(), ask.tenant.clone(), due_by, limit(ask.limit), after, id)
    };
    let text = json(&asks.iter().map(as_json).collect::<Vec<_>>())?;
    let arguments = arguments(|arguments| arguments.add(text))?;
    let mut answers: Vec<Vec<Candidate>> = asks.iter().map(|_| Vec::new()).collect();
    for row in rows(lease, AssertSqlSafe(ASKED.as_str()), arguments).await? {
        let ask: i64 = row.try_get_unchecked(0)?;
        let task = decode_task_from(&row, 1)?;
        if let Some(answer) = usize::try_from(ask).ok().and_then(|ask| answers.get_mut(ask)) {
            answer.push(Candidate { due_at: task.due_at, id: task.id });
        }
        found.tasks.insert(task.id, task);
    }
    for answer in &mut answers {
        answer.sort_unstable_by_key(|task| (task.due_at, task.id));
    }
    Ok(answers)
}

fn hex(id: TaskId) -> String {
    id.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Fault::Driver(sqlx::Error::Encode(error.into())))
}
