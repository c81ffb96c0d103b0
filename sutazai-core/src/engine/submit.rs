//! From a request to an acknowledged task.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::oneshot;

use super::{
    catalogue::Registered,
    control::Entered,
    execution::Execution,
    handle::TaskHandle,
    inner::Inner,
    transition::{Command, Transition, create},
    writer::Outcomes,
};
use crate::{
    agent::Effects,
    error::{Error, ErrorKind, Fault, Result},
    store::{TaskWrite, WriteOutcome},
    task::{IdempotencyKey, Task, TaskRequest},
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
    /// By an agent that runs here.
    called: bool,
}

/// A task on its way to the store, and what is to follow.
struct Prepared {
    task: Arc<Task>,
    then: Then,
    called: bool,
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
    /// No slot is free: the dispatcher will fetch it once it is stored.
    Queue,
}

/// Submits and gives a handle that sees the task's end without asking the store. `key` is the engine's own, in place of the request's.
pub(crate) async fn submit(
    engine: &Arc<Inner>,
    request: TaskRequest,
    key: Option<IdempotencyKey>,
) -> Result<TaskHandle> {
    let mut checked = check(engine, request).await?;
    checked.called = key.is_some();
    checked.key = key.or(checked.key);
    let subscription = engine.hub.subscribe(checked.step.task.id);
    let submitted = send_one(engine, checked).await?;
    let subscription = (!submitted.replayed && !submitted.task.state.is_terminal()).then_some(subscription);
    Ok(TaskHandle::new(Arc::clone(engine), submitted.task, subscription))
}

/// Submits one task.
pub(crate) async fn submit_request(engine: &Arc<Inner>, request: TaskRequest) -> Result<Submitted> {
    let checked = check(engine, request).await?;
    send_one(engine, checked).await
}

/// Submits many tasks in one commit; each is answered on its own.
pub(crate) async fn submit_batch(engine: &Arc<Inner>, requests: Vec<TaskRequest>) -> Vec<Result<Submitted>> {
    let mut answers = Vec::with_capacity(requests.len());
    let mut accepted = Vec::with_capacity(requests.len());
    for request in requests {
        match check(engine, request).await {
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

async fn check(engine: &Inner, request: TaskRequest) -> Result<Checked<'_>> {
    if engine.is_closing() {
        return Err(Error::new(ErrorKind::Unavailable, "the engine is shutting down").with_code("shutting_down"));
    }
    request.check()?;
    let registered = engine.catalogue.route(&request.target, &request.input, &engine.models).await?;
    registered.agent.check(&request.input).map_err(|error| {
        let faults: Vec<Fault> = error.faults().iter().map(|fault| fault.clone().below("/input")).collect();
        let faults = if faults.is_empty() { vec![Fault::new("/input", error.report())] } else { faults };
        Error::invalid("the input does not fit the agent", faults).with_code("invalid_input").about(&registered.name)
    })?;
    let key = request.key()?;
    let (name, version) = (Arc::clone(&registered.name), Arc::clone(&registered.version));
    let id = engine.ids.next(&*engine.clock);
    Ok(Checked { registered, step: create(id, name, version, request, engine.clock.now()), key, called: false })
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
    for one in checked {
        let called = one.called;
        let (write, then) = prepare(engine, one).await;
        tasks.push(Prepared { task: Arc::clone(write.task()), then, called });
        writes.push(write);
    }
    let answer = engine.writer.send(writes).await;
    let mut owner = false;
    for Prepared { then, .. } in &mut tasks {
        match std::mem::replace(then, Then::Gone) {
            // Only now: its own writes must come after its insert.
            Then::GoOn(execution, entered) => drop(tokio::spawn(execution.run(entered))),
            other => {
                owner |= matches!(other, Then::Run(..) | Then::Queue);
                *then = other;
            }
        }
    }
    // A child whose parent is stopped meanwhile must not be left alone.
    owner |= tasks.iter().any(|prepared| prepared.called);
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

/// Gives the task a slot if there is one, and lets an agent without effects run until it first waits.
async fn prepare(engine: &Arc<Inner>, Checked { registered, mut step, key, .. }: Checked<'_>) -> (TaskWrite, Then) {
    let behind = engine.backlog.load(Ordering::SeqCst);
    let permit = if behind { None } else { Arc::clone(&engine.slots).try_acquire_owned().ok() };
    let now = engine.clock.now();
    let overdue = step.task.deadline.is_some_and(|deadline| deadline <= now);
    let claimed = permit.filter(|_| !overdue && step.apply(Command::Claim { node: engine.node.clone() }, now).is_ok());
    let Some(permit) = claimed else {
        return (TaskWrite::Insert { task: Arc::new(step.task), events: step.events, key }, Then::Queue);
    };
    // A repeated key would run the agent for nothing, so a keyed task waits for its insert.
    let early = registered.agent.descriptor().effects == Effects::None && key.is_none();
    let mut execution = Box::new(Execution::fresh(engine, registered, step, key, permit));
    if early && let Some(outcome) = execution.begin().await {
        execution.conclude(outcome);
        return (execution.take_write(), Then::Conclude(execution));
    }
    let entered = execution.enter();
    let write = execution.take_write();
    (write, if early { Then::GoOn(execution, entered) } else { Then::Run(execution, entered) })
}

/// What follows the commit, and the answers.
async fn finish(engine: &Arc<Inner>, tasks: Vec<Prepared>, outcomes: Outcomes) -> Vec<Result<Submitted>> {
    let mut answers = Vec::with_capacity(tasks.len());
    for (Prepared { task, then, called }, outcome) in tasks.into_iter().zip(outcomes) {
        answers.push(match outcome {
            Ok(WriteOutcome::Applied) => {
                if let Some(deadline) = task.deadline {
                    engine.due(deadline);
                }
                let alone = called && task.parent_id.is_some_and(|parent| !engine.executions.goes_on(parent));
                match then {
                    Then::Conclude(mut execution) => execution.after_end().await,
                    Then::GoOn(execution, entered) | Then::Run(execution, entered) => {
                        drop(tokio::spawn(execution.run(entered)));
                    }
                    Then::Gone => {}
                    Then::Queue => engine.queued(),
                }
                if alone && !task.state.is_terminal() {
                    tracing::debug!(task = %task.id, "its parent has ended meanwhile");
                    // Refused: it has ended by itself.
                    let _ = engine.cancel(task.id).await;
                }
                Ok(Submitted { task, replayed: false })
            }
            Ok(WriteOutcome::Replayed(first)) => Ok(Submitted { task: Arc::new(*first), replayed: true }),
            Ok(WriteOutcome::KeyConflict) => {
                Err(Error::new(ErrorKind::Conflict, "the idempotency key was used for another request")
                    .with_code("idempotency_conflict")
                    .during("submit task"))
            }
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
