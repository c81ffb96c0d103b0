//! What changes tasks: batches.

use std::{collections::HashMap, sync::Arc};

use sutazai_core::{
    store::{TaskWrite, WriteOutcome},
    task::{Revision, Task, TaskId, TaskState},
};
use uuid::Uuid;

use super::{
    error::Result,
    follow,
    order::PLACES,
    pool::{Lease, Pool, Purpose, safe},
    read,
    row::Columns,
    statement::store,
    text::{Column, Fill, Kind, Table, Text, uuids},
};
use crate::task::shared::{
    plan::{FirstUse, Journal, Plan, Stored, Verdict, plan},
    track::Known,
};

/// How often a batch is tried that others stand in the way of.
pub(super) const TRIES: u32 = 8;

/// Stores a batch; in more than one commit only where one cannot number all its events.
pub(super) async fn write(pool: &Arc<Pool>, schema: &str, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut rest = batch;
    while !rest.is_empty() {
        let mut events = 0;
        let fits = rest.iter().take_while(|write| {
            events += count_events(write);
            events < PLACES
        });
        let (now, later) = rest.split_at(fits.count().max(1));
        outcomes.extend(write_at_once(pool, schema, now).await?);
        rest = later;
    }
    Ok(outcomes)
}

fn count_events(write: &TaskWrite) -> i64 {
    let born = match write {
        TaskWrite::Append { children, .. } => children.iter().map(|child| child.events.len()).sum(),
        _ => 0,
    };
    i64::try_from(write.events().len() + born).unwrap_or(PLACES)
}

/// Stores a batch: first as if nothing stood in its way, in one statement; where something does, with a look at it.
async fn write_at_once(pool: &Arc<Pool>, schema: &str, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
    let hopeful = plan(batch, None);
    let statement = match hopeful.applies_all() && !follow::needs_a_look(&hopeful) {
        true => store(&hopeful, false, schema)?,
        false => None,
    };
    let mut lease = pool.lease(Purpose::Work).await?;
    if let Some((sql, arguments)) = statement {
        match lease.rows(sql, arguments).await {
            Ok(_) => return Ok(vec![WriteOutcome::Applied; batch.len()]),
            Err(fault) if fault.is_constraint() || fault.is_collision() => {}
            Err(fault) => return Err(fault),
        }
    }
    let mut tries = 1;
    loop {
        match write_carefully(&mut lease, schema, batch).await {
            // Somebody else has stored what was not there when it was looked for, or was waited for by whom this waited for.
            Err(fault) if (fault.is_constraint() || fault.is_collision()) && tries < TRIES => tries += 1,
            outcome => return outcome,
        }
    }
}

async fn write_carefully(lease: &mut Lease, schema: &str, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
    lease.begin().await?;
    match write_under(lease, schema, batch).await {
        Ok(outcomes) => {
            lease.commit().await?;
            Ok(outcomes)
        }
        Err(fault) => {
            lease.roll_back().await;
            Err(fault)
        }
    }
}

async fn write_under(lease: &mut Lease, schema: &str, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
    let stored = look_up(lease, batch).await?;
    let plan = plan(batch, Some(&stored));
    // A replayed task is read before this batch changes it, unless the batch itself has the image.
    let replayed = |verdict: &Verdict| if let Verdict::ReplayStored(id, _) = verdict { Some(*id) } else { None };
    let replayed: Vec<TaskId> = plan.verdicts.iter().filter_map(replayed).collect();
    let first = match replayed.is_empty() {
        true => HashMap::new(),
        false => read::tasks(lease, &replayed).await?,
    };
    if let Some((sql, arguments)) = store(&plan, true, schema)? {
        lease.rows(sql, arguments).await?;
    }
    for (sql, arguments) in follow::copies(&plan)? {
        lease.rows(sql, arguments).await?;
    }
    Ok(answers(plan, &first))
}

fn answers(plan: Plan<'_>, first: &HashMap<TaskId, Task>) -> Vec<WriteOutcome> {
    let outcomes = plan.verdicts.into_iter().map(|verdict| match verdict {
        Verdict::Apply => WriteOutcome::Applied,
        Verdict::ReplayOf(task) => WriteOutcome::Replayed(task),
        Verdict::ReplayStored(id, wake) => first.get(&id).map_or(WriteOutcome::KeyConflict, |task| {
            let mut task = task.clone();
            if let Some(wake) = wake {
                wake.reach(&mut task);
            }
            WriteOutcome::Replayed(Box::new(task))
        }),
        Verdict::KeyConflict => WriteOutcome::KeyConflict,
        Verdict::Stale | Verdict::Unknown => WriteOutcome::Stale,
    });
    outcomes.collect()
}

const KEYS: [Column; 2] = [("tenant", Kind::Text, Fill::Own), ("key", Kind::Text, Fill::Own)];

const LENGTHS: [Column; 3] =
    [("task_id", Kind::Id, Fill::Own), ("era", Kind::Int, Fill::Own), ("before", Kind::Int, Fill::Rare)];

/// What decides about a batch. The tasks that it names or wakes stay as they are until the commit; they are locked in the order of their ids, as everywhere.
async fn look_up(lease: &mut Lease, batch: &[TaskWrite]) -> Result<Stored> {
    let mut stored = Stored::default();
    let mut ids: Vec<TaskId> = Vec::with_capacity(batch.len());
    for write in batch {
        ids.push(write.id());
        ids.extend(write.image().and_then(|task| task.parent_id));
        if let TaskWrite::Append { children, .. } = write {
            ids.extend(children.iter().map(|child| child.task.id));
        }
    }
    ids.sort_unstable();
    ids.dedup();
    let mut text = Text::default();
    text.add(uuids(&ids))?;
    let sql = "SELECT id, epoch, seq, state, wakes FROM tasks WHERE id = ANY($1) ORDER BY id FOR UPDATE";
    for row in lease.rows(sql, text.arguments).await? {
        let mut row = Columns::of(&row);
        let id = row.id()?;
        let revision = Revision { epoch: row.count()?, seq: row.count()? };
        let state: TaskState = row.get::<&str>()?.parse().map_err(super::row::unreadable("a state"))?;
        stored.tasks.insert(id, Known { revision, ended: state.is_terminal(), wakes: row.count()? });
    }
    let used: Vec<_> = batch.iter().filter_map(TaskWrite::key).collect();
    if !used.is_empty() {
        let mut keys = Table::new(&KEYS, used.len());
        for key in used {
            keys.text(&*key.tenant);
            keys.text(&*key.key);
        }
        let mut text = Text::default();
        text.sql.push_str("SELECT k.tenant, k.key, k.fingerprint, k.task_id FROM ");
        keys.source(&mut text)?;
        let join = " JOIN idempotency_keys AS k ON k.tenant = v.tenant AND k.key = v.key AND NOT ";
        text.sql.push_str(join);
        text.sql.push_str(follow::EXPIRED);
        for row in lease.rows(safe(text.sql), text.arguments).await? {
            let mut row = Columns::of(&row);
            let name = (row.text()?, row.text()?);
            let first = FirstUse { fingerprint: row.get()?, task: row.get::<Option<Uuid>>()?.map(super::row::task_id) };
            stored.keys.insert(name, first);
        }
    }
    lengths(lease, batch, &mut stored).await?;
    Ok(stored)
}

/// How many entries journals hold that the batch adds to, and how many of what it copies; they have no gaps.
async fn lengths(lease: &mut Lease, batch: &[TaskWrite], stored: &mut Stored) -> Result<()> {
    let mut table = Table::new(&LENGTHS, 0);
    for write in batch {
        let (task, era, before) = match write {
            TaskWrite::Append { task, era, .. } => (*task, *era, None),
            TaskWrite::Update { task, entries, .. } if !entries.is_empty() => (task.id, task.journal.era, None),
            TaskWrite::Insert { journal: Some(copy), .. } => (copy.from, copy.era, Some(copy.before.cast_signed())),
            _ => continue,
        };
        table.id(task);
        table.int(i64::from(era));
        table.int(before);
    }
    if table.is_empty() {
        return Ok(());
    }
    let before = if table.is_whole() { "v.before" } else { "NULL::int8" };
    let mut text = Text::default();
    text.sql.push_str(&format!(
        "SELECT v.task_id, v.era, (SELECT max(j.idx) + 1 FROM journal_entries AS j WHERE j.task_id = v.task_id AND j.era = v.era \
         AND j.idx < coalesce({before}, 9223372036854775807)), {before} FROM "
    ));
    table.source(&mut text)?;
    for row in lease.rows(safe(text.sql), text.arguments).await? {
        let mut row = Columns::of(&row);
        let journal: Journal = (row.id()?, row.number()?);
        let length = row.count()?;
        match row.get::<Option<i64>>()? {
            Some(before) => stored.beginnings.insert((journal, before.cast_unsigned()), length),
            None => stored.lengths.insert(journal, length),
        };
    }
    Ok(())
}
