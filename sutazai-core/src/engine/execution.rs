//! One execution of one task: polls its agent, writes what becomes of it.

use std::{any::Any, future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc, task::Poll, time::Duration};

use futures_util::FutureExt;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    catalogue::Registered,
    control::{Control, Entered, Stop},
    inner::{Inner, backoff},
    transition::{Command, Transition},
};
use crate::{
    agent::AgentError,
    context::Context,
    error::Result,
    payload::Payload,
    store::{TaskWrite, WriteOutcome},
    task::{Event, EventKind, IdempotencyKey, Revision, Task},
};

/// Reports of progress are written at most this often.
const REPORT_EVERY: Duration = Duration::from_millis(200);

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
        let mut deadline = self.step.task.deadline.map(|at| Box::pin(tokio::time::sleep(now.until(at))));
        let mut report_at: Option<Instant> = None;
        let mut reported = Instant::now().checked_sub(REPORT_EVERY);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut self.agent => break outcome,
                why = control.stopped() => return self.stopped(why).await,
                () = async { if let Some(sleep) = &mut deadline { sleep.await } }, if deadline.is_some() => {
                    self.apply(Command::Expire);
                    return self.write_end().await;
                }
                () = control.reported.notified() => {
                    report_at.get_or_insert_with(|| reported.map_or_else(Instant::now, |last| last + REPORT_EVERY));
                }
                () = sleep_until(report_at), if report_at.is_some() => {
                    (report_at, reported) = (None, Some(Instant::now()));
                    if !self.write_report().await {
                        return;
                    }
                }
            }
        };
        self.conclude(outcome);
        self.write_end().await;
    }

    /// Turns the agent's outcome into the task's next state.
    pub(crate) fn conclude(&mut self, outcome: Outcome) {
        self.control.leave();
        if let Some(progress) = self.control.take_report() {
            self.apply(Command::Report(progress));
        }
        let command = match outcome {
            Ok(output) => Command::Complete { output },
            Err(error) => {
                let retry = error.is_temporary().then(|| error.delay().unwrap_or_default());
                Command::Fail { error: error.into_task_error(), retry, random: self.engine.clock.random() }
            }
        };
        self.apply(command);
    }

    /// After the last write is committed: starts the clock of a retry, ends what the task called for.
    pub(crate) async fn after_end(&mut self) {
        let task = &self.step.task;
        if !task.state.is_terminal() {
            self.engine.due(task.due_at);
        } else if self.context.has_called()
            && let Err(error) = self.engine.cancel_children(task.id).await
        {
            tracing::warn!(task = %task.id, error = %error.report(), "the task's children could not be cancelled");
        }
    }

    /// This execution holds the task, so commands fit its state; one that does not would only lose its own effect.
    fn apply(&mut self, command: Command) {
        if let Err(refused) = self.step.apply(command, self.engine.clock.now()) {
            tracing::error!(task = %self.step.task.id, ?refused, "an execution applied a command out of turn");
        }
    }

    async fn stopped(mut self: Box<Self>, why: Stop) {
        match why {
            Stop::Void => {}
            Stop::Release => {
                self.apply(Command::Release);
                self.write_end().await;
            }
        }
    }

    /// Whether the task is still this execution's.
    async fn write_report(&mut self) -> bool {
        let Some(progress) = self.control.take_report() else { return true };
        self.apply(Command::Report(progress));
        self.write_until_answered().await
    }

    async fn write_end(&mut self) {
        self.control.leave();
        if self.write_until_answered().await {
            self.after_end().await;
        }
    }

    /// Writes what is pending and stays with it while the store does not answer: the outcome must not be lost. False if the task is no longer ours.
    async fn write_until_answered(&mut self) -> bool {
        let write = self.take_write();
        let mut round = 0;
        loop {
            match self.engine.writer.write(write.clone()).await {
                Ok(WriteOutcome::Applied) => return true,
                Ok(_) => {
                    tracing::info!(task = %self.step.task.id, "the task was taken over or ended meanwhile; this execution's outcome does not count");
                    return false;
                }
                Err(error) if self.engine.is_closing() && round > 6 => {
                    tracing::error!(task = %self.step.task.id, error = %error.report(), "the outcome could not be stored before the shutdown; the task runs again at the next start");
                    return false;
                }
                Err(error) => {
                    tracing::warn!(task = %self.step.task.id, error = %error.report(), "the outcome cannot be stored yet");
                    tokio::time::sleep(backoff(round)).await;
                    round += 1;
                }
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
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
