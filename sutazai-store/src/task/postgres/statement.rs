//! The one statement that stores a batch: a part for each table it touches, and a guard over all of them.
//!
//! All parts see the database as it was before, and each row is written by one of them. Whoever holds a row that an update names is waited for, and the
//! update then goes by what that one has left.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use sqlx::{AssertSqlSafe, postgres::PgArguments};
use sutazai_core::task::{Task, TaskState};

use super::{
    error::{Fault, Result},
    order::{BASE, PLACES},
    row::{encode_events, encode_labels},
    text::{Column, Fill, Kind, Table, Text},
};
use crate::task::shared::{plan::Plan, track::Write};

/// States of tasks that have not ended, as the partial indexes name them.
pub(super) const LIVE: &str = "state IN ('created', 'assigned', 'running', 'waiting')";

/// What a task is born with. Of these only the input ever changes.
const BIRTH: [Column; 12] = [
    ("id", Kind::Id, Fill::Own),
    ("feed", Kind::Int, Fill::Own),
    ("queue", Kind::Text, Fill::Same),
    ("agent", Kind::Text, Fill::Same),
    ("agent_version", Kind::Text, Fill::Same),
    ("tenant", Kind::Text, Fill::Same),
    ("priority", Kind::Int, Fill::Same),
    ("max_attempts", Kind::Int, Fill::Same),
    ("retry_initial_ms", Kind::Int, Fill::Same),
    ("retry_max_ms", Kind::Int, Fill::Same),
    ("created_at", Kind::Int, Fill::Own),
    ("input", Kind::Text, Fill::Own),
];

/// What few tasks are born with.
const BORN_WITH: [Column; 5] = [
    ("wakes", Kind::Int, Fill::Rare),
    ("parent_id", Kind::Id, Fill::Rare),
    ("detached", Kind::Bool, Fill::Rare),
    ("labels", Kind::Text, Fill::Rare),
    ("webhook", Kind::Text, Fill::Rare),
];

/// What a change is made from, and what comes to it.
const CHANGE: [Column; 5] = [
    ("id", Kind::Id, Fill::Own),
    ("expected_epoch", Kind::Int, Fill::Same),
    ("expected_seq", Kind::Int, Fill::Same),
    ("place", Kind::Int, Fill::Own),
    ("woken", Kind::Int, Fill::Same),
];

/// What comes to few of them.
const CHANGED_BY: [Column; 3] =
    [("seen", Kind::Int, Fill::Rare), ("seen_at", Kind::Int, Fill::Rare), ("input", Kind::Text, Fill::Rare)];

/// How far a task is: each write says it, as [`course`] does.
const COURSE: [Column; 10] = [
    ("state", Kind::Text, Fill::Same),
    ("due_at", Kind::Int, Fill::Own),
    ("node", Kind::Text, Fill::Same),
    ("epoch", Kind::Int, Fill::Same),
    ("seq", Kind::Int, Fill::Same),
    ("attempt", Kind::Int, Fill::Same),
    ("started_at", Kind::Int, Fill::Own),
    ("finished_at", Kind::Int, Fill::Own),
    ("attempt_epoch", Kind::Int, Fill::Same),
    ("output", Kind::Text, Fill::Own),
];

/// What else each write says, of few tasks, as [`words`] does.
const WORDS: [Column; 10] = [
    ("deadline", Kind::Int, Fill::Rare),
    ("wait", Kind::Text, Fill::Rare),
    ("discarded", Kind::Bool, Fill::Rare),
    ("recoveries", Kind::Int, Fill::Rare),
    ("journal_era", Kind::Int, Fill::Rare),
    ("journal_length", Kind::Int, Fill::Rare),
    ("progress_fraction", Kind::Float, Fill::Rare),
    ("progress_message", Kind::Text, Fill::Rare),
    ("error_code", Kind::Text, Fill::Rare),
    ("error_message", Kind::Text, Fill::Rare),
];

static INSERT: LazyLock<Vec<Column>> = LazyLock::new(|| [&BIRTH[..], &COURSE, &BORN_WITH, &WORDS].concat());

static UPDATE: LazyLock<Vec<Column>> = LazyLock::new(|| [&CHANGE[..], &COURSE, &CHANGED_BY, &WORDS].concat());

const EVENTS: [Column; 5] = [
    ("number", Kind::Int, Fill::Own),
    ("task_id", Kind::Id, Fill::Own),
    ("first_seq", Kind::Int, Fill::Own),
    ("last_seq", Kind::Int, Fill::Own),
    ("events", Kind::Text, Fill::Own),
];

/// Says whom the statement tells that something is runnable.
pub(super) fn channel(schema: &str) -> String {
    format!("sutazai_{schema}")
}

/// A statement being put together.
pub(super) struct Statement {
    pub(super) text: Text,
    parts: usize,
    /// What must hold at the end.
    guards: Vec<String>,
    /// Whether something is runnable that others may take: for sure, or if one of these conditions holds.
    runnable: Option<Vec<&'static str>>,
}

impl Statement {
    fn new() -> Self {
        Self { text: Text::default(), parts: 0, guards: Vec::new(), runnable: Some(Vec::new()) }
    }

    /// Begins a part called `name`.
    pub(super) fn part(&mut self, name: &str) {
        self.text.sql.push_str(if self.parts == 0 { "WITH " } else { ", " });
        self.text.sql.push_str(name);
        self.text.sql.push_str(" AS (");
        self.parts += 1;
    }

    pub(super) fn sql(&mut self, sql: &str) {
        self.text.sql.push_str(sql);
    }

    /// Ends a part.
    pub(super) fn end(&mut self) {
        self.text.sql.push(')');
    }

    pub(super) fn source(&mut self, table: Table<'_>) -> Result<()> {
        table.source(&mut self.text)
    }

    /// The statement fails unless `count`, a query for a number, gives `rows`.
    pub(super) fn guard(&mut self, count: &str, rows: usize) -> Result<()> {
        let place = self.text.add(super::text::limit(rows))?;
        self.guards.push(format!("({count}) = ${place}"));
        Ok(())
    }

    /// What is looked at here comes before all that is guarded later.
    pub(super) fn first(&mut self, always: &str) {
        self.guards.push(always.to_owned());
    }

    pub(super) fn runnable_if(&mut self, condition: &'static str) {
        if let Some(conditions) = &mut self.runnable {
            conditions.push(condition);
        }
    }

    fn finish(mut self, schema: &str) -> Option<(AssertSqlSafe<String>, PgArguments)> {
        if self.parts == 0 {
            return None;
        }
        let guards = if self.guards.is_empty() { "true".to_owned() } else { self.guards.join(" AND ") };
        let notify = format!("pg_notify('{}', '')::text", channel(schema));
        let notify = match &self.runnable {
            None => notify,
            Some(conditions) if conditions.is_empty() => "''".to_owned(),
            Some(conditions) => format!("CASE WHEN {} THEN {notify} ELSE '' END", conditions.join(" OR ")),
        };
        self.text.sql.push_str(&format!(" SELECT 1 / ({guards})::int, {notify}"));
        Some((AssertSqlSafe(self.text.sql), self.text.arguments))
    }
}

/// The statement that stores what a plan has come to, without its copies of journals. `judged`: whether the plan knew what is stored, and holds the tasks
/// it names; else the statement finds out, and fails where the plan was wrong.
pub(super) fn store(
    plan: &Plan<'_>,
    judged: bool,
    schema: &str,
) -> Result<Option<(AssertSqlSafe<String>, PgArguments)>> {
    let mut statement = Statement::new();
    // Where in the transaction the last event of each write stands.
    let mut place = 0;
    let places: Vec<Option<i64>> = plan
        .writes
        .iter()
        .map(|write| {
            let events = i64::try_from(write.events().count()).unwrap_or(i64::MAX);
            place += events;
            (events > 0).then_some(place)
        })
        .collect();
    if place >= PLACES {
        return Err(Fault::TooManyEvents(PLACES - 1));
    }
    if !judged {
        // First, so that it sees rows that the statement then changes.
        super::follow::locks(plan, &mut statement)?;
        super::follow::fences(plan, &mut statement)?;
    }
    inserts(plan, &places, &mut statement)?;
    updates(plan, &places, &mut statement)?;
    events(plan, &places, &mut statement)?;
    super::follow::follow(plan, judged, &mut statement)?;
    Ok(statement.finish(schema))
}

fn inserts(plan: &Plan<'_>, places: &[Option<i64>], statement: &mut Statement) -> Result<()> {
    let mut new: Vec<_> = plan.writes.iter().zip(places).filter(|(write, _)| write.expected.is_none()).collect();
    if new.is_empty() {
        return Ok(());
    }
    // Who inserts the same waits for the commit.
    new.sort_unstable_by_key(|(write, _)| write.task.id);
    let mut queues: HashMap<(&str, &str), String> = HashMap::new();
    for (Write { task, .. }, _) in &new {
        queues.entry((&task.agent, &task.agent_version)).or_insert_with(|| task.queue());
    }
    let mut table = Table::new(&INSERT, new.len());
    for (write, place) in new {
        let task: &Task = write.task;
        if task.state == TaskState::Created {
            statement.runnable = None;
        }
        table.id(task.id);
        table.int(place.unwrap_or(0));
        table.text(queues.get(&(&*task.agent, &*task.agent_version)).map(String::as_str));
        table.text(&*task.agent);
        table.text(&*task.agent_version);
        table.text(&*task.tenant);
        table.int(i64::from(task.priority.get()));
        table.int(i64::from(task.retry.max_attempts));
        table.count(task.retry.initial_ms);
        table.count(task.retry.max_ms);
        table.time(task.created_at);
        table.plain(Cow::Borrowed(write.input.as_str()));
        course(write, &mut table);
        table.some(write.wakes());
        table.id(task.parent_id);
        table.flag(task.detached);
        table.plain(encode_labels(&task.labels)?.map(Cow::Owned));
        table.text(task.webhook.as_deref());
        words(task, &mut table);
    }
    insert(statement, "i", "tasks", table, |name| match name {
        "feed" => Some(format!("{BASE} + v.feed")),
        "wakes" => Some("coalesce(v.wakes, 0)".to_owned()),
        _ => None,
    })
}

/// A part that inserts rows: what they have in each column, unless `but` has it otherwise.
fn insert(
    statement: &mut Statement,
    part: &str,
    into: &str,
    rows: Table<'_>,
    but: impl Fn(&str) -> Option<String>,
) -> Result<()> {
    let names = rows.names();
    let values: Vec<_> = names.iter().map(|&name| but(name).unwrap_or_else(|| format!("v.{name}"))).collect();
    statement.part(part);
    statement.sql(&format!("INSERT INTO {into} ({}) SELECT {} FROM ", names.join(","), values.join(",")));
    statement.source(rows)?;
    statement.end();
    Ok(())
}

/// The columns of [`COURSE`].
fn course<'a>(write: &Write<'a>, table: &mut Table<'a>) {
    let task: &'a Task = write.task;
    table.plain(Cow::Borrowed(task.state.as_str()));
    table.time(write.due_at);
    table.text(task.node.as_ref().map(|node| node.as_str()));
    table.count(task.revision.epoch);
    table.count(task.revision.seq);
    table.int(i64::from(task.attempt));
    table.time(task.started_at);
    table.time(task.finished_at);
    table.count(task.journal.attempt_epoch);
    table.plain(task.output.as_ref().map(|output| Cow::Borrowed(output.as_str())));
}

/// The columns of [`WORDS`].
fn words<'a>(task: &'a Task, table: &mut Table<'a>) {
    table.time(task.deadline);
    table.plain(task.wait.map(|wait| Cow::Borrowed(wait.as_str())));
    table.flag(task.discarded);
    table.some(u64::from(task.recoveries));
    table.some(u64::from(task.journal.era));
    table.some(task.journal.length);
    table.float(task.progress.as_ref().and_then(|progress| progress.fraction));
    table.text(task.progress.as_ref().map(|progress| progress.message.as_str()));
    table.text(task.error.as_ref().map(|error| error.code.as_str()));
    table.text(task.error.as_ref().map(|error| error.message.as_str()));
}

fn updates(plan: &Plan<'_>, places: &[Option<i64>], statement: &mut Statement) -> Result<()> {
    let mut updates: Vec<_> =
        plan.writes.iter().zip(places).filter_map(|(write, place)| Some((write, place, write.expected?))).collect();
    if updates.is_empty() {
        return Ok(());
    }
    // In the order in which everybody locks.
    updates.sort_unstable_by_key(|(write, ..)| write.task.id);
    let rows = updates.len();
    let mut table = Table::new(&UPDATE, rows);
    for (write, place, expected) in updates {
        let task: &Task = write.task;
        if task.state == TaskState::Created {
            statement.runnable = None;
        }
        table.id(task.id);
        table.count(expected.epoch);
        table.count(expected.seq);
        table.int(*place);
        table.count(write.woken);
        course(write, &mut table);
        table.int(write.unseen.map(|(seen, _)| seen));
        table.time(write.unseen.map(|(_, at)| at));
        table.plain(write.new_input.then(|| Cow::Borrowed(write.input.as_str())));
        words(task, &mut table);
    }
    let whole = table.is_whole();
    statement.part("u");
    statement.sql("UPDATE tasks AS t SET wakes = t.wakes + v.woken, ");
    statement.sql(&format!("feed = CASE WHEN v.place IS NULL THEN t.feed ELSE {BASE} + v.place END"));
    if whole {
        statement.sql(", input = coalesce(v.input, t.input)");
    }
    for column in COURSE.iter().chain(&WORDS) {
        match column.0 {
            "due_at" if whole => {
                statement
                    .sql(", due_at = CASE WHEN t.wakes <> v.seen THEN least(v.due_at, v.seen_at) ELSE v.due_at END");
            }
            name => statement.sql(&format!(", {name} = {}", table.value(column))),
        }
    }
    statement.sql(" FROM ");
    statement.source(table)?;
    statement.sql(" WHERE t.id = v.id AND t.epoch = v.expected_epoch AND t.seq = v.expected_seq RETURNING ");
    statement.sql(if whole { "t.due_at <= v.seen_at AS runnable)" } else { "1)" });
    statement.guard("SELECT count(*) FROM u", rows)?;
    if whole {
        statement.runnable_if("EXISTS (SELECT 1 FROM u WHERE u.runnable)");
    }
    Ok(())
}

/// One row of events for each task.
fn events(plan: &Plan<'_>, places: &[Option<i64>], statement: &mut Statement) -> Result<()> {
    let mut table = Table::new(&EVENTS, plan.writes.len());
    for (write, place) in plan.writes.iter().zip(places) {
        let (Some(first), Some(last)) = (write.events().next(), write.events().last()) else { continue };
        table.int(*place);
        table.id(write.task.id);
        table.count(first.seq);
        table.count(last.seq);
        table.plain(Cow::Owned(encode_events(write.events())?));
    }
    if table.is_empty() {
        return Ok(());
    }
    insert(statement, "e", "task_events", table, |name| (name == "number").then(|| format!("{BASE} + v.number")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::task::postgres::schema::MIGRATIONS;

    #[test]
    fn each_column_of_a_task_is_written_and_stands_in_one_list() {
        let migrations: Vec<&str> = MIGRATIONS.iter().map(|migration| migration.sql.as_str()).collect();
        let (first, later) = migrations.split_first().unwrap();
        assert!(!later.concat().contains("ALTER TABLE tasks"), "columns that come later must be read here as well");
        let table = first.split_once("CREATE TABLE tasks (").unwrap().1.split_once(") WITH").unwrap().0;
        let columns: BTreeSet<_> = table.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let written: BTreeSet<_> = INSERT.iter().map(|column| column.0).collect();
        assert_eq!((&written, INSERT.len()), (&columns, columns.len()));
        for (name, ..) in CHANGE[1..].iter().chain(&CHANGED_BY[..2]) {
            assert!(!columns.contains(name), "{name} is no column, and would be taken for one");
        }
    }
}
