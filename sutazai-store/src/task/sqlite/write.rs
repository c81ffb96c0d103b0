//! What changes the store: batches, claims, and keys that have had their day.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use sqlx::{
    Arguments, AssertSqlSafe, Row, SqlSafeStr, query_with,
    sqlite::{SqliteArguments, SqliteRow},
};
use sutazai_core::{
    clock::Timestamp,
    engine::{self, Command},
    store::{Claim, TaskWrite, WriteOutcome},
    task::{IdempotencyKey, Revision, Task},
};

use super::{
    error::{Fault, Result},
    plan::{FirstUse, Plan, Stored, Verdict, plan},
    row::{COLUMNS, decode_task, id_from},
    statement::{self, Statement},
};
use crate::sqlite::writer::{Lease, Writer};

/// How long a key is kept after the end of its task.
const KEY_LIFE_MS: i64 = 24 * 60 * 60 * 1_000;

/// Keys looked at in one transaction, so that writers wait little.
const FORGET: i64 = 500;

/// Stores a batch. First as if nothing stood in its way, in one trip to the connection; where something does, with a look at it.
pub(super) async fn write(writer: &Writer, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let hopeful = plan(batch, None);
    let mut lease = if hopeful.applies_all() {
        let statements = statement::transaction(&hopeful.writes)?;
        let mut lease = writer.lease().await?;
        match run(&mut lease, statements).await {
            Ok(()) => {
                lease.committed();
                return Ok(vec![WriteOutcome::Applied; batch.len()]);
            }
            Err(fault) => {
                lease.roll_back().await;
                if !fault.is_constraint() {
                    return Err(fault);
                }
            }
        }
        lease
    } else {
        writer.lease().await?
    };
    match write_carefully(&mut lease, batch).await {
        Ok(outcomes) => {
            lease.committed();
            Ok(outcomes)
        }
        Err(fault) => {
            lease.roll_back().await;
            Err(fault)
        }
    }
}

async fn write_carefully(lease: &mut Lease, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
    lease.begin().await?;
    let stored = look_up(lease, batch).await?;
    let Plan { verdicts, writes } = plan(batch, Some(&stored));
    // A replayed task is read before this batch changes it, unless the batch itself has the image.
    let replayed: Vec<_> = verdicts
        .iter()
        .filter_map(|verdict| if let Verdict::ReplayStored(id) = verdict { Some(*id) } else { None })
        .collect();
    let mut first = HashMap::new();
    for ids in statement::id_chunks(&replayed) {
        let (list, arguments) = statement::id_list(ids)?;
        let sql = format!("SELECT {} FROM tasks WHERE id IN {list}", COLUMNS.join(", "));
        for row in rows(lease, AssertSqlSafe(sql), arguments).await? {
            let task = decode_task(&row)?;
            first.insert(task.id, task);
        }
    }
    run(lease, statement::store(&writes)?).await?;
    lease.commit().await?;
    let outcomes = verdicts.into_iter().map(|verdict| match verdict {
        Verdict::Apply => WriteOutcome::Applied,
        Verdict::ReplayOf(task) => WriteOutcome::Replayed(Box::new(Task::clone(task))),
        Verdict::ReplayStored(id) => {
            first.get(&id).map_or(WriteOutcome::KeyConflict, |task| WriteOutcome::Replayed(Box::new(task.clone())))
        }
        Verdict::KeyConflict => WriteOutcome::KeyConflict,
        Verdict::Stale => WriteOutcome::Stale,
    });
    Ok(outcomes.collect())
}

/// The revisions and keys that decide about a batch.
async fn look_up<'w>(lease: &mut Lease, batch: &'w [TaskWrite]) -> Result<Stored> {
    let mut stored = Stored::default();
    let ids: Vec<_> = batch.iter().map(|write| write.task().id).collect();
    for ids in statement::id_chunks(&ids) {
        let (list, arguments) = statement::id_list(ids)?;
        let sql = format!("SELECT id, epoch, seq FROM tasks WHERE id IN {list}");
        for row in rows(lease, AssertSqlSafe(sql), arguments).await? {
            let revision = Revision {
                epoch: row.try_get_unchecked::<i64, _>(1)?.cast_unsigned(),
                seq: row.try_get_unchecked::<i64, _>(2)?.cast_unsigned(),
            };
            stored.revisions.insert(id_from(row.try_get_unchecked(0)?)?, revision);
        }
    }
    let key = |write: &'w TaskWrite| if let TaskWrite::Insert { key, .. } = write { key.as_ref() } else { None };
    let keys: Vec<&IdempotencyKey> = batch.iter().filter_map(key).collect();
    for keys in statement::key_chunks(&keys) {
        let (list, arguments) = statement::key_list(keys)?;
        let sql = format!(
            "SELECT k.tenant, k.key, k.fingerprint, k.task_id FROM (VALUES {list}) AS v \
             CROSS JOIN idempotency_keys AS k INDEXED BY idempotency_keys_key ON k.tenant = v.column1 AND k.key = v.column2"
        );
        for row in rows(lease, AssertSqlSafe(sql), arguments).await? {
            let first = FirstUse { fingerprint: row.try_get_unchecked(2)?, task: id_from(row.try_get_unchecked(3)?)? };
            stored.keys.insert((row.try_get_unchecked(0)?, row.try_get_unchecked(1)?), first);
        }
    }
    Ok(stored)
}

/// Every priority at which one of the agents has something runnable, then a merge of those queues: `next` begins with the first of each,
/// hands them over in order, and replaces what it hands over by the next of the same queue. Tasks of other agents cost nothing.
static CANDIDATES: LazyLock<String> = LazyLock::new(|| {
    const RUNNABLE: &str = "FROM tasks INDEXED BY tasks_runnable WHERE state IN ('created', 'waiting')";
    const PLACE: &str = "t.rowid, t.agent, t.priority, t.due_at, t.id";
    let columns = COLUMNS.map(|column| format!("t.{column}")).join(", ");
    format!(
        "BEGIN IMMEDIATE;WITH RECURSIVE queue (agent, priority) AS (\
         SELECT value, (SELECT max(priority) {RUNNABLE} AND agent = value) FROM (SELECT DISTINCT value FROM json_each(?2)) \
         UNION ALL \
         SELECT agent, (SELECT max(priority) {RUNNABLE} AND agent = queue.agent AND priority < queue.priority) \
         FROM queue WHERE priority IS NOT NULL\
         ), next (place, agent, priority, due_at, id) AS (\
         SELECT {PLACE} FROM queue CROSS JOIN tasks AS t ON t.rowid = (SELECT rowid {RUNNABLE} AND agent = queue.agent \
         AND priority = queue.priority AND due_at <= ?1 ORDER BY due_at, id LIMIT 1) \
         UNION ALL \
         SELECT {PLACE} FROM next CROSS JOIN tasks AS t ON t.rowid = (SELECT rowid {RUNNABLE} AND agent = next.agent \
         AND priority = next.priority AND (due_at, id) > (next.due_at, next.id) AND due_at <= ?1 ORDER BY due_at, id LIMIT 1) \
         ORDER BY 3 DESC, 4, 5 LIMIT ?3\
         ) SELECT {columns} FROM next CROSS JOIN tasks AS t ON t.rowid = next.place"
    )
});

/// Grants tasks by the engine's own rules.
pub(super) async fn claim(writer: &Writer, claim: &Claim) -> Result<Vec<Task>> {
    if claim.limit == 0 || claim.agents.is_empty() {
        return Ok(Vec::new());
    }
    let mut lease = writer.lease().await?;
    match claim_under(&mut lease, claim).await {
        Ok(tasks) => {
            lease.committed();
            Ok(tasks)
        }
        Err(fault) => {
            lease.roll_back().await;
            Err(fault)
        }
    }
}

async fn claim_under(lease: &mut Lease, claim: &Claim) -> Result<Vec<Task>> {
    let agents =
        serde_json::to_string(&claim.agents).map_err(|error| Fault::Driver(sqlx::Error::Encode(error.into())))?;
    let arguments = arguments(|arguments| {
        arguments.add(claim.now.as_millis())?;
        arguments.add(agents)?;
        arguments.add(limit(claim.limit))
    })?;
    let mut candidates = Vec::new();
    for row in rows(lease, AssertSqlSafe(CANDIDATES.as_str()), arguments).await? {
        candidates.push(decode_task(&row)?);
    }
    candidates.sort_by_key(|task| (std::cmp::Reverse(task.priority), task.due_at, task.id));
    let mut batch = Vec::with_capacity(candidates.len());
    for task in candidates {
        let command = Command::Claim { node: claim.node.clone() };
        if let Ok(step) = engine::apply(&task, command, claim.now) {
            batch.push(TaskWrite::Update { task: Arc::new(step.task), expected: task.revision, events: step.events });
        }
    }
    let mut statements = statement::store(&plan(&batch, None).writes)?;
    if statements.is_empty() {
        lease.roll_back().await;
    } else {
        statement::commit(&mut statements);
        run(lease, statements).await?;
    }
    Ok(batch.iter().map(|write| Task::clone(write.task())).collect())
}

/// Forgets the keys of tasks that ended a day before `now`, and says how many there were.
pub(super) async fn forget_keys(writer: &Writer, now: Timestamp) -> Result<u64> {
    let until = now.as_millis().saturating_sub(KEY_LIFE_MS);
    // Ids begin with their time of creation, so the index leads straight to the keys that are old enough.
    let mut oldest_kept = [0; 16];
    oldest_kept[..6].copy_from_slice(&until.max(0).to_be_bytes()[2..]);
    let mut after = Vec::new();
    let mut forgotten = 0;
    loop {
        let mut lease = writer.lease().await?;
        match forget_some(&mut lease, &after, &oldest_kept, until).await {
            Ok((deleted, last)) => {
                forgotten += deleted;
                match last {
                    Some(last) => after = last,
                    None => return Ok(forgotten),
                }
            }
            Err(fault) => {
                lease.roll_back().await;
                return Err(fault);
            }
        }
    }
}

/// Looks at some keys of tasks after `after` and before `end`: how many it forgot, and the last task it came to unless that was all.
async fn forget_some(lease: &mut Lease, after: &[u8], end: &[u8], until: i64) -> Result<(u64, Option<Vec<u8>>)> {
    lease.begin().await?;
    let range = arguments(|arguments| {
        arguments.add(after)?;
        arguments.add(end)?;
        arguments.add(FORGET - 1)
    })?;
    let last =
        "SELECT task_id FROM idempotency_keys WHERE task_id > ? AND task_id < ? ORDER BY task_id LIMIT 1 OFFSET ?";
    let last = rows(lease, last, range).await?;
    let last: Option<Vec<u8>> = last.first().map(|row| row.try_get_unchecked(0)).transpose()?;
    let ended = arguments(|arguments| {
        arguments.add(after)?;
        arguments.add(end)?;
        arguments.add(last.as_deref())?;
        arguments.add(until)
    })?;
    let deleted = rows(
        lease,
        "DELETE FROM idempotency_keys WHERE task_id > ?1 AND task_id < ?2 AND (?3 IS NULL OR task_id <= ?3) \
         AND EXISTS (SELECT 1 FROM tasks AS t WHERE t.id = task_id AND t.finished_at <= ?4) RETURNING 1",
        ended,
    );
    let deleted = deleted.await?.len() as u64;
    lease.commit().await?;
    Ok((deleted, last))
}

/// Runs statements one after the other.
async fn run(lease: &mut Lease, statements: Vec<Statement>) -> Result<()> {
    for statement in statements {
        let (sql, arguments) = statement.into_parts();
        query_with(sql, arguments).execute(lease.connection()?).await?;
    }
    Ok(())
}

/// Runs a query inside the transaction.
async fn rows(lease: &mut Lease, sql: impl SqlSafeStr, arguments: SqliteArguments) -> Result<Vec<SqliteRow>> {
    Ok(query_with(sql, arguments).fetch_all(lease.connection()?).await?)
}

/// The arguments of a statement.
pub(super) fn arguments(
    add: impl FnOnce(&mut SqliteArguments) -> Result<(), sqlx::error::BoxDynError>,
) -> Result<SqliteArguments> {
    let mut arguments = SqliteArguments::default();
    add(&mut arguments).map_err(|error| Fault::Driver(sqlx::Error::Encode(error)))?;
    Ok(arguments)
}

/// A limit as SQLite takes it.
pub(super) fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
