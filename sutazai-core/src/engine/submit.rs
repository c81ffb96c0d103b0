//! From a request to an acknowledged task.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::oneshot;

use super::{
    catalogue::Registered,
    control::Entered,
    execution::Execution,
    handle::TaskHandle,
    inner::{Inner, Place, key_conflict},
    transition::{Command, Transition, create},
    writer::Outcomes,
};
use crate::{
    agent::Effects,
    error::{Error, ErrorKind, Fault, Result},
    payload::Payload,
    schedule::reserved_labels,
    store::{Child, JournalCopy, TaskWrite, WriteOutcome},
    task::{Event, IdempotencyKey, Task, TaskId, TaskRequest},
};

/// A task that is stored.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The task as of its last commit; it may have ended already.
    pub task: Arc<Task>,
    /// Whether the idempotency key had been used before: this is the first one's task.
    pub replayed: bool,
}

/// A request that has found its agent and been checked.
struct Checked<'a> {
    registered: &'a Registered,
    step: Transition,
    key: Option<IdempotencyKey>,
    journal: Option<JournalCopy>,
    /// It comes from outside, for which the queue has a limit.
    outside: bool,
}

/// A task on its way to the store, and what is to follow.
struct Prepared {
    task: Arc<Task>,
    then: Then,
}

enum Then {
    /// Its agent was done before it was stored: all that is left is what follows an end.
    Conclude(Box<Execution>),
    /// Its agent has begun, for it has no effects, and goes on while the task is being stored.
    GoOn(Box<Execution>, Entered),
    /// Its agent goes on on its own.
    Gone,
    /// Its agent begins once it is stored.
    Run(Box<Execution>, Entered),
    /// No slot is free: the dispatcher will fetch it once it is stored. It has a place in the queue if that has a limit for it.
    Queue(Option<Place>),
}

/// Submits and gives a handle that sees the task's end without asking the store.
pub(crate) async fn submit(engine: &Arc<Inner>, request: TaskRequest) -> Result<TaskHandle> {
    let keyed = request.idempotency_key.is_some();
    let checked = check(engine, request, keyed).await?;
    let subscription = engine.hub.subscribe(checked.step.task.id);
    let submitted = send_one(engine, checked).await?;
    let subscription = (!submitted.replayed && !submitted.task.state.is_terminal()).then_some(subscription);
    Ok(TaskHandle::new(Arc::clone(engine), submitted.task, subscription))
}

/// Submits a task whose journal begins with a part of another's.
pub(crate) async fn fork(
    engine: &Arc<Inner>,
    request: TaskRequest,
    journal: JournalCopy,
    of: &Task,
    key: Option<IdempotencyKey>,
) -> Result<Submitted> {
    let mut checked = check(engine, request, key.is_some()).await?;
    let task = &mut checked.step.task;
    task.agent_version = Arc::clone(&of.agent_version);
    // Its first attempt comes after all that is copied: failures do not count for it.
    task.revision.epoch = of.revision.epoch;
    task.journal.length = journal.before;
    checked.journal = Some(journal);
    checked.key = key;
    send_one(engine, checked).await
}

/// A child that is about to be stored with its parent's entry.
pub(crate) struct Newborn {
    engine: Arc<Inner>,
    task: Arc<Task>,
    events: Vec<Event>,
    then: Then,
}

/// Prepares a child: it has a slot if one is free, and may have begun if it has no effects.
pub(crate) async fn newborn(engine: &Arc<Inner>, request: TaskRequest, id: TaskId) -> Result<Newborn> {
    let checked = check_as(engine, request, id).await?;
    let (task, events, then) = prepare(engine, checked).await;
    Ok(Newborn { engine: Arc::clone(engine), task, events, then })
}

impl Newborn {
    /// What is stored with the entry.
    pub(crate) fn child(&self) -> Child {
        Child { task: Arc::clone(&self.task), events: self.events.clone() }
    }

    /// Lets it run once its entry is stored, even if the caller goes away meanwhile. Not before: its own writes must come after its insert, which waits for its
    /// parent's.
    pub(crate) fn run_after(self, stored: oneshot::Receiver<Option<u64>>) {
        let Self { engine, task, then, .. } = self;
        tokio::spawn(async move {
            if matches!(stored.await, Ok(Some(_))) {
                follow(&engine, &task, then).await;
            }
        });
    }
}

/// Submits one task.
pub(crate) async fn submit_request(engine: &Arc<Inner>, request: TaskRequest) -> Result<Submitted> {
    let keyed = request.idempotency_key.is_some();
    let checked = check(engine, request, keyed).await?;
    send_one(engine, checked).await
}

/// Submits one task under a key of the caller's making, past the limit of the queue.
pub(crate) async fn submit_keyed(
    engine: &Arc<Inner>,
    request: TaskRequest,
    key: Option<IdempotencyKey>,
) -> Result<Submitted> {
    let id = engine.ids.next(&*engine.clock);
    let mut checked = check_as(engine, request, id).await?;
    checked.key = key;
    send_one(engine, checked).await
}

/// Submits many tasks in one commit; each is answered on its own.
pub(crate) async fn submit_batch(engine: &Arc<Inner>, requests: Vec<TaskRequest>) -> Vec<Result<Submitted>> {
    let mut answers = Vec::with_capacity(requests.len());
    let mut accepted = Vec::with_capacity(requests.len());
    for request in requests {
        let keyed = request.idempotency_key.is_some();
        match check(engine, request, keyed).await {
            Ok(checked) => {
                accepted.push(checked);
                answers.push(None);
            }
            Err(refused) => answers.push(Some(Err(refused))),
        }
    }
    let mut stored = send(engine, accepted).await.into_iter();
    answers.into_iter().filter_map(|answer| answer.or_else(|| stored.next())).collect()
}

/// Checks a request from outside. One with a key may repeat another, which is answered though the queue be full, and is asked for later.
async fn check(engine: &Inner, request: TaskRequest, keyed: bool) -> Result<Checked<'_>> {
    if !keyed {
        engine.has_room()?;
    }
    let reserved = reserved_labels(&request.labels);
    if !reserved.is_empty() {
        return Err(Error::invalid("a label belongs to schedules", reserved).during("submit task"));
    }
    let id = engine.ids.next(&*engine.clock);
    Ok(Checked { outside: true, ..check_as(engine, request, id).await? })
}

async fn check_as(engine: &Inner, request: TaskRequest, id: TaskId) -> Result<Checked<'_>> {
    if engine.is_closing() {
        return Err(Error::new(ErrorKind::Unavailable, "the engine is shutting down").with_code("shutting_down"));
    }
    request.check()?;
    let registered = engine.catalogue.route(&request.target, &request.input, &engine.models).await?;
    check_input(registered, &request.input)?;
    let key = request.key()?;
    let (name, version) = (Arc::clone(&registered.name), Arc::clone(&registered.version));
    let step = create(id, name, version, request, engine.clock.now());
    Ok(Checked { registered, step, key, journal: None, outside: false })
}

/// Refuses an input that the agent could not use.
pub(crate) fn check_input(registered: &Registered, input: &Payload) -> Result<()> {
    registered.agent.check(input).map_err(|error| {
        let faults: Vec<Fault> = error.faults().iter().map(|fault| fault.clone().below("/input")).collect();
        let faults = if faults.is_empty() { vec![Fault::new("/input", error.report())] } else { faults };
        Error::invalid("the input does not fit the agent", faults).with_code("invalid_input").about(&registered.name)
    })
}

async fn send_one(engine: &Arc<Inner>, checked: Checked<'_>) -> Result<Submitted> {
    send(engine, vec![checked])
        .await
        .pop()
        .unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, "the engine gave no answer").during("submit task")))
}

/// Queues the inserts as one request to the writer and waits for their commit.
async fn send(engine: &Arc<Inner>, checked: Vec<Checked<'_>>) -> Vec<Result<Submitted>> {
    let mut tasks = Vec::with_capacity(checked.len());
    let mut writes = Vec::with_capacity(checked.len());
    let mut refused = Vec::new();
    for (index, mut one) in checked.into_iter().enumerate() {
        let (key, journal, outside) = (one.key.take(), one.journal.take(), one.outside);
        let waits = key.is_some() || journal.is_some();
        let full = if outside && key.is_some() { engine.has_room().err() } else { None };
        let (task, events, mut then) = match &full {
            Some(_) => (Arc::new(one.step.task), Vec::new(), Then::Queue(None)),
            None if waits => prepare_late(engine, one),
            None => prepare(engine, one).await,
        };
        if let (Then::Queue(place), true) = (&mut then, outside) {
            match full.map_or_else(|| engine.reserve(), Err) {
                Ok(reserved) => *place = Some(reserved),
                Err(full) => {
                    refused.push((index, replay(engine, key.as_ref(), &task, full).await));
                    continue;
                }
            }
        }
        tasks.push(Prepared { task: Arc::clone(&task), then });
        writes.push(TaskWrite::Insert { task, events, key, journal });
    }
    let mut answers = store(engine, tasks, writes).await;
    for (index, answer) in refused {
        answers.insert(index.min(answers.len()), answer);
    }
    answers
}

/// The answer to a submit that found the queue full: what its key has led to before, or the refusal.
async fn replay(engine: &Inner, key: Option<&IdempotencyKey>, task: &Task, full: Error) -> Result<Submitted> {
    match engine.replayed(key, task).await? {
        Some(known) => Ok(Submitted { task: known.task, replayed: true }),
        None => Err(full),
    }
}

async fn store(engine: &Arc<Inner>, mut tasks: Vec<Prepared>, writes: Vec<TaskWrite>) -> Vec<Result<Submitted>> {
    if writes.is_empty() {
        return Vec::new();
    }
    let answer = engine.writer.send(writes).await;
    let mut owner = false;
    for Prepared { then, .. } in &mut tasks {
        // Only now: its own writes must come after its insert.
        then.begin_unless_it_waits();
        owner |= matches!(then, Then::Run(..) | Then::Queue(_));
    }
    if !owner {
        return finish(engine, tasks, answer.outcomes().await).await;
    }
    // A submitter may go away; what follows the commit must not go with it.
    let (done, submitted) = oneshot::channel();
    let owned = Arc::clone(engine);
    tokio::spawn(async move {
        let outcomes = answer.outcomes().await;
        let _ = done.send(finish(&owned, tasks, outcomes).await);
    });
    submitted.await.unwrap_or_default()
}

impl Then {
    /// Lets an agent that has begun go on, for the insert of its task is on its way.
    fn begin_unless_it_waits(&mut self) {
        match std::mem::replace(self, Self::Gone) {
            Self::GoOn(execution, entered) => drop(tokio::spawn(execution.run(entered))),
            other => *self = other,
        }
    }
}

/// Gives the task a slot if there is one, and lets an agent without effects run until it first waits.
async fn prepare(engine: &Arc<Inner>, checked: Checked<'_>) -> (Arc<Task>, Vec<Event>, Then) {
    let early = checked.registered.agent.descriptor().effects == Effects::None;
    match claim(engine, checked) {
        Ok(mut execution) => {
            if early && let Some(outcome) = execution.begin().await {
                execution.conclude(outcome);
                let (task, events) = execution.take_image();
                return (task, events, Then::Conclude(execution));
            }
            let entered = execution.enter();
            let (task, events) = execution.take_image();
            (task, events, if early { Then::GoOn(execution, entered) } else { Then::Run(execution, entered) })
        }
        Err(step) => (Arc::new(step.task), step.events, Then::Queue(None)),
    }
}

/// Like [`prepare`], for a task that must not begin before its insert: a repeated key would run the agent for nothing, a journal is not there yet.
fn prepare_late(engine: &Arc<Inner>, checked: Checked<'_>) -> (Arc<Task>, Vec<Event>, Then) {
    match claim(engine, checked) {
        Ok(mut execution) => {
            let entered = execution.enter();
            let (task, events) = execution.take_image();
            (task, events, Then::Run(execution, entered))
        }
        Err(step) => (Arc::new(step.task), step.events, Then::Queue(None)),
    }
}

/// Grants the task to this node if a slot is free and nothing is ahead of it, else gives it back to be queued.
fn claim(
    engine: &Arc<Inner>,
    Checked { registered, mut step, .. }: Checked<'_>,
) -> Result<Box<Execution>, Box<Transition>> {
    let behind = engine.backlog.load(Ordering::SeqCst)
        || !engine.executes
        || engine.is_limited(&step.task)
        || !engine.membership.holds();
    let permit = if behind { None } else { Arc::clone(&engine.slots).try_acquire_owned().ok() };
    let now = engine.clock.now();
    let overdue = step.task.deadline.is_some_and(|deadline| deadline <= now);
    let claimed = permit.filter(|_| !overdue && step.apply(Command::Claim { node: engine.node() }, now).is_ok());
    match claimed {
        Some(permit) => Ok(Box::new(Execution::fresh(engine, registered, step, permit))),
        None => Err(Box::new(step)),
    }
}

/// What follows the commit, and the answers.
async fn finish(engine: &Arc<Inner>, tasks: Vec<Prepared>, outcomes: Outcomes) -> Vec<Result<Submitted>> {
    let mut answers = Vec::with_capacity(tasks.len());
    for (Prepared { task, then }, outcome) in tasks.into_iter().zip(outcomes) {
        answers.push(match outcome {
            Ok(WriteOutcome::Applied) => {
                follow(engine, &task, then).await;
                Ok(Submitted { task, replayed: false })
            }
            Ok(WriteOutcome::Replayed(first)) => Ok(Submitted { task: Arc::new(*first), replayed: true }),
            Ok(WriteOutcome::KeyConflict) => Err(key_conflict("submit task")),
            Ok(WriteOutcome::Stale) => {
                Err(Error::new(ErrorKind::Internal, "the new task's id is taken").during("submit task"))
            }
            Err(error) => {
                if matches!(then, Then::Run(..)) {
                    engine.doubt(); // it may be stored as granted to this node
                }
                Err(error)
            }
        });
    }
    answers
}

/// What follows the commit of a new task.
async fn follow(engine: &Arc<Inner>, task: &Arc<Task>, then: Then) {
    if let Some(deadline) = task.deadline {
        engine.due(deadline);
    }
    match then {
        Then::Conclude(mut execution) => execution.after_end().await,
        Then::GoOn(execution, entered) | Then::Run(execution, entered) => drop(tokio::spawn(execution.run(entered))),
        Then::Gone => {}
        Then::Queue(place) => {
            match place {
                Some(place) => place.keep(),
                None => drop(engine.queued.fetch_add(1, Ordering::SeqCst)),
            }
            engine.queued_one();
        }
    }
}
