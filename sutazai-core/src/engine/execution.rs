//! One execution of one task: polls its agent, writes what becomes of it.

use std::{any::Any, future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc, task::Poll, time::Duration};

use futures_util::FutureExt;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    catalogue::Registered,
    control::{Control, Entered, Stop},
    inner::{Inner, backoff},
    transition::{Command, Transition},
    writer::is_stored,
};
use crate::{
    agent::AgentError,
    context::Context,
    error::{ErrorKind, Result},
    payload::Payload,
    store::{TaskWrite, WriteOutcome},
    task::{Event, EventKind, IdempotencyKey, Revision, Task, TaskError, TaskId},
};

/// Reports of progress are written at most this often.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// Bytes of JSON that an agent may return.
pub const MAX_OUTPUT: usize = 16 << 20;

/// Bytes of an error's message that are kept.
const MAX_MESSAGE: usize = 16 << 10;

type Outcome = Result<Payload, AgentError>;

/// An agent at work on a task that this node has claimed.
pub(crate) struct Execution {
    engine: Arc<Inner>,
    /// The task as it is here, with the events that are not written yet.
    step: Transition,
    /// The revision in the store once what was sent is committed; `None` before the insert is sent.
    sent: Option<Revision>,
    key: Option<IdempotencyKey>,
    control: Arc<Control>,
    context: Context,
    agent: Pin<Box<dyn Future<Output = Outcome> + Send>>,
}

impl Execution {
    /// Of a task that is not stored yet; `step` holds it claimed.
    pub(crate) fn fresh(
        engine: &Arc<Inner>,
        registered: &Registered,
        step: Transition,
        key: Option<IdempotencyKey>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let control = Control::new(permit, Arc::clone(&engine.slots));
        let context = Context::new(Arc::clone(engine), Arc::new(step.task.clone()), Arc::clone(&control));
        let (agent, input) = (Arc::clone(&registered.agent), step.task.input.clone());
        let work = {
            let context = context.clone();
            async move { agent.run(context, input).await }
        };
        let agent = Box::pin(AssertUnwindSafe(work).catch_unwind().map(|done| done.unwrap_or_else(panicked)));
        Self { engine: Arc::clone(engine), step, sent: None, key, control, context, agent }
    }

    /// Of a task that the store has just granted to this node.
    pub(crate) fn claimed(
        engine: &Arc<Inner>,
        registered: &Registered,
        task: Task,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let revision = task.revision;
        let step = Transition { task, events: Vec::new() };
        Self { sent: Some(revision), ..Self::fresh(engine, registered, step, None, permit) }
    }

    /// Lets the agent run until it first waits; its outcome if it never does.
    pub(crate) async fn begin(&mut self) -> Option<Outcome> {
        std::future::poll_fn(|cx| {
            Poll::Ready(match self.agent.as_mut().poll(cx) {
                Poll::Ready(outcome) => Some(outcome),
                Poll::Pending => None,
            })
        })
        .await
    }

    /// Registers it, so that it can be stopped and is waited for at shutdown.
    pub(crate) fn enter(&self) -> Entered {
        self.engine.executions.enter(self.step.task.id, &self.control)
    }

    /// Tells this process of the grant: the store itself has written its events.
    pub(crate) fn announce_claim(&self) {
        let task = &self.step.task;
        let Revision { epoch, seq } = task.revision;
        if let (Some(node), Some(at)) = (task.node.clone(), task.started_at) {
            let event = |seq, kind| Event { seq, task_id: task.id, at, kind };
            let assigned = event(seq - 1, EventKind::Assigned { node, epoch });
            let running = event(seq, EventKind::Running { attempt: task.attempt });
            self.engine.observer.task_changed(task, &[assigned, running]);
            self.engine.hub.publish(self.context.task_image());
        }
    }

    /// Everything not yet written, as one write; nothing further may be applied before it is sent.
    pub(crate) fn take_write(&mut self) -> TaskWrite {
        let task = Arc::new(self.step.task.clone());
        let events = std::mem::take(&mut self.step.events);
        match self.sent.replace(task.revision) {
            Some(expected) => TaskWrite::Update { task, expected, events },
            None => TaskWrite::Insert { task, events, key: self.key.take() },
        }
    }

    /// Polls the agent to its end and writes the outcome.
    pub(crate) async fn run(mut self: Box<Self>, _entered: Entered) {
        let control = Arc::clone(&self.control);
        let now = self.engine.clock.now();
        let deadline = self.step.task.deadline;
        if deadline.is_some_and(|at| at <= now) {
            return self.end_by(Command::Expire).await;
        }
        if self.is_orphan().await {
            return self.end_by(Command::Cancel).await;
        }
        let mut deadline = deadline.map(|at| Box::pin(tokio::time::sleep(now.until(at))));
        let mut report_at: Option<Instant> = None;
        let mut reported = Instant::now().checked_sub(REPORT_EVERY);
        // At most one report is on its way to the store, and the agent goes on meanwhile.
        let mut reporting: Option<Stored> = None;
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut self.agent => break outcome,
                why = control.stopped() => return self.stopped(why, reporting).await,
                () = async { if let Some(sleep) = &mut deadline { sleep.await } }, if deadline.is_some() => {
                    control.stop(Stop::Void); // for what the agent has handed to threads
                    if settled(reporting).await {
                        self.end_by(Command::Expire).await;
                    }
                    return;
                }
                ours = async { match &mut reporting { Some(stored) => stored.await, None => true } }, if reporting.is_some() => {
                    reporting = None;
                    if !ours {
                        return;
                    }
                }
                () = control.reported.notified() => {
                    report_at.get_or_insert_with(|| reported.map_or_else(Instant::now, |last| last + REPORT_EVERY));
                }
                () = sleep_until(report_at), if report_at.is_some() && reporting.is_none() => {
                    (report_at, reported) = (None, Some(Instant::now()));
                    if let Some(progress) = control.take_report() {
                        self.apply(Command::Report(progress));
                        reporting = Some(self.store_pending());
                    }
                }
            }
        };
        if settled(reporting).await {
            self.conclude(outcome);
            self.write_end().await;
        }
    }

    /// Whether its parent has ended: then a crash came between that end and the children's.
    async fn is_orphan(&mut self) -> bool {
        let task = &self.step.task;
        // A child that begins here and now was asked for by a parent that lives.
        let (Some(parent), true) =
            (task.parent_id, task.revision.epoch > 1 || task.started_at != Some(task.created_at))
        else {
            return false;
        };
        match self.engine.load(parent).await {
            Ok(parent) => parent.state.is_terminal(),
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }

    async fn end_by(&mut self, command: Command) {
        self.apply(command);
        self.write_end().await;
    }

    /// Turns the agent's outcome into the task's next state.
    pub(crate) fn conclude(&mut self, outcome: Outcome) {
        self.control.leave();
        if let Some(progress) = self.control.take_report() {
            self.apply(Command::Report(progress));
        }
        let command = match outcome {
            Ok(output) if output.as_str().len() > MAX_OUTPUT => {
                let found = output.as_str().len();
                let message = format!(
                    "the output has {found} bytes, {MAX_OUTPUT} are allowed; store it elsewhere and return where"
                );
                Command::Fail { error: TaskError::new("output_too_large", message), retry: None, random: 0 }
            }
            Ok(output) => Command::Complete { output },
            Err(error) => {
                let retry = error.is_temporary().then(|| error.delay().unwrap_or_default());
                let mut error = error.into_task_error();
                cut(&mut error.message, MAX_MESSAGE);
                Command::Fail { error, retry, random: self.engine.clock.random() }
            }
        };
        self.apply(command);
    }

    /// After the last write is committed: starts the clock of a retry, ends what the task called for.
    pub(crate) async fn after_end(&mut self) {
        // An earlier execution may have called too; the first one's end has epoch 2.
        if self.context.has_called() || self.step.task.revision.epoch > 2 {
            self.cancel_children().await;
        }
        if !self.step.task.state.is_terminal() {
            self.engine.due(self.step.task.due_at);
        }
    }

    async fn cancel_children(&mut self) {
        let task = self.step.task.id;
        if let Err(error) = self.engine.cancel_children(task).await {
            tracing::warn!(%task, error = %error.report(), "the task's children could not be cancelled");
        }
    }

    /// This execution holds the task, so commands fit its state; one that does not would only lose its own effect.
    fn apply(&mut self, command: Command) {
        if let Err(refused) = self.step.apply(command, self.engine.clock.now()) {
            tracing::error!(task = %self.step.task.id, ?refused, "an execution applied a command out of turn");
        }
    }

    async fn stopped(mut self: Box<Self>, why: Stop, reporting: Option<Stored>) {
        match why {
            // The agent may have called between its task's end and this moment.
            Stop::Void if self.context.has_called() => self.cancel_children().await,
            Stop::Void => {}
            Stop::Release => {
                if settled(reporting).await {
                    self.apply(Command::Release);
                    self.control.leave();
                    // Its children live on: the next execution finds them.
                    if self.store_pending().await {
                        self.engine.executions.has_released();
                    }
                }
            }
        }
    }

    async fn write_end(&mut self) {
        self.control.leave();
        if self.store_pending().await {
            self.after_end().await;
        }
    }

    fn store_pending(&mut self) -> Stored {
        Box::pin(write_until_answered(Arc::clone(&self.engine), self.take_write()))
    }
}

/// A write on its way; whether the task was still the execution's.
type Stored = Pin<Box<dyn Future<Output = bool> + Send>>;

async fn settled(stored: Option<Stored>) -> bool {
    match stored {
        Some(stored) => stored.await,
        None => true,
    }
}

/// Stays with a write while the store does not answer: the outcome must not be lost. False if the task is no longer ours.
async fn write_until_answered(engine: Arc<Inner>, write: TaskWrite) -> bool {
    let task = write.task().id;
    let mut round = 0;
    loop {
        let error = match engine.writer.write(write.clone()).await {
            Ok(WriteOutcome::Applied) => return true,
            // A former try may have been stored although its answer was lost.
            Ok(WriteOutcome::Stale) if round > 0 => match is_stored(&*engine.store, &write).await {
                Ok(true) => {
                    engine.announce(&write);
                    return true;
                }
                Ok(false) => return taken_over(task),
                Err(error) => error,
            },
            Ok(_) => return taken_over(task),
            Err(error) => error,
        };
        if engine.is_closing() && round > 6 {
            tracing::error!(%task, error = %error.report(), "the outcome could not be stored before the shutdown; the task runs again at the next start");
            return false;
        }
        tracing::warn!(%task, error = %error.report(), "the outcome cannot be stored yet");
        tokio::time::sleep(backoff(round)).await;
        round += 1;
    }
}

fn taken_over(task: TaskId) -> bool {
    tracing::info!(%task, "the task was taken over or ended meanwhile; this execution's outcome does not count");
    false
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

/// Cuts a text to at most `most` bytes, the mark of the cut included.
pub(crate) fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most - '…'.len_utf8()));
        text.push('…');
    }
}

fn panicked(cause: Box<dyn Any + Send>) -> Outcome {
    let text = cause
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| cause.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into());
    Err(AgentError::temporary("agent_panicked", format!("the agent panicked: {text}")))
}
