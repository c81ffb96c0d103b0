//! What every part of a running engine shares.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, Semaphore};

use super::{
    catalogue::Catalogue,
    control::{Executions, Stop},
    hub::Hub,
    observer::Observer,
    transition::{Command, Refused, apply},
    writer::{Announcer, Committed, Writer},
};
use crate::{
    clock::{Clock, IdSource, Timestamp},
    error::{Error, ErrorKind, Result},
    model::Models,
    store::{TaskQuery, TaskStore, TaskWrite, VectorStore, WriteOutcome},
    task::{NodeId, Task, TaskId},
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
    pub(crate) node: NodeId,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) writer: Writer,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) executions: Arc<Executions>,
    /// Whether runnable tasks may be waiting in the store: newcomers then queue behind them.
    pub(crate) backlog: AtomicBool,
    /// Wakes the dispatcher: something may be runnable.
    pub(crate) runnable: Notify,
    /// Wakes the timekeeper: something is due before `next_due`.
    pub(crate) earlier: Notify,
    /// Milliseconds of the moment the timekeeper sleeps until.
    pub(crate) next_due: AtomicI64,
    /// No new work is admitted.
    pub(crate) closing: AtomicBool,
    /// The store may hold tasks as granted to this node that nobody executes: the dispatcher looks before it claims.
    pub(crate) doubt: AtomicBool,
    /// Tasks whose end was committed while their execution was about to be entered.
    pub(crate) missed: Mutex<Vec<TaskId>>,
    /// A loop of the engine ended by a fault.
    pub(crate) broken: AtomicBool,
}

impl Inner {
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Tells those who wait for the task and the observer of a write that was found in the store.
    pub(crate) fn announce(&self, write: &TaskWrite) {
        Announcer { hub: Arc::clone(&self.hub), observer: Arc::clone(&self.observer) }.committed(write);
    }

    /// The outcome of a commit that grants is unknown.
    pub(crate) fn doubt(&self) {
        self.doubt.store(true, Ordering::SeqCst);
        self.runnable.notify_one();
    }

    pub(crate) fn take_missed(&self) -> Vec<TaskId> {
        std::mem::take(&mut self.missed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A task was stored that the dispatcher has to fetch.
    pub(crate) fn queued(&self) {
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
        for _ in 0..CONTENTION {
            let before = self.load(id).await?;
            let step = match apply(&before, command.clone(), self.clock.now()) {
                Ok(step) => step,
                Err(refused) => return Ok(Err(refused)),
            };
            let task = Arc::new(step.task);
            let write = TaskWrite::Update { task: Arc::clone(&task), expected: before.revision, events: step.events };
            if self.writer.write(write).await? == WriteOutcome::Applied {
                let told = self.executions.stop(id, Stop::Void);
                if !told && task.state.is_terminal() && before.node.as_ref() == Some(&self.node) {
                    // It was granted to this node and is about to be entered, or just has been.
                    self.missed.lock().unwrap_or_else(PoisonError::into_inner).push(id);
                    self.executions.stop(id, Stop::Void);
                }
                return Ok(Ok(task));
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "the task keeps changing; try again").during("change task").about(id))
    }

    /// Cancels a task and everything it called for.
    pub(crate) async fn cancel(&self, id: TaskId) -> Result<Arc<Task>> {
        let changed = self.change(id, Command::Cancel).await?;
        // Also of one that has ended already: whoever ended it may have gone before it came to this.
        self.cancel_children(id).await?;
        changed.map_err(|_| {
            Error::new(ErrorKind::Conflict, "the task has ended already")
                .with_code("task_finished")
                .during("cancel task")
                .about(id)
        })
    }

    /// Cancels the tasks that `parent` called for and that have not ended, and theirs.
    pub(crate) async fn cancel_children(&self, parent: TaskId) -> Result<()> {
        let mut parents = vec![parent];
        while let Some(parent) = parents.pop() {
            let mut query = TaskQuery { parent: Some(parent), limit: 200, ..TaskQuery::default() };
            loop {
                let page = self.store.list(&query).await?;
                for child in page.items.iter().filter(|child| !child.state.is_terminal()) {
                    // A child that ends by itself meanwhile is as good as cancelled.
                    let _ = self.change(child.id, Command::Cancel).await?;
                    parents.push(child.id);
                }
                query.before = page.items.last().map(|child| child.id);
                if !page.more {
                    break;
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn shut_down() -> Error {
    Error::new(ErrorKind::Unavailable, "the engine has shut down").with_code("shutting_down")
}

/// Pauses between tries against a store that does not answer: 50 ms, doubling, 5 s at most.
pub(crate) fn backoff(round: u32) -> Duration {
    Duration::from_millis((50u64 << round.min(7)).min(5_000))
}
