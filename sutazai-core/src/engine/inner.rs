//! What every part of a running engine shares.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use super::{
    catalogue::Catalogue,
    control::Executions,
    hub::Hub,
    membership::Membership,
    observer::Observer,
    places::Places,
    retention::Retention,
    selection::ClaimPolicy,
    transition::{Command, Refused, Transition, apply},
    writer::{Announcer, Committed, Writer},
};
use crate::{
    clock::{Clock, IdSource, Timestamp},
    error::{Error, ErrorKind, Result},
    model::Models,
    store::{TaskStore, TaskWrite, VectorStore, WakeUp, WriteOutcome},
    task::{Entry, IdempotencyKey, NodeId, Revision, Task, TaskId, TaskState},
};

/// How often a change from outside is tried again when the task moves on meanwhile.
const CONTENTION: usize = 64;

/// How long a wake-up that got lost can stay unnoticed.
pub(crate) const SLOW_POLL: Duration = Duration::from_secs(5);

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn TaskStore>,
    pub(crate) catalogue: Catalogue,
    pub(crate) models: Models,
    pub(crate) vectors: Option<Arc<dyn VectorStore>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: IdSource,
    pub(crate) membership: Membership,
    pub(crate) policy: Mutex<ClaimPolicy>,
    /// Whether agents run here; else tasks are only taken in.
    pub(crate) executes: bool,
    /// Tasks that may be queued in the whole store.
    pub(crate) queue_max: i64,
    /// How many are, as far as this process knows.
    pub(crate) queued: AtomicI64,
    /// Places in the queue of tasks that are on their way to the store.
    pub(crate) reserved: AtomicI64,
    pub(crate) retention: Retention,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) writer: Writer,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) executions: Arc<Executions>,
    /// Whether runnable tasks may be waiting in the store: newcomers then queue behind them.
    pub(crate) backlog: AtomicBool,
    /// Wakes the dispatcher: something may be runnable.
    pub(crate) runnable: Arc<Notify>,
    pub(crate) places: Arc<Places>,
    /// What the store tells the dispatcher by; it may hold no more than a weak reference.
    pub(crate) _wake_up: WakeUp,
    /// Wakes the timekeeper: something is due before `next_due`.
    pub(crate) earlier: Notify,
    /// Wakes who looks for children of ended tasks: there may be some.
    pub(crate) bereaved: Notify,
    /// Wakes the keeper of schedules: one was changed.
    pub(crate) rescheduled: Notify,
    /// Milliseconds of the moment the timekeeper sleeps until.
    pub(crate) next_due: AtomicI64,
    /// No new work is admitted.
    pub(crate) closing: AtomicBool,
    /// The store may hold tasks as granted to this node that nobody executes: the dispatcher looks before it claims.
    pub(crate) doubt: AtomicBool,
    /// Tasks whose end was committed while their execution might be about to be entered, with the epoch of that end.
    pub(crate) missed: Mutex<Vec<(TaskId, u64)>>,
    /// A loop of the engine ended by a fault.
    pub(crate) broken: AtomicBool,
}

impl Inner {
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// The id of this process's present life.
    pub(crate) fn node(&self) -> NodeId {
        self.membership.node()
    }

    pub(crate) fn announcer(&self) -> Announcer {
        Announcer {
            hub: Arc::clone(&self.hub),
            observer: Arc::clone(&self.observer),
            executions: Arc::clone(&self.executions),
            runnable: Arc::clone(&self.runnable),
            places: Arc::clone(&self.places),
        }
    }

    /// Tells those who wait for the task and the observer of a write that was found in the store.
    pub(crate) fn announce(&self, write: &TaskWrite) {
        self.announcer().committed(write);
    }

    pub(crate) fn policy(&self) -> MutexGuard<'_, ClaimPolicy> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a limit can hold the task back: then only a claim, which sees the whole store, may grant it.
    pub(crate) fn is_limited(&self, task: &Task) -> bool {
        let policy = self.policy();
        let rule = policy.queues.get(&*task.queue());
        rule.is_none_or(|rule| rule.concurrency.is_some() || rule.rate.is_some())
            || policy.tenant(&task.tenant).concurrency.is_some()
    }

    /// Refuses more from outside while the queue is full.
    pub(crate) fn has_room(&self) -> Result<()> {
        let taken = self.queued.load(Ordering::SeqCst) + self.reserved.load(Ordering::SeqCst);
        if taken < self.queue_max { Ok(()) } else { Err(self.full()) }
    }

    fn full(&self) -> Error {
        let message =
            format!("{} tasks are queued, which is the limit; try again later, or raise the limit", self.queue_max);
        Error::new(ErrorKind::Full, message)
            .with_code("queue_full")
            .during("submit task")
            .retry_after(Duration::from_secs(1))
    }

    /// Takes a place in the queue, unless it is full; however many ask at once, no more get one than there are.
    pub(crate) fn reserve(self: &Arc<Self>) -> Result<Place> {
        let free = |reserved| {
            let taken = self.queued.load(Ordering::SeqCst) + reserved;
            (taken < self.queue_max).then_some(reserved + 1)
        };
        match self.reserved.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free) {
            Ok(_) => Ok(Place(Arc::clone(self))),
            Err(_) => Err(self.full()),
        }
    }

    /// The outcome of a commit that grants is unknown.
    pub(crate) fn doubt(&self) {
        self.doubt.store(true, Ordering::SeqCst);
        self.runnable.notify_one();
    }

    pub(crate) fn take_missed(&self) -> Vec<(TaskId, u64)> {
        std::mem::take(&mut self.missed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A task was stored that the dispatcher has to fetch.
    pub(crate) fn queued_one(&self) {
        self.backlog.store(true, Ordering::SeqCst);
        self.runnable.notify_one();
    }

    /// Something becomes due at `at`.
    pub(crate) fn due(&self, at: Timestamp) {
        if self.next_due.fetch_min(at.as_millis(), Ordering::SeqCst) > at.as_millis() {
            self.earlier.notify_one();
        }
    }

    pub(crate) async fn load(&self, id: TaskId) -> Result<Task> {
        let found = self.store.load(&[id]).await?.pop().flatten();
        found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "there is no such task")
                .with_code("task_not_found")
                .during("find task")
                .about(id)
        })
    }

    /// Applies a command that comes from outside the execution, however the task moves meanwhile.
    ///
    /// The inner result says that the command does not fit the task as it is.
    pub(crate) async fn change(&self, id: TaskId, command: Command) -> Result<Result<Arc<Task>, Refused>> {
        let changed = self.change_with(id, None, |task| {
            let step = apply(task, command.clone(), self.clock.now());
            std::future::ready(Ok(step.map(|step| (step, Vec::new()))))
        });
        Ok(changed.await?.map(|changed| changed.task))
    }

    /// Makes a change from outside, with what it adds to the journal, under an idempotency key. `make` is asked again when the task moves meanwhile.
    pub(crate) async fn change_with<F, Fut>(
        &self,
        id: TaskId,
        key: Option<IdempotencyKey>,
        make: F,
    ) -> Result<Result<Changed, Refused>>
    where
        F: Fn(&Task) -> Fut,
        Fut: Future<Output = Result<Result<(Transition, Vec<Entry>), Refused>>>,
    {
        for _ in 0..CONTENTION {
            let before = self.load(id).await?;
            let (step, entries) = match make(&before).await {
                Ok(Ok(made)) => made,
                // What was done before may not fit any more; its repetition is answered all the same.
                Ok(Err(refused)) => return Ok(self.replayed(key.as_ref(), &before).await?.ok_or(refused)),
                Err(error) => return self.replayed(key.as_ref(), &before).await?.map(Ok).ok_or(error),
            };
            let (task, expected) = (Arc::new(step.task), before.revision);
            let write =
                TaskWrite::Update { task: Arc::clone(&task), expected, events: step.events, entries, key: key.clone() };
            match self.writer.write(write).await? {
                WriteOutcome::Applied => {
                    self.changed(&before, &task);
                    return Ok(Ok(Changed { task, replayed: false }));
                }
                WriteOutcome::Replayed(task) => return Ok(Ok(Changed { task: Arc::new(*task), replayed: true })),
                WriteOutcome::KeyConflict => return Err(key_conflict("change task")),
                WriteOutcome::Stale => {}
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "the task keeps changing; try again").during("change task").about(id))
    }

    /// Whether a change that no longer fits is the repetition of one that did: a write that changes nothing says so.
    pub(super) async fn replayed(&self, key: Option<&IdempotencyKey>, before: &Task) -> Result<Option<Changed>> {
        let Some(key) = key else { return Ok(None) };
        // No task is ever at this revision, so it is stale unless the key is known.
        let nowhere = Revision { epoch: u64::MAX >> 1, seq: u64::MAX >> 1 };
        let task = Arc::new(before.clone());
        let probe = TaskWrite::Update {
            task,
            expected: nowhere,
            events: Vec::new(),
            entries: Vec::new(),
            key: Some(key.clone()),
        };
        match self.store.write(&[probe]).await?.pop() {
            Some(WriteOutcome::Replayed(task)) => Ok(Some(Changed { task: Arc::new(*task), replayed: true })),
            Some(WriteOutcome::KeyConflict) => Err(key_conflict("change task")),
            _ => Ok(None),
        }
    }

    /// A change from outside was committed.
    pub(super) fn changed(&self, before: &Task, task: &Arc<Task>) {
        let id = task.id;
        if task.state.is_terminal() && before.node.as_ref() == Some(&self.node()) {
            // It may be about to be entered, or just have been: whoever enters looks here afterwards.
            self.missed.lock().unwrap_or_else(PoisonError::into_inner).push((id, task.revision.epoch));
        }
        self.executions.void(id, task.revision.epoch);
        let queues = |task: &Task| i64::from(task.state == TaskState::Created);
        self.queued.fetch_add(queues(task) - queues(before), Ordering::SeqCst);
        if matches!(task.state, TaskState::Created | TaskState::Waiting) && task.due_at <= self.clock.now() {
            self.queued_one();
        }
    }

    /// Cancels a task and everything it called for.
    pub(crate) async fn cancel(&self, id: TaskId, key: Option<IdempotencyKey>) -> Result<Changed> {
        let changed = self.change_with(id, key, |task| {
            let step = apply(task, Command::Cancel, self.clock.now());
            std::future::ready(Ok(step.map(|step| (step, Vec::new()))))
        });
        let changed = changed.await?;
        // Also of one that has ended already: whoever ended it may have gone before it came to this.
        self.cancel_children(id).await?;
        changed.map_err(|_| {
            Error::new(ErrorKind::Conflict, "the task has ended already")
                .with_code("task_finished")
                .during("cancel task")
                .about(id)
        })
    }
}

/// A task that somebody changed from outside.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The task afterwards; of a repetition, as it is now.
    pub task: Arc<Task>,
    /// Whether the idempotency key had been used for this before: nothing has changed now.
    pub replayed: bool,
}

/// A place in the queue, kept for a task that is on its way to the store; given back when dropped.
pub(crate) struct Place(Arc<Inner>);

impl Place {
    /// The task is queued.
    pub(crate) fn keep(self) {
        self.0.queued.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.reserved.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) fn key_conflict(operation: &'static str) -> Error {
    Error::new(ErrorKind::Conflict, "the idempotency key was used for another request")
        .with_code("idempotency_conflict")
        .during(operation)
}

pub(crate) fn shut_down() -> Error {
    Error::new(ErrorKind::Unavailable, "the engine has shut down").with_code("shutting_down")
}

/// Never returns where there is no moment to wait for.
pub(super) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Pauses between tries against a store that does not answer: 50 ms, doubling, 5 s at most.
pub(crate) fn backoff(round: u32) -> Duration {
    Duration::from_millis((50u64 << round.min(7)).min(5_000))
}
