//! From a request to an acknowledged task.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::oneshot;

use super::{
    catalogue::Registered,
    execution::Execution,
    handle::TaskHandle,
    inner::Inner,
    transition::{Command, Transition, create},
    writer::answered,
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
}

/// A task on its way to the store.
pub(crate) struct Sent {
    task: Arc<Task>,
    answer: oneshot::Receiver<Result<WriteOutcome>>,
    /// Of an execution that ended before its insert: what is left to do after the commit.
    ended: Option<Execution>,
    /// Nobody executes it yet.
    queued: bool,
}

/// Submits and gives a handle that sees the task's end without asking the store.
pub(crate) async fn submit(engine: &Arc<Inner>, request: TaskRequest) -> Result<TaskHandle> {
    let checked = check(engine, request).await?;
    let subscription = engine.hub.subscribe(checked.step.task.id);
    let submitted = send(engine, checked).await.committed(engine).await?;
    let subscription = (!submitted.replayed && !submitted.task.state.is_terminal()).then_some(subscription);
    Ok(TaskHandle::new(Arc::clone(engine), submitted.task, subscription))
}

/// Checks a request and queues its task; [`Sent::committed`] waits for the commit.
pub(crate) async fn begin(engine: &Arc<Inner>, request: TaskRequest) -> Result<Sent> {
    let checked = check(engine, request).await?;
    Ok(send(engine, checked).await)
}

async fn check(engine: &Inner, request: TaskRequest) -> Result<Checked<'_>> {
    if engine.is_closing() {
        return Err(Error::new(ErrorKind::Unavailable, "the engine is shutting down").with_code("shutting_down"));
    }
    request.check()?;
    let registered = engine.catalogue.route(&request.target, &request.input, &engine.models).await?;
    registered.agent.check(&request.input).map_err(|error| {
        let faults: Vec<Fault> = error.faults().iter().map(|fault| fault.clone().below("/input")).collect();
        Error::invalid("the input does not fit the agent", faults).with_code("invalid_input").about(&registered.name)
    })?;
    let key = request.key()?;
    let (name, version) = (Arc::clone(&registered.name), Arc::clone(&registered.version));
    let id = engine.ids.next(&*engine.clock);
    Ok(Checked { registered, step: create(id, name, version, request, engine.clock.now()), key })
}

async fn send(engine: &Arc<Inner>, Checked { registered, mut step, key }: Checked<'_>) -> Sent {
    if let Some(deadline) = step.task.deadline {
        engine.due(deadline);
    }
    let behind = engine.backlog.load(Ordering::SeqCst);
    let permit = if behind { None } else { Arc::clone(&engine.slots).try_acquire_owned().ok() };
    let now = engine.clock.now();
    let overdue = step.task.deadline.is_some_and(|deadline| deadline <= now);
    let claimed = permit.filter(|_| !overdue && step.apply(Command::Claim { node: engine.node.clone() }, now).is_ok());
    let Some(permit) = claimed else {
        let task = Arc::new(step.task);
        let write = TaskWrite::Insert { task: Arc::clone(&task), events: step.events, key };
        return Sent { task, answer: engine.writer.send(write).await, ended: None, queued: true };
    };
    // A repeated key would run the agent for nothing, so a keyed task waits for its insert.
    let early = registered.agent.descriptor().effects == Effects::None && key.is_none();
    let mut execution = Execution::fresh(engine, registered, step, key, permit);
    if early && let Some(outcome) = execution.begin().await {
        execution.conclude(outcome);
        let write = execution.take_write();
        let task = Arc::clone(write.task());
        return Sent { task, answer: engine.writer.send(write).await, ended: Some(execution), queued: false };
    }
    let entered = execution.enter();
    let write = execution.take_write();
    let task = Arc::clone(write.task());
    let insert = engine.writer.send(write).await;
    let answer = if early {
        tokio::spawn(execution.run(entered));
        insert
    } else {
        let (submitter, answer) = oneshot::channel();
        tokio::spawn(execution.run_after(entered, insert, submitter));
        answer
    };
    Sent { task, answer, ended: None, queued: false }
}

impl Sent {
    /// Waits for the commit.
    pub(crate) async fn committed(self, engine: &Inner) -> Result<Submitted> {
        let Self { task, answer, ended, queued } = self;
        match answered(answer).await? {
            WriteOutcome::Applied => {
                if queued {
                    engine.queued();
                }
                if let Some(mut execution) = ended {
                    execution.after_end().await;
                }
                Ok(Submitted { task, replayed: false })
            }
            WriteOutcome::Replayed(first) => Ok(Submitted { task: Arc::new(*first), replayed: true }),
            WriteOutcome::KeyConflict => {
                Err(Error::new(ErrorKind::Conflict, "the idempotency key was used for another request")
                    .with_code("idempotency_conflict")
                    .during("submit task"))
            }
            WriteOutcome::Stale => {
                Err(Error::new(ErrorKind::Internal, "the new task's id is taken").during("submit task"))
            }
        }
    }
}
