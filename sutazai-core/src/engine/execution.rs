//! One execution of one task: polls its agent, writes what becomes of it.

use std::{future::Future, pin::Pin, sync::Arc, task::Poll, time::Duration};

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep},
};

use super::{
    at_work::{Outcome, Work, poll, sink, suspendable, work},
    catalogue::Registered,
    control::{Control, Entered, Stop},
    inner::{Inner, backoff, sleep_until},
    journal::{Journal, Verdict, full},
    transition::{Command, Transition},
    writer::is_stored,
};
use crate::{
    clock::Timestamp,
    store::{TaskWrite, WriteOutcome},
    task::{Entry, Event, EventKind, JournalMark, Revision, Task, TaskError, TaskId, WaitReason},
};

/// Reports of progress are written at most this often.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// Entries read at once.
const PAGE: usize = 1_000;

/// Bytes of JSON that an agent may return.
pub const MAX_OUTPUT: usize = 16 << 20;

/// Bytes of an error's message that are kept.
const MAX_MESSAGE: usize = 16 << 10;

/// An agent at work on a task that this node has claimed.
pub(crate) struct Execution {
    engine: Arc<Inner>,
    /// The task as it is here, with the events that are not written yet.
    step: Transition,
    /// The revision in the store once what was sent is committed.
    sent: Revision,
    control: Arc<Control>,
    journal: Arc<Journal>,
    agent: Work,
    /// What the journal grows by with the next write.
    entries: Vec<Entry>,
    /// It begins from what is stored, which is to be read first.
    stored: Option<Registered>,
}

impl Execution {
    /// Of a task that is not stored yet; `step` holds it claimed.
    pub(crate) fn fresh(
        engine: &Arc<Inner>,
        registered: &Registered,
        step: Transition,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let control = Control::new(permit, Arc::clone(&engine.slots), step.task.revision.epoch);
        let journal = Journal::new(Some(sink(engine, &step.task, &control)), step.task.id, Vec::new(), 0);
        let agent = work(engine, registered, Arc::new(step.task.clone()), &control, &journal);
        let sent = step.task.revision;
        let stored = (step.task.journal.length > 0).then(|| registered.clone());
        Self { engine: Arc::clone(engine), step, sent, control, journal, agent, entries: Vec::new(), stored }
    }

    /// Of a task that the store has just granted to this node.
    pub(crate) fn claimed(
        engine: &Arc<Inner>,
        registered: &Registered,
        task: Task,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        // The first grant of a task that began with an empty journal finds it so.
        let JournalMark { era, length, .. } = task.journal;
        let stored = (task.revision.epoch > 1 || era > 0 || length > 0).then(|| registered.clone());
        Self { stored, ..Self::fresh(engine, registered, Transition { task, events: Vec::new() }, permit) }
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
            self.engine.announcer().changed(&Arc::new(task.clone()), &[assigned, running]);
        }
    }

    /// The image and the events of a task that is to be inserted; nothing further may be applied before it is sent.
    pub(crate) fn take_image(&mut self) -> (Arc<Task>, Vec<Event>) {
        self.sent = self.step.task.revision;
        (Arc::new(self.step.task.clone()), std::mem::take(&mut self.step.events))
    }

    /// Everything not yet written, as one write.
    fn take_write(&mut self) -> TaskWrite {
        let expected = self.sent;
        let (task, events) = self.take_image();
        TaskWrite::Update { task, expected, events, entries: std::mem::take(&mut self.entries), key: None }
    }

    /// Polls the agent to its end and writes the outcome.
    pub(crate) async fn run(self: Box<Self>, entered: Entered) {
        let (engine, control) = (Arc::clone(&self.engine), Arc::clone(&self.control));
        self.work().await;
        drop(entered);
        // Whoever told it something on its way out took it for running, and woke nobody.
        if control.was_told() {
            engine.runnable.notify_one();
        }
    }

    async fn work(mut self: Box<Self>) {
        let control = Arc::clone(&self.control);
        let now = self.engine.clock.now();
        let deadline = self.step.task.deadline;
        if deadline.is_some_and(|at| at <= now) {
            return self.end_by(Command::Expire).await;
        }
        if self.is_orphan().await {
            return self.end_by(Command::Cancel).await;
        }
        if let Some(registered) = self.stored.take() {
            tokio::select! {
                biased;
                why = control.stopped() => return self.stopped(why, None).await,
                () = self.read_journal(&registered) => {}
            }
        }
        self.journal.open();
        let journal = Arc::clone(&self.journal);
        let mut deadline = deadline.map(|at| Box::pin(tokio::time::sleep(now.until(at))));
        let mut report_at: Option<Instant> = None;
        let mut reported = Instant::now().checked_sub(REPORT_EVERY);
        // At most one report is on its way to the store, and the agent goes on meanwhile.
        let mut reporting: Option<Stored> = None;
        let mut grace: Option<Pin<Box<Sleep>>> = None;
        let outcome = loop {
            tokio::select! {
                biased;
                why = control.stopped() => return self.stopped(why, reporting).await,
                outcome = poll(&mut self.agent, &journal) => break outcome,
                verdict = journal.verdict() => {
                    self.drop_agent();
                    if settled(reporting).await {
                        self.judged(verdict).await;
                    }
                    return;
                }
                () = async { if let Some(sleep) = &mut deadline { sleep.await } }, if deadline.is_some() => {
                    control.stop(Stop::Void); // for what the agent has handed to threads
                    self.drop_agent();
                    if settled(reporting).await {
                        self.end_by(Command::Expire).await;
                    }
                    return;
                }
                // After the agent, in each round: what it waits for is then known.
                (reason, until) = suspendable(&journal, &mut grace, &self.engine) => {
                    let passed_by = journal.passed_by();
                    self.drop_agent();
                    if settled(reporting).await {
                        match passed_by {
                            Some(left) => self.judged(journal.skipped("waits", left)).await,
                            None => self.suspend(reason, until).await,
                        }
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
        // An attempt that fails may have come to its end before it has asked for all that is recorded, for a reason of its own.
        if let (Ok(_), Some(left)) = (&outcome, journal.left_over()) {
            journal.judge(journal.skipped("ends", left));
        }
        if !settled(reporting).await {
            return;
        }
        if let Some(verdict) = journal.judged() {
            self.judged(verdict).await;
        } else if journal.flush().await {
            self.conclude(outcome);
            self.write_end().await;
        } else if let Some(verdict) = journal.judged() {
            self.judged(verdict).await; // the journal is full
        }
    }

    /// The agent goes no further, and lets go of all it holds: the write that ends this execution may take long.
    fn drop_agent(&mut self) {
        self.agent = Box::pin(std::future::pending());
    }

    /// Takes in what earlier executions recorded, and begins from the top.
    async fn read_journal(&mut self, registered: &Registered) {
        let task = &self.step.task;
        let (mut entries, mut round) = (Vec::new(), 0);
        loop {
            match self.engine.store.journal(task.id, task.journal.era, entries.len() as u64, PAGE).await {
                Ok(mut page) => {
                    let full = page.len() == PAGE;
                    entries.append(&mut page);
                    if !full {
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!(task = %task.id, error = %error.report(), "the journal cannot be read yet");
                    tokio::time::sleep(backoff(round)).await;
                    round += 1;
                }
            }
        }
        if entries.is_empty() {
            return;
        }
        let sink = sink(&self.engine, task, &self.control);
        self.journal = Journal::new(Some(sink), task.id, entries, task.journal.attempt_epoch);
        self.agent = work(&self.engine, registered, Arc::new(task.clone()), &self.control, &self.journal);
    }

    /// The agent is dropped; its code runs again from the top when what it waits for has come.
    async fn suspend(&mut self, reason: WaitReason, until: Option<Timestamp>) {
        if !self.journal.flush().await {
            if let Some(verdict) = self.journal.judged() {
                self.judged(verdict).await;
            }
            return;
        }
        if let Some(progress) = self.control.take_report() {
            self.apply(Command::Report(progress));
        }
        self.end_by(Command::Suspend { reason, until }).await;
    }

    async fn judged(&mut self, verdict: Verdict) {
        // What is kept belongs to what the decision is about.
        let stored = matches!(verdict, Verdict::Fail(_)) || self.journal.flush().await;
        self.control.stop(Stop::Void); // for what the agent has handed to threads
        let verdict = match stored {
            true => verdict,
            false if self.journal.is_full() => Verdict::Fail(full()),
            false => return,
        };
        match verdict {
            Verdict::Halt { reason, error } => {
                tracing::warn!(task = %self.step.task.id, %error, "the task waits for a decision");
                self.end_by(Command::Halt { reason, error }).await;
            }
            Verdict::Continue(input) => {
                let at = self.engine.clock.now();
                self.entries = self.journal.carried_over(self.step.task.revision.epoch, at);
                self.end_by(Command::Continue { input }).await;
                self.engine.queued_one();
            }
            Verdict::Beyond(_) => {} // of replays alone
            Verdict::Fail(error) => self.end_by(Command::Fail { error, retry: None, random: 0 }).await,
        }
    }

    /// Whether its parent has ended: then a crash came between that end and the children's.
    async fn is_orphan(&mut self) -> bool {
        let task = &self.step.task;
        // A child that begins here and now was asked for by a parent that lives.
        let (Some(parent), true) = (
            task.parent_id.filter(|_| !task.detached),
            task.revision.epoch > 1 || task.started_at != Some(task.created_at),
        ) else {
            return false;
        };
        self.engine.has_ended(parent).await.unwrap_or(false)
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

    /// After the last write is committed: starts the clock of a delay, ends what the task called for.
    pub(crate) async fn after_end(&mut self) {
        let task = &self.step.task;
        if !task.state.is_terminal() {
            self.engine.due(task.due_at);
        } else if self.journal.len() > 0 || task.revision.epoch > 2 {
            self.cancel_children().await; // an earlier execution may have called too; the first one's end has epoch 2
        }
    }

    async fn cancel_children(&mut self) {
        let task = self.step.task.id;
        if let Err(error) = self.engine.cancel_children(task).await {
            tracing::warn!(%task, error = %error.report(), "the task's children could not be cancelled yet");
            self.engine.bereaved.notify_one();
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
            // Its children are cancelled by whoever ended it: none is born after that.
            Stop::Void => {}
            Stop::Release => {
                self.drop_agent();
                if settled(reporting).await && (self.journal.flush().await || self.journal.is_full()) {
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
pub(super) async fn write_until_answered(engine: Arc<Inner>, write: TaskWrite) -> bool {
    let task = write.id();
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

/// Cuts a text to at most `most` bytes, the mark of the cut included.
pub(crate) fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most - '…'.len_utf8()));
        text.push('…');
    }
}
