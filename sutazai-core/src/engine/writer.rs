//! Groups what arrives within a moment into one commit, so that throughput does not cost durability.

mod group;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
};

use self::group::{Group, Groups};
use super::{control::Executions, hub::Hub, inner::shut_down, observer::Observer, places::Places};
use crate::{
    error::{Error, Result},
    store::{TaskStore, TaskWrite, WriteOutcome},
    task::{Event, Task},
};

/// Requests that may wait for the commit under way; beyond it, callers wait.
const QUEUE: usize = 4_096;

/// How often the revisions are read again after a commit whose outcome is unknown.
const REREADS: u32 = 5;

/// What became of the writes of one request, in order.
pub(crate) type Outcomes = Vec<Result<WriteOutcome>>;

/// What one caller asks for.
struct Pending {
    writes: Vec<TaskWrite>,
    done: oneshot::Sender<Outcomes>,
}

/// The way to the store for every write of the engine. Cheap to clone; callers hold clones, the engine owns the service.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Pending>,
}

/// Called after the commit for each write that was applied, before its caller hears of it.
pub(crate) trait Committed: Send + Sync + 'static {
    fn committed(&self, write: &TaskWrite);
}

impl Writer {
    /// Starts the service; it ends, with everything queued written, after `end` is notified.
    pub(crate) fn start(
        store: Arc<dyn TaskStore>,
        committed: impl Committed,
        end: Arc<Notify>,
    ) -> (Self, JoinHandle<()>) {
        let (queue, pending) = mpsc::channel(QUEUE);
        (Self { queue }, tokio::spawn(serve(store, pending, committed, end)))
    }

    /// Whether writes are still taken.
    pub(crate) fn is_open(&self) -> bool {
        !self.queue.is_closed()
    }

    /// Queues writes that belong into one commit; the answer comes after it.
    pub(crate) async fn send(&self, writes: Vec<TaskWrite>) -> Answer {
        let (count, (done, outcomes)) = (writes.len(), oneshot::channel());
        // A closed queue drops `done`, and the caller learns it from the answer.
        let _ = self.queue.send(Pending { writes, done }).await;
        Answer { count, outcomes }
    }

    /// Stores a write and waits for the commit.
    pub(crate) async fn write(&self, write: TaskWrite) -> Result<WriteOutcome> {
        self.send(vec![write]).await.outcomes().await.pop().unwrap_or_else(|| Err(shut_down()))
    }
}

/// The answer to queued writes, to come.
pub(crate) struct Answer {
    count: usize,
    outcomes: oneshot::Receiver<Outcomes>,
}

impl Answer {
    /// Waits for the commit; one outcome a write.
    pub(crate) async fn outcomes(self) -> Outcomes {
        match self.outcomes.await {
            Ok(outcomes) => outcomes,
            Err(_) => (0..self.count).map(|_| Err(shut_down())).collect(),
        }
    }
}

async fn serve(
    store: Arc<dyn TaskStore>,
    mut pending: mpsc::Receiver<Pending>,
    committed: impl Committed,
    end: Arc<Notify>,
) {
    let mut groups = Groups::new(store.info().parallel_writes);
    let mut under_way = FuturesUnordered::new();
    let mut all_heard = false;
    loop {
        while groups.has_room()
            && let Ok(request) = pending.try_recv()
        {
            groups.take(request);
        }
        if let Some(group) = groups.begin() {
            under_way.push(commit(&*store, group));
            continue;
        }
        if all_heard && groups.is_idle() {
            return;
        }
        // Biased here and elsewhere: the same events in the same order always lead to the same writes, which the simulation relies on.
        tokio::select! {
            biased;
            () = end.notified() => pending.close(),
            Some((group, outcomes)) = under_way.next() => {
                groups.end(&group);
                answer(group, outcomes, &committed);
            }
            next = pending.recv(), if !all_heard && groups.has_room() => match next {
                Some(request) => groups.take(request),
                None => all_heard = true,
            },
        }
    }
}

/// Tells the callers of a group, and first of all whoever wants to know of each commit.
fn answer(group: Group, outcomes: Outcomes, committed: &impl Committed) {
    let mut results = group.writes.into_iter().zip(outcomes);
    for (count, done) in group.callers {
        let mut answer = Vec::with_capacity(count);
        for (write, outcome) in results.by_ref().take(count) {
            if matches!(outcome, Ok(WriteOutcome::Applied)) {
                committed.committed(&write);
            }
            answer.push(outcome);
        }
        let _ = done.send(answer); // a caller may have gone; the writes stand all the same
    }
}

async fn commit(store: &dyn TaskStore, group: Group) -> (Group, Outcomes) {
    let outcomes = match store.write(&group.writes).await {
        Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
        Err(error) if !error.is_temporary() && group.callers.len() > 1 => one_by_one(store, &group).await,
        Err(error) => after_unknown_outcome(store, &group.writes, &error).await,
    };
    (group, outcomes)
}

/// The store refuses a group for good: one of its requests is at fault, and the others must not fail with it.
async fn one_by_one(store: &dyn TaskStore, group: &Group) -> Outcomes {
    let mut outcomes = Vec::with_capacity(group.writes.len());
    let mut rest = &group.writes[..];
    for (count, _) in &group.callers {
        let (request, later) = rest.split_at(*count);
        rest = later;
        match store.write(request).await {
            Ok(stored) => outcomes.extend(stored.into_iter().map(Ok)),
            Err(error) => outcomes.extend(after_unknown_outcome(store, request, &error).await),
        }
    }
    outcomes
}

/// Finds out by their events which writes of a failed commit were stored all the same.
async fn after_unknown_outcome(store: &dyn TaskStore, writes: &[TaskWrite], error: &Error) -> Outcomes {
    tracing::warn!(error = %error.report(), writes = writes.len(), "a commit failed; reading what it left");
    for round in 0..REREADS {
        if let Ok(stored) = which_are_stored(store, writes).await {
            let outcome = |stored| if stored { Ok(WriteOutcome::Applied) } else { Err(again(error)) };
            return stored.into_iter().map(outcome).collect();
        }
        tokio::time::sleep(Duration::from_millis(50 << round)).await;
    }
    writes.iter().map(|_| Err(again(error))).collect()
}

async fn which_are_stored(store: &dyn TaskStore, writes: &[TaskWrite]) -> Result<Vec<bool>> {
    let mut stored = Vec::with_capacity(writes.len());
    for write in writes {
        stored.push(is_stored(store, write).await?);
    }
    Ok(stored)
}

/// Whether this very write is in the store, whatever came after it. Revisions do not tell: a cancel and a finish from one revision lead to the same next
/// one. Events do, for they are only ever appended.
pub(crate) async fn is_stored(store: &dyn TaskStore, write: &TaskWrite) -> Result<bool> {
    match write {
        TaskWrite::Append { task, era, entries, .. } => {
            let Some(first) = entries.first() else { return Ok(false) };
            Ok(store.journal(*task, *era, first.index, entries.len()).await? == *entries)
        }
        // One that was told twice is better than one that was lost; who sends a key is told once.
        TaskWrite::Signal { .. } => Ok(false),
        TaskWrite::Insert { .. } | TaskWrite::Update { .. } => {
            let Some(first) = write.events().first() else { return Ok(false) };
            Ok(store.events(write.id(), first.seq - 1, write.events().len()).await? == write.events())
        }
    }
}

/// The error once more, for each caller of its group.
fn again(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.report()).with_code(error.code());
    match error.delay() {
        Some(delay) => copy.retry_after(delay),
        None => copy,
    }
}

/// Tells the hub and the observer.
#[derive(Clone)]
pub(crate) struct Announcer {
    pub(crate) hub: Arc<Hub>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) executions: Arc<Executions>,
    pub(crate) runnable: Arc<Notify>,
    pub(crate) places: Arc<Places>,
}

impl Committed for Announcer {
    fn committed(&self, write: &TaskWrite) {
        match write {
            TaskWrite::Insert { task, events, .. } | TaskWrite::Update { task, events, .. } => {
                self.changed(task, events)
            }
            TaskWrite::Append { children, .. } => {
                children.iter().for_each(|child| self.changed(&child.task, &child.events))
            }
            TaskWrite::Signal { task, .. } => {
                if !self.executions.poke(*task) {
                    self.runnable.notify_one();
                }
            }
        }
    }
}

impl Announcer {
    pub(crate) fn changed(&self, task: &Arc<Task>, events: &[Event]) {
        // An observer is foreign code; a panic of it must not end the one writer.
        let observe = || self.observer.task_changed(task, events);
        if std::panic::catch_unwind(AssertUnwindSafe(observe)).is_err() {
            tracing::error!("the observer panicked; it has missed a change");
        }
        self.hub.publish(task);
        // The store has woken its parent; one that is executed here sees it by itself.
        let parent = task.parent_id.filter(|_| task.state.is_terminal());
        let wakes_parent = parent.is_some_and(|parent| !self.executions.told(parent));
        let frees_place = task.node.is_none() && self.places.free();
        if wakes_parent || frees_place {
            self.runnable.notify_one();
        }
    }
}
