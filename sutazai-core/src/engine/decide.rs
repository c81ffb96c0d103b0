//! What people and programs decide about a task from outside: tell it something, bring a dead letter back or give it up, settle an effect whose outcome is
//! unknown, fork.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    inner::{Changed, Inner, key_conflict},
    journal::Received,
    submit::{self, Submitted},
    transition::{Command, Refused, Transition, apply},
};
use crate::{
    clock::Timestamp,
    context::Born,
    error::{Error, ErrorKind, Fault, Result},
    payload::Payload,
    schedule::{MOMENT_LABEL, SCHEDULE_LABEL},
    store::{JournalCopy, TaskQuery, TaskWrite, WriteOutcome},
    task::{
        Entry, EntryId, EntryKind, Failure, IdempotencyKey, MAX_OUTCOME, Outcome, Signal, Target, Task, TaskError,
        TaskId, TaskRequest, TaskState, Wait,
    },
};

/// What a dead letter starts again with.
#[derive(Clone, Debug, Default)]
pub struct Requeue {
    /// Another input; the journal of the old one is archived. Without one the journal's successes count.
    pub input: Option<Payload>,
    /// Another deadline. Without one, a deadline that has passed is dropped.
    pub deadline: Option<Timestamp>,
}

/// What somebody found out about a destructive effect that was cut short, or decides about a task whose code no longer fits its journal.
#[derive(Clone, Debug)]
pub enum Resolution {
    /// It happened, with this outcome.
    Outcome(Payload),
    /// It did not happen: it is tried again.
    Retry,
    /// It counts as failed.
    Fail(String),
}

/// Tells a task something; true if the key had been used for it before.
pub(crate) async fn signal(
    engine: &Arc<Inner>,
    id: TaskId,
    name: &str,
    payload: Payload,
    key: Option<IdempotencyKey>,
) -> Result<bool> {
    if !(1..=255).contains(&name.len()) {
        return Err(Error::invalid(
            "the signal's name is wrong",
            vec![Fault::new("/name", "a name has 1 to 255 bytes")],
        ));
    }
    if payload.as_str().len() > MAX_OUTCOME {
        let message =
            format!("a signal has at most {} bytes of JSON, this one {}", MAX_OUTCOME, payload.as_str().len());
        return Err(Error::invalid("the signal is too large", vec![Fault::new("", message)]));
    }
    let signal = Signal { name: name.to_owned(), payload, at: engine.clock.now() };
    match engine.writer.write(TaskWrite::Signal { task: id, signal, key }).await? {
        WriteOutcome::Applied => Ok(false),
        WriteOutcome::Replayed(_) => Ok(true),
        WriteOutcome::KeyConflict => Err(key_conflict("signal task")),
        WriteOutcome::Stale => {
            engine.load(id).await?;
            Err(finished("signal task", id))
        }
    }
}

fn finished(operation: &'static str, id: TaskId) -> Error {
    Error::new(ErrorKind::Conflict, "the task has ended already").with_code("task_finished").during(operation).about(id)
}

fn not_a_dead_letter(id: TaskId) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "the task did not fail, or was requeued or discarded already; `tasks dead list` shows those that can be",
    )
    .with_code("not_a_dead_letter")
    .during("decide about task")
    .about(id)
}

/// Starts a dead letter again.
pub(crate) async fn requeue(
    engine: &Arc<Inner>,
    id: TaskId,
    how: &Requeue,
    key: Option<IdempotencyKey>,
) -> Result<Changed> {
    if engine.is_closing() {
        return Err(super::inner::shut_down());
    }
    let changed = engine.change_with(id, key, |task| make_requeue(engine, task.clone(), how.clone()));
    let changed = changed.await?.map_err(|_| not_a_dead_letter(id))?;
    if let Some(deadline) = changed.task.deadline {
        engine.due(deadline);
    }
    Ok(changed)
}

async fn make_requeue(
    engine: &Arc<Inner>,
    task: Task,
    how: Requeue,
) -> Result<Result<(Transition, Vec<Entry>), Refused>> {
    let now = engine.clock.now();
    let fresh = how.input.is_some();
    // Whether it can be requeued comes first: the fields of a task that cannot matter to nobody.
    let step = match apply(&task, Command::Requeue { input: how.input.clone(), deadline: how.deadline }, now) {
        Ok(step) => step,
        Err(refused) => return Ok(Err(refused)),
    };
    if let (Some(input), Some(registered)) = (&how.input, engine.catalogue.get(&task.agent)) {
        submit::check_input(registered, input)?;
    }
    // Whoever ended it may not have come to its children yet.
    engine.cancel_children(task.id).await?;
    let entries = if fresh {
        let journal = whole_journal(engine, &task).await?;
        // What it has received it does not receive again, though its journal is another.
        Received::of(task.id, &journal).carried_over(task.id, step.task.revision.epoch, now)
    } else {
        give_up_children(engine, &task, &step).await?
    };
    Ok(Ok((step, entries)))
}

/// Retracts the children that ended with the dead letter, or because of it: it calls them anew.
async fn give_up_children(engine: &Arc<Inner>, task: &Task, step: &Transition) -> Result<Vec<Entry>> {
    let journal = whole_journal(engine, task).await?;
    let mut open = BTreeMap::new();
    for entry in journal.iter().filter(|entry| entry.kind == EntryKind::Child) {
        match &entry.outcome {
            Outcome::Open(born) => drop(open.insert(&entry.id, born.read::<Born>()?.task_id)),
            _ => drop(open.remove(&entry.id)),
        }
    }
    let ids: Vec<TaskId> = open.values().copied().collect();
    let children = engine.store.load(&ids).await?;
    let completed = |child: &Option<Task>| child.as_ref().is_some_and(|child| child.state == TaskState::Completed);
    let retracted = open.keys().zip(&children).filter(|(_, child)| !completed(child)).map(|(id, _)| *id);
    let (epoch, at) = (step.task.revision.epoch, engine.clock.now());
    let retract = |(index, id): (u64, &EntryId)| Entry {
        index,
        id: id.clone(),
        kind: EntryKind::Child,
        outcome: Outcome::Retracted,
        epoch,
        at,
    };
    Ok((journal.len() as u64..).zip(retracted).map(retract).collect())
}

/// Gives a dead letter up for good.
pub(crate) async fn discard(engine: &Arc<Inner>, id: TaskId, key: Option<IdempotencyKey>) -> Result<Changed> {
    let changed = engine.change_with(id, key, |task| {
        let step = apply(task, Command::Discard, engine.clock.now());
        std::future::ready(Ok(step.map(|step| (step, Vec::new()))))
    });
    changed.await?.map_err(|_| not_a_dead_letter(id))
}

/// Faults in a row of tasks that are to be requeued, after which the rest is left: it is not the tasks.
const FAULTS: u32 = 5;

/// Starts all dead letters again that fit the query; how many. One that cannot be, or is none any more, keeps no other from it; an error only if it kept all.
pub(crate) async fn requeue_all(engine: &Arc<Inner>, mut query: TaskQuery) -> Result<u64> {
    query.dead_letters = true;
    query.limit = 200;
    let (mut count, mut faults, mut first) = (0, 0, None);
    'all: loop {
        let page = match engine.store.list(&query).await {
            Ok(page) => page,
            Err(error) => {
                first.get_or_insert(error);
                break;
            }
        };
        for task in &page.items {
            match requeue(engine, task.id, &Requeue::default(), None).await {
                Ok(_) => (count, faults) = (count + 1, 0),
                Err(error) if error.code() == "not_a_dead_letter" => {} // somebody else was faster
                Err(error) => {
                    tracing::warn!(task = %task.id, error = %error.report(), "a dead letter could not be requeued");
                    faults += 1;
                    first.get_or_insert(error);
                    if faults == FAULTS {
                        break 'all;
                    }
                }
            }
        }
        query.before = page.items.last().map(|task| task.id);
        if !page.more {
            break;
        }
    }
    first.filter(|_| count == 0).map_or(Ok(count), Err)
}

/// Settles what a task waits for a decision about. `index` is the entry of its journal.
pub(crate) async fn resolve(
    engine: &Arc<Inner>,
    id: TaskId,
    index: u64,
    resolution: &Resolution,
    key: Option<IdempotencyKey>,
) -> Result<Changed> {
    let changed = engine.change_with(id, key, |task| make_resolution(engine, task.clone(), index, resolution.clone()));
    changed.await?.map_err(|_| {
        Error::new(ErrorKind::Conflict, "the task does not wait for a decision")
            .with_code("nothing_to_resolve")
            .during("resolve")
            .about(id)
    })
}

async fn make_resolution(
    engine: &Arc<Inner>,
    task: Task,
    index: u64,
    resolution: Resolution,
) -> Result<Result<(Transition, Vec<Entry>), Refused>> {
    let now = engine.clock.now();
    if task.wait != Some(Wait::Decision) {
        return Ok(Err(Refused::NotNow));
    }
    if let Resolution::Outcome(outcome) = &resolution
        && outcome.as_str().len() > MAX_OUTCOME
    {
        let found = outcome.as_str().len();
        let message = format!("an outcome has at most {MAX_OUTCOME} bytes of JSON, this one {found}");
        return Err(Error::invalid("the outcome is too large", vec![Fault::new("/outcome", message)]));
    }
    if task.error.as_ref().is_some_and(|error| error.code == "non_determinism") {
        let command = match resolution {
            Resolution::Retry => Command::Resume,
            Resolution::Fail(why) => Command::Abandon { error: TaskError::new("non_determinism", why) },
            Resolution::Outcome(_) => {
                let message = "the task waits for code that fits its journal: deploy it and resolve with a retry, or fail or fork the task";
                return Err(Error::invalid("an outcome settles nothing here", vec![Fault::new("/outcome", message)]));
            }
        };
        return Ok(apply(&task, command, now).map(|step| (step, Vec::new())));
    }
    let entries = whole_journal(engine, &task).await?;
    let open = entries.get(usize::try_from(index).unwrap_or(usize::MAX)).filter(|entry| {
        let settled = |later: &Entry| later.index > entry.index && later.id == entry.id;
        matches!(entry.outcome, Outcome::Open(_))
            && matches!(entry.kind, EntryKind::Step | EntryKind::Call)
            && !entries.iter().any(settled)
    });
    let Some(open) = open else {
        return Err(Error::new(
            ErrorKind::NotFound,
            "this entry is no effect whose outcome is unknown; the task's error names it",
        )
        .with_code("entry_not_found")
        .during("resolve")
        .about(format!("{}/{index}", task.id)));
    };
    let outcome = match resolution {
        Resolution::Outcome(payload) => Outcome::Done(payload),
        Resolution::Retry => Outcome::Retracted,
        Resolution::Fail(why) => {
            Outcome::Failed(Failure { error: TaskError::new("effect_failed", why), temporary: false })
        }
    };
    let next = entries.last().map_or(0, |entry| entry.index + 1);
    Ok(apply(&task, Command::Resume, now).map(|step| {
        let epoch = step.task.revision.epoch;
        let entry = Entry { index: next, id: EntryId::clone(&open.id), kind: open.kind, outcome, epoch, at: now };
        (step, vec![entry])
    }))
}

/// A task's whole current journal.
pub(crate) async fn whole_journal(engine: &Inner, task: &Task) -> Result<Vec<Entry>> {
    const PAGE: usize = 1_000;
    let mut entries = Vec::new();
    loop {
        let mut page = engine.store.journal(task.id, task.journal.era, entries.len() as u64, PAGE).await?;
        let full = page.len() == PAGE;
        entries.append(&mut page);
        if !full {
            return Ok(entries);
        }
    }
}

/// A new task of the same agent whose journal begins with what another one recorded before `from`.
pub(crate) async fn fork(
    engine: &Arc<Inner>,
    id: TaskId,
    from: u64,
    input: Option<Payload>,
    key: Option<IdempotencyKey>,
) -> Result<Submitted> {
    let task = engine.load(id).await?;
    if let Some(known) = engine.replayed(key.as_ref(), &task).await? {
        return Ok(Submitted { task: known.task, replayed: true });
    }
    let length = match engine.store.journal(id, task.journal.era, from, 1).await?.first() {
        Some(_) => from,
        None if from == 0 => 0,
        None => {
            let length = whole_journal(engine, &task).await?.len() as u64;
            if from > length {
                let message = format!("{from} is beyond the journal's end; allowed are 0 to {length}");
                return Err(Error::invalid("there is no such entry", vec![Fault::new("/from", message)]));
            }
            from
        }
    };
    // A fork of a schedule's task is none.
    let mut labels = task.labels.clone();
    labels.retain(|name, _| name != SCHEDULE_LABEL && name != MOMENT_LABEL);
    let request = TaskRequest {
        target: Target::Agent(task.agent.to_string()),
        input: input.unwrap_or_else(|| task.input.clone()),
        priority: task.priority,
        deadline: task.deadline.filter(|at| *at > engine.clock.now()),
        retry: task.retry,
        labels,
        tenant: Arc::clone(&task.tenant),
        idempotency_key: None,
        parent_id: None,
        detached: false,
        webhook: task.webhook.clone(),
    };
    let journal = JournalCopy { from: id, era: task.journal.era, before: length };
    submit::fork(engine, request, journal, &task, key).await
}
