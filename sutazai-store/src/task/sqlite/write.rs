//! What changes the store: batches, claims, and keys that have had their day.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use sqlx::{Arguments, AssertSqlSafe, Row, sqlite::SqliteArguments};
use sutazai_core::{
    clock::Timestamp,
    engine::{self, Command},
    store::{Claim, TaskWrite, WriteOutcome},
    task::{Revision, Task, TaskId},
};

use super::{
    error::{Fault, Result},
    plan::{FirstUse, Plan, Stored, Verdict, plan},
    row::{COLUMNS, decode_task, id_from},
    statement,
    writer::{Lease, Writer},
};

/// How long a key is kept after the end of its task.
const KEY_LIFE_MS: i64 = 24 * 60 * 60 * 1_000;

/// Keys forgotten in one transaction at most, so that writers wait little.
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
        match lease.run(statements).await {
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
        for row in lease.rows(AssertSqlSafe(sql), arguments).await? {
            let task = decode_task(&row)?;
            first.insert(task.id, task);
        }
    }
    lease.run(statement::store(&writes)?).await?;
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
async fn look_up(lease: &mut Lease, batch: &[TaskWrite]) -> Result<Stored> {
    let mut stored = Stored::default();
    let ids: Vec<_> = batch.iter().map(|write| write.task().id).collect();
    for ids in statement::id_chunks(&ids) {
        let (list, arguments) = statement::id_list(ids)?;
        let sql = format!("SELECT id, epoch, seq FROM tasks WHERE id IN {list}");
        for row in lease.rows(AssertSqlSafe(sql), arguments).await? {
            let revision = Revision {
                epoch: row.try_get_unchecked::<i64, _>(1)?.cast_unsigned(),
                seq: row.try_get_unchecked::<i64, _>(2)?.cast_unsigned(),
            };
            stored.revisions.insert(id_from(row.try_get_unchecked(0)?)?, revision);
        }
    }
    for write in batch {
        let TaskWrite::Insert { key: Some(key), .. } = write else { continue };
        let name = (key.tenant.to_string(), key.key.to_string());
        let sql = "SELECT fingerprint, task_id FROM idempotency_keys WHERE tenant = ? AND key = ?";
        let arguments = arguments(|arguments| {
            arguments.add(name.0.as_str())?;
            arguments.add(name.1.as_str())
        })?;
        if let Some(row) = lease.rows(sql, arguments).await?.first() {
            let task = id_from(row.try_get_unchecked(1)?)?;
            stored.keys.insert(name, FirstUse { fingerprint: row.try_get_unchecked(0)?, task });
        }
    }
    Ok(stored)
}

/// Candidates of each priority come from the index of what is runnable, highest first. The parts of a UNION ALL run in the order they are
/// written in, and the outer limit ends the last one that is needed; an ORDER BY would read all ten first.
static CANDIDATES: LazyLock<String> = LazyLock::new(|| {
    let of_priority = |priority: u8| {
        format!(
            "SELECT * FROM (SELECT rowid AS place FROM tasks INDEXED BY tasks_runnable \
             WHERE state IN ('created', 'waiting') AND priority = {priority} AND due_at <= ?1 \
             AND agent IN (SELECT value FROM json_each(?2)) ORDER BY due_at, id LIMIT ?3)"
        )
    };
    let columns = COLUMNS.map(|column| format!("t.{column}")).join(", ");
    let parts: Vec<_> = (0..=9).rev().map(of_priority).collect();
    format!(
        "BEGIN IMMEDIATE;SELECT {columns} FROM (SELECT place FROM ({}) LIMIT ?3) AS c CROSS JOIN tasks AS t ON t.rowid = c.place",
        parts.join(" UNION ALL ")
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
    for row in lease.rows(AssertSqlSafe(CANDIDATES.as_str()), arguments).await? {
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
        lease.run(statements).await?;
    }
    Ok(batch.iter().map(|write| Task::clone(write.task())).collect())
}

/// Forgets the keys of tasks that ended a day before `now`, and says how many there were.
pub(super) async fn forget_keys(writer: &Writer, now: Timestamp) -> Result<u64> {
    let until = now.as_millis().saturating_sub(KEY_LIFE_MS);
    // Ids begin with their time of creation, so the index leads straight to the keys that are old enough.
    let mut oldest_kept = [0; 16];
    oldest_kept[..6].copy_from_slice(&until.max(0).to_be_bytes()[2..]);
    let sql = "DELETE FROM idempotency_keys WHERE rowid IN \
               (SELECT k.rowid FROM idempotency_keys AS k CROSS JOIN tasks AS t ON t.id = k.task_id \
               WHERE k.task_id < ?1 AND t.finished_at <= ?2 ORDER BY k.task_id LIMIT ?3) RETURNING 1";
    let mut forgotten = 0;
    loop {
        let arguments = arguments(|arguments| {
            arguments.add(TaskId::from_bytes(oldest_kept).as_bytes().as_slice())?;
            arguments.add(until)?;
            arguments.add(FORGET)
        })?;
        let mut lease = writer.lease().await?;
        let deleted = lease.rows(sql, arguments).await?.len();
        lease.committed();
        forgotten += deleted as u64;
        if deleted < usize::try_from(FORGET).unwrap_or(usize::MAX) {
            return Ok(forgotten);
        }
    }
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
