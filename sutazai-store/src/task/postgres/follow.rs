//! The parts for what hangs on tasks: keys, labels, journals, signals, wake-ups and the outbox.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, HashSet},
};

use sqlx::{AssertSqlSafe, postgres::PgArguments};
use sutazai_core::{
    clock::Timestamp,
    store::KEY_LIFE,
    task::{Entry, TaskId},
};

use super::{
    error::Result,
    row::ENTRY,
    statement::{LIVE, Statement},
    text::{Column, Fill, Kind, Table, Text, uuid, uuids},
};
use crate::task::shared::plan::{Entries, Plan};

/// Whether a key `k` belongs to an answer whose day has passed, by the database's clock: it counts as not used.
pub(super) const EXPIRED: &str = "(k.task_id IS NULL AND k.expires_at <= (extract(epoch FROM now()) * 1000)::int8)";

const FENCES: [Column; 2] = [("id", Kind::Id, Fill::Own), ("epoch", Kind::Int, Fill::Own)];

const KEYS: [Column; 5] = [
    ("task_id", Kind::Id, Fill::Own),
    ("expires_at", Kind::Int, Fill::Own),
    ("tenant", Kind::Text, Fill::Own),
    ("key", Kind::Text, Fill::Own),
    ("fingerprint", Kind::Bytes, Fill::Own),
];

const LABELS: [Column; 3] =
    [("key", Kind::Text, Fill::Own), ("value", Kind::Text, Fill::Own), ("task_id", Kind::Id, Fill::Own)];

const ENTRIES: [Column; 12] = [
    ("task_id", Kind::Id, Fill::Own),
    ("era", Kind::Int, Fill::Own),
    ("idx", Kind::Int, Fill::Own),
    ("path", Kind::Text, Fill::Own),
    ("name", Kind::Text, Fill::Own),
    ("occurrence", Kind::Int, Fill::Own),
    ("kind", Kind::Text, Fill::Own),
    ("epoch", Kind::Int, Fill::Own),
    ("at", Kind::Int, Fill::Own),
    ("stage", Kind::Text, Fill::Own),
    ("body", Kind::Text, Fill::Own),
    ("after", Kind::Int, Fill::Rare),
];

const SIGNALS: [Column; 5] = [
    ("task_id", Kind::Id, Fill::Own),
    ("name", Kind::Text, Fill::Own),
    ("place", Kind::Int, Fill::Own),
    ("payload", Kind::Text, Fill::Own),
    ("at", Kind::Int, Fill::Own),
];

const WAKES: [Column; 4] = [
    ("id", Kind::Id, Fill::Own),
    ("woken", Kind::Int, Fill::Own),
    ("at", Kind::Int, Fill::Own),
    ("fenced", Kind::Bool, Fill::Own),
];

const NEW: [Column; 3] =
    [("task_id", Kind::Id, Fill::Own), ("url", Kind::Text, Fill::Own), ("due_at", Kind::Int, Fill::Own)];

const OLD: [Column; 2] = [("task_id", Kind::Id, Fill::Own), ("due_at", Kind::Int, Fill::Own)];

/// The tasks whose journals grow, and the epochs at which they must be.
fn fenced(plan: &Plan<'_>) -> BTreeSet<(TaskId, u64)> {
    plan.entries.iter().filter_map(|entries| Some((entries.journal.0, entries.fence?))).collect()
}

/// Where several parts lock tasks, all of these are locked before, in the order of their ids: two batches that have tasks in common then wait for one
/// another, and never both.
pub(super) fn locks(plan: &Plan<'_>, statement: &mut Statement) -> Result<()> {
    let fenced = fenced(plan);
    let updated = || plan.writes.iter().filter(|write| write.expected.is_some()).map(|write| write.task.id);
    let kinds = [!fenced.is_empty(), updated().next().is_some(), !plan.wakes.is_empty()];
    // Signals come between the wake-ups of their tasks.
    let signals = plan.wakes.len() > 1 && !plan.signals.is_empty();
    if kinds.into_iter().filter(|kind| *kind).count() < 2 && !signals {
        return Ok(());
    }
    let mut ids: Vec<TaskId> = updated().chain(fenced.iter().map(|(task, _)| *task)).collect();
    ids.extend(plan.wakes.iter().map(|(task, _)| *task));
    ids.sort_unstable();
    ids.dedup();
    let place = statement.text.add(uuids(&ids))?;
    statement.part("o");
    statement.sql(&format!("SELECT 1 FROM tasks AS t WHERE t.id = ANY(${place}) ORDER BY t.id FOR NO KEY UPDATE)"));
    statement.first("(SELECT count(*) FROM o) >= 0");
    Ok(())
}

/// The tasks whose journals grow are at the epoch of the writer, have not ended, and stay so until the commit: who takes one over waits.
pub(super) fn fences(plan: &Plan<'_>, statement: &mut Statement) -> Result<()> {
    let fences = fenced(plan);
    if fences.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&FENCES, fences.len());
    for (task, epoch) in &fences {
        table.id(*task);
        table.count(*epoch);
    }
    statement.part("f");
    statement.sql("SELECT 1 FROM ");
    statement.source(table)?;
    statement.sql(&format!(" JOIN tasks AS t ON t.id = v.id AND t.epoch = v.epoch AND t.{LIVE} FOR SHARE OF t)"));
    statement.guard("SELECT count(*) FROM f", fences.len())
}

/// Whether a statement cannot find out by itself what it has to know: a signal for a task that the batch then changes, a journal that is copied.
pub(super) fn needs_a_look(plan: &Plan<'_>) -> bool {
    let written: HashSet<TaskId> = match plan.signals.iter().any(|told| told.fenced) {
        true => plan.writes.iter().map(|write| write.task.id).collect(),
        false => HashSet::new(),
    };
    !plan.copies.is_empty() || plan.signals.iter().any(|told| told.fenced && written.contains(&told.task))
}

pub(super) fn follow(plan: &Plan<'_>, judged: bool, statement: &mut Statement) -> Result<()> {
    let mut keys = Table::new(&KEYS, plan.keys.len());
    // In one order, as tasks are: who uses the same key waits for the commit.
    let mut used: Vec<_> = plan.keys.iter().collect();
    used.sort_by_key(|used| (&used.key.tenant, &used.key.key));
    for used in used {
        keys.id(used.task);
        keys.int(used.at.map(key_end));
        keys.text(&*used.key.tenant);
        keys.text(&*used.key.key);
        keys.bytes(&used.key.fingerprint);
    }
    if !keys.is_empty() {
        let rows = keys.rows();
        statement.part("k");
        statement
            .sql("INSERT INTO idempotency_keys AS k (task_id, expires_at, tenant, key, fingerprint) SELECT v.* FROM ");
        statement.source(keys)?;
        statement.sql(&format!(
            " ON CONFLICT (tenant, key) DO UPDATE SET task_id = excluded.task_id, expires_at = excluded.expires_at, \
             fingerprint = excluded.fingerprint, answer = NULL WHERE {EXPIRED} RETURNING 1)"
        ));
        statement.guard("SELECT count(*) FROM k", rows)?;
    }

    let new = plan.writes.iter().filter(|write| write.expected.is_none());
    let mut labels = Table::new(&LABELS, 0);
    for (task, (key, value)) in new.flat_map(|write| write.task.labels.iter().map(|label| (write.task.id, label))) {
        labels.text(key.as_str());
        labels.text(value.as_str());
        labels.id(task);
    }
    insert(statement, "l", "task_labels (key, value, task_id)", "v.*", labels)?;

    entries(plan, statement)?;
    signals(plan, statement)?;
    wakes(plan, judged, statement)?;
    outbox(plan, statement)
}

/// The first entry of each write goes behind the one that has to be there, which the statement looks for unless that is known. Not by `EXISTS`: beside an `OR`
/// the planner may answer that by a hash of the whole table.
fn entries(plan: &Plan<'_>, statement: &mut Statement) -> Result<()> {
    let mut table = Table::new(&ENTRIES, plan.entries.len());
    let first = |of: &Entries<'_>, entry: &Entry| of.entries.first().is_some_and(|first| first.index == entry.index);
    for (of, entry) in plan.entries.iter().flat_map(|of| of.entries.iter().map(move |entry| (of, entry))) {
        table.id(of.journal.0);
        table.int(i64::from(of.journal.1));
        table.count(entry.index);
        table.text(entry.id.path.as_str());
        table.text(entry.id.name.as_str());
        table.int(i64::from(entry.id.occurrence));
        table.plain(Cow::Borrowed(entry.kind.as_str()));
        table.count(entry.epoch);
        table.time(entry.at);
        table.plain(Cow::Borrowed(entry.outcome.stage()));
        table.plain(Cow::<str>::Owned(entry.outcome.body().as_str().to_owned()));
        table.int(of.after.filter(|_| first(of, entry)).map(u64::cast_signed));
    }
    if table.is_empty() {
        return Ok(());
    }
    let (rows, looks) = (table.rows(), table.is_whole());
    statement.part("j");
    statement.sql(&format!(
        "INSERT INTO journal_entries (task_id, era, {ENTRY}) SELECT v.task_id, v.era, v.idx, v.path, v.name, v.occurrence, v.kind, \
         v.epoch, v.at, v.stage, v.body FROM "
    ));
    statement.source(table)?;
    if looks {
        statement.sql(
            " WHERE v.after IS NULL OR (SELECT true FROM journal_entries AS j WHERE j.task_id = v.task_id AND j.era = v.era \
             AND j.idx = v.after) RETURNING 1",
        );
        statement.guard("SELECT count(*) FROM j", rows)?;
    }
    statement.end();
    Ok(())
}

/// A part that inserts rows, if there are any.
fn insert(statement: &mut Statement, part: &str, into: &str, values: &str, table: Table<'_>) -> Result<()> {
    if table.is_empty() {
        return Ok(());
    }
    statement.part(part);
    statement.sql(&format!("INSERT INTO {into} SELECT {values} FROM "));
    statement.source(table)?;
    statement.end();
    Ok(())
}

/// Each is the next of its name. Two transactions that think of the same number do not both commit.
fn signals(plan: &Plan<'_>, statement: &mut Statement) -> Result<()> {
    let mut before: HashMap<(TaskId, &str), i64> = HashMap::new();
    let mut table = Table::new(&SIGNALS, plan.signals.len());
    let mut told: Vec<_> = plan.signals.iter().collect();
    told.sort_by_key(|told| told.task);
    for told in told {
        let place = before.entry((told.task, told.signal.name.as_str())).or_default();
        table.id(told.task);
        table.text(told.signal.name.as_str());
        table.int(*place);
        table.plain(Cow::Borrowed(told.signal.payload.as_str()));
        table.time(told.signal.at);
        *place += 1;
    }
    let number = "v.place + coalesce((SELECT max(s.number) + 1 FROM signals AS s WHERE s.task_id = v.task_id AND s.name = v.name), 0)";
    let values = format!("v.task_id, v.name, {number}, v.payload, v.at");
    insert(statement, "s", "signals (task_id, name, number, payload, at)", &values, table)
}

/// Of tasks that the batch does not write.
fn wakes(plan: &Plan<'_>, judged: bool, statement: &mut Statement) -> Result<()> {
    if plan.wakes.is_empty() {
        return Ok(());
    }
    let fenced: HashSet<TaskId> =
        plan.signals.iter().filter(|told| told.fenced && !judged).map(|told| told.task).collect();
    let mut wakes: Vec<_> = plan.wakes.iter().collect();
    wakes.sort_unstable_by_key(|(task, _)| *task);
    let mut table = Table::new(&WAKES, wakes.len());
    for (task, wake) in wakes {
        table.id(*task);
        table.count(wake.count);
        table.time(wake.at);
        table.flag(fenced.contains(task));
    }
    statement.part("w");
    statement.sql(
        "UPDATE tasks AS t SET wakes = t.wakes + v.woken, \
         due_at = CASE WHEN t.wait = 'event' THEN least(t.due_at, v.at) ELSE t.due_at END FROM ",
    );
    statement.source(table)?;
    statement.sql(&format!(
        " WHERE t.id = v.id AND (v.fenced IS NULL OR t.{LIVE}) RETURNING v.fenced, t.state = 'waiting' AND t.wait = 'event' AS runnable)"
    ));
    statement.runnable_if("EXISTS (SELECT 1 FROM w WHERE w.runnable)");
    if fenced.is_empty() { Ok(()) } else { statement.guard("SELECT count(*) FROM w WHERE w.fenced", fenced.len()) }
}

/// Events of a task with a webhook are to be posted. The row is written even where it says so already: whoever notes at the same time that all is
/// posted waits for this commit, or is waited for.
fn outbox(plan: &Plan<'_>, statement: &mut Statement) -> Result<()> {
    let (mut new, mut old, mut revived) = (Table::new(&NEW, 0), Table::new(&OLD, 0), Table::new(&OLD, 0));
    let mut writes: Vec<_> = plan.writes.iter().collect();
    writes.sort_unstable_by_key(|write| write.task.id);
    for write in writes {
        let Some(url) = &write.task.webhook else { continue };
        if write.expected.is_none() {
            new.id(write.task.id);
            new.text(&**url);
            new.time(write.noted_at);
        } else if write.noted_at.is_some() {
            let table = if write.revives() { &mut revived } else { &mut old };
            table.id(write.task.id);
            table.time(write.noted_at);
        }
    }
    insert(statement, "dn", "deliveries (posted, failures, task_id, url, due_at)", "0, 0, v.*", new)?;
    if !old.is_empty() {
        statement.part("du");
        statement.sql(
            "UPDATE deliveries AS d SET due_at = CASE WHEN d.given_up IS NULL THEN coalesce(d.due_at, v.due_at) ELSE d.due_at END FROM ",
        );
        statement.source(old)?;
        statement.sql(" WHERE d.task_id = v.task_id)");
    }
    if !revived.is_empty() {
        statement.part("dr");
        statement.sql(
            "UPDATE deliveries AS d SET due_at = coalesce(d.due_at, v.due_at), given_up = NULL, \
             failures = CASE WHEN d.given_up IS NULL THEN d.failures ELSE 0 END FROM ",
        );
        statement.source(revived)?;
        statement.sql(" WHERE d.task_id = v.task_id)");
    }
    Ok(())
}

/// What copies journals, one statement each: they may copy what the batch itself has stored.
pub(super) fn copies(plan: &Plan<'_>) -> Result<Vec<(AssertSqlSafe<String>, PgArguments)>> {
    let copy = |copied: &crate::task::shared::plan::Copied| {
        let mut text = Text::default();
        text.add(uuid(copied.to.0))?;
        text.add(i64::from(copied.to.1))?;
        text.add(uuid(copied.of.from))?;
        text.add(i64::from(copied.of.era))?;
        text.add(i64::try_from(copied.of.before).unwrap_or(i64::MAX))?;
        let sql = format!(
            "INSERT INTO journal_entries (task_id, era, {ENTRY}) SELECT $1, $2, {ENTRY} FROM journal_entries \
             WHERE task_id = $3 AND era = $4 AND idx < $5"
        );
        Ok((AssertSqlSafe(sql), text.arguments))
    };
    plan.copies.iter().map(copy).collect()
}

/// The first moment after which a key used at `at` may go.
pub(super) fn key_end(at: Timestamp) -> i64 {
    at.plus(KEY_LIFE).as_millis()
}
