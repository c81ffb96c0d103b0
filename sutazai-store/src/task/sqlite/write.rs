//! What changes the file: batches, and whatever else runs on the one connection that writes.

use std::collections::HashMap;

use sqlx::{
    Arguments, AssertSqlSafe, Row, SqlSafeStr, query_with,
    sqlite::{SqliteArguments, SqliteRow},
};
use sutazai_core::{
    clock::{Clock, SystemClock},
    store::{TaskWrite, WriteOutcome},
    task::{IdempotencyKey, Revision, Task, TaskId, TaskState},
};

use super::{
    error::{Fault, Result},
    keys::FORGET_ANSWERS,
    row::{Columns, SELECTED, decode_task, id_from},
    statement,
    text::{self, MOST, Statement},
};
use crate::sqlite::writer::{Lease, Writer};
use crate::task::shared::{
    plan::{FirstUse, Journal, Stored, Verdict, plan},
    track::Known,
};

/// Stores a batch. First as if nothing stood in its way, in one trip to the connection; where something does, with a look at it.
pub(super) async fn write(writer: &Writer, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let hopeful = plan(batch, None);
    let mut lease = if hopeful.applies_all() {
        let mut statements = statement::store(&hopeful)?;
        text::begin(&mut statements);
        text::commit(&mut statements);
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
    let plan = plan(batch, Some(&stored));
    // A replayed task is read before this batch changes it, unless the batch itself has the image.
    let replayed: Vec<_> = plan
        .verdicts
        .iter()
        .filter_map(|verdict| if let Verdict::ReplayStored(id, _) = verdict { Some(*id) } else { None })
        .collect();
    let first = tasks(lease, &replayed).await?;
    run(lease, statement::store(&plan)?).await?;
    lease.commit().await?;
    let outcomes = plan.verdicts.into_iter().map(|verdict| match verdict {
        Verdict::Apply => WriteOutcome::Applied,
        Verdict::ReplayOf(task) => WriteOutcome::Replayed(task),
        Verdict::ReplayStored(id, wake) => first.get(&id).map_or(WriteOutcome::KeyConflict, |task| {
            let mut task = Box::new(task.clone());
            if let Some(wake) = wake {
                wake.reach(&mut task);
            }
            WriteOutcome::Replayed(task)
        }),
        Verdict::KeyConflict => WriteOutcome::KeyConflict,
        Verdict::Stale | Verdict::Unknown => WriteOutcome::Stale,
    });
    Ok(outcomes.collect())
}

async fn tasks(lease: &mut Lease, ids: &[TaskId]) -> Result<HashMap<TaskId, Task>> {
    let mut found = HashMap::with_capacity(ids.len());
    for ids in ids.chunks(MOST) {
        let (list, arguments) = text::id_list(ids)?;
        let sql = format!("SELECT {} FROM tasks AS t WHERE t.id IN {list}", *SELECTED);
        for row in rows(lease, AssertSqlSafe(sql), arguments).await? {
            let task = decode_task(&row)?;
            found.insert(task.id, task);
        }
    }
    Ok(found)
}

/// The revisions, keys and places in journals that decide about a batch.
async fn look_up(lease: &mut Lease, batch: &[TaskWrite]) -> Result<Stored> {
    let mut stored = Stored::default();
    let mut ids = Vec::with_capacity(batch.len());
    let mut journals: Vec<Journal> = Vec::new();
    for write in batch {
        ids.push(write.id());
        match write {
            TaskWrite::Append { task, era, children, .. } => {
                ids.extend(children.iter().map(|child| child.task.id));
                journals.push((*task, *era));
            }
            TaskWrite::Update { task, entries, .. } if !entries.is_empty() => {
                journals.push((task.id, task.journal.era))
            }
            TaskWrite::Insert { journal: Some(copy), .. } => {
                let beginning = ((copy.from, copy.era), copy.before);
                stored.beginnings.insert(beginning, length(lease, beginning).await?);
            }
            _ => {}
        }
    }
    for ids in ids.chunks(MOST) {
        let (list, arguments) = text::id_list(ids)?;
        let sql = format!("SELECT id, epoch, seq, state, wakes FROM tasks WHERE id IN {list}");
        for row in rows(lease, AssertSqlSafe(sql), arguments).await? {
            let mut row = Columns::of(&row);
            let id = row.id()?;
            let revision = Revision { epoch: row.number()?, seq: row.number()? };
            let ended = row.get::<&str>()?.parse().is_ok_and(TaskState::is_terminal);
            stored.tasks.insert(id, Known { revision, ended, wakes: row.number()? });
        }
    }
    let keys: Vec<&IdempotencyKey> = batch.iter().filter_map(TaskWrite::key).collect();
    if !keys.is_empty() {
        let arguments = arguments(|arguments| arguments.add(SystemClock.now().as_millis()))?;
        rows(lease, FORGET_ANSWERS, arguments).await?;
    }
    for keys in keys.chunks(MOST) {
        let (list, arguments) = text::key_list(keys)?;
        let sql = format!(
            "SELECT k.tenant, k.key, k.fingerprint, k.task_id FROM (VALUES {list}) AS v \
             CROSS JOIN idempotency_keys AS k INDEXED BY idempotency_keys_key ON k.tenant = v.column1 AND k.key = v.column2"
        );
        for row in rows(lease, AssertSqlSafe(sql), arguments).await? {
            let task: &[u8] = row.try_get_unchecked(3)?;
            let task = if task.is_empty() { None } else { Some(id_from(task)?) };
            let first = FirstUse { fingerprint: row.try_get_unchecked(2)?, task };
            stored.keys.insert((row.try_get_unchecked(0)?, row.try_get_unchecked(1)?), first);
        }
    }
    for journal in journals {
        stored.lengths.insert(journal, length(lease, (journal, i64::MAX.cast_unsigned())).await?);
    }
    Ok(stored)
}

/// How many entries of a journal there are before an index; they have no gaps.
async fn length(lease: &mut Lease, ((task, era), before): (Journal, u64)) -> Result<u64> {
    let arguments = arguments(|arguments| {
        arguments.add(&task.as_bytes()[..])?;
        arguments.add(i64::from(era))?;
        arguments.add(before.cast_signed())
    })?;
    let sql = "SELECT coalesce(max(idx) + 1, 0) FROM journal_entries WHERE task_id = ? AND era = ? AND idx < ?";
    let rows = rows(lease, sql, arguments).await?;
    rows.first().map_or(Ok(0), |row| Columns::of(row).number())
}

/// Runs one statement that is a transaction of its own.
pub(super) async fn alone(writer: &Writer, sql: impl SqlSafeStr, arguments: SqliteArguments) -> Result<Vec<SqliteRow>> {
    let mut lease = writer.lease().await?;
    match rows(&mut lease, sql, arguments).await {
        Ok(rows) => {
            lease.committed();
            Ok(rows)
        }
        Err(fault) => {
            lease.roll_back().await;
            Err(fault)
        }
    }
}

/// Runs statements one after the other.
pub(super) async fn run(lease: &mut Lease, statements: Vec<Statement>) -> Result<()> {
    for statement in statements {
        let (sql, arguments) = statement.into_parts();
        query_with(sql, arguments).execute(lease.connection()?).await?;
    }
    Ok(())
}

/// Runs a query inside the transaction.
pub(super) async fn rows(
    lease: &mut Lease,
    sql: impl SqlSafeStr,
    arguments: SqliteArguments,
) -> Result<Vec<SqliteRow>> {
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
