//! Tasks in memory: the reference that other stores are compared with, and the default of an embedded program.

mod index;
mod keys;
mod nodes;
mod outbox;
mod schedules;
mod state;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;

use self::state::State;
use crate::{
    clock::{Clock, SystemClock, Timestamp},
    error::{Error, ErrorKind, Result},
    payload::Payload,
    store::{
        Claim, Delivery, Ended, Granted, Held, KeptAnswer, NodeRecord, Page, Posted, QueueDepths, Recalled,
        ScheduleRecord, StoreInfo, TaskQuery, TaskStore, TaskWrite, WakeUp, WriteOutcome,
    },
    task::{Entry, Event, IdempotencyKey, NodeId, NumberedEvent, Signal, Task, TaskId, TaskState},
};

/// A [`TaskStore`] in memory: complete, fast, and gone with the process.
///
/// It keeps every task that has not ended, and of those that have the newest [`KEPT`](MemoryTaskStore::KEPT) or as many
/// as [`MemoryTaskStore::keeping`] says; an older one goes with everything of its own, as if it were purged. Claims,
/// deadlines and timers cost the same however many tasks have ended. The same calls in the same order give the same
/// answers, numbers and order included.
pub struct MemoryTaskStore {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    shared: bool,
    /// The engines that want to know what another one has made runnable.
    watchers: Mutex<Vec<Weak<dyn Fn() + Send + Sync>>>,
}

impl Default for MemoryTaskStore {
    fn default() -> Self {
        Self::keeping(Self::KEPT)
    }
}

impl fmt::Debug for MemoryTaskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryTaskStore")
    }
}

impl MemoryTaskStore {
    /// Tasks that have ended and are kept, unless told otherwise.
    pub const KEPT: usize = 100_000;

    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that keeps so many tasks that have ended, those that ended last.
    #[must_use]
    pub fn keeping(ended: usize) -> Self {
        Self {
            state: Mutex::new(State::new(ended)),
            clock: Arc::new(SystemClock),
            shared: false,
            watchers: Mutex::new(Vec::new()),
        }
    }

    /// An empty store that judges leases of nodes and the age of answers by this clock.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..Self::default() }
    }

    /// The same store, for several engines of this process, which stand for as many nodes: it says that it is shared.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    fn open(&self) -> Result<MutexGuard<'_, State>> {
        // A panic while the lock was held would be a fault in this file; what others stored stays readable.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(Error::new(ErrorKind::Unavailable, "the store is closed; open another one"));
        }
        Ok(state)
    }

    fn notify(&self) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher.upgrade().is_some_and(|watcher| (watcher(), true).1));
    }
}

fn fits(query: &TaskQuery, task: &Task) -> bool {
    query.state.is_none_or(|state| task.state == state)
        && query.agent.as_deref().is_none_or(|agent| *task.agent == *agent)
        && query.tenant.as_deref().is_none_or(|tenant| *task.tenant == *tenant)
        && query.label.as_ref().is_none_or(|(key, value)| task.labels.get(key) == Some(value))
        && query.parent.is_none_or(|parent| task.parent_id == Some(parent))
        && (!query.dead_letters || task.is_dead_letter())
        && (!query.live || !task.state.is_terminal())
}

#[async_trait]
impl TaskStore for MemoryTaskStore {
    fn info(&self) -> StoreInfo {
        StoreInfo { name: "memory", durable: false, shared: self.shared, parallel_writes: 1 }
    }

    async fn write(&self, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
        let now = self.clock.now();
        let mut state = self.open()?;
        let queued = state.indexes.queued();
        let outcomes = batch.iter().map(|write| state.write(write, now)).collect();
        let news = state.indexes.queued() > queued;
        drop(state);
        if news {
            self.notify();
        }
        Ok(outcomes)
    }

    async fn claim(&self, claim: &Claim) -> Result<Granted> {
        Ok(self.open()?.claim(claim))
    }

    async fn load(&self, ids: &[TaskId]) -> Result<Vec<Option<Task>>> {
        let state = self.open()?;
        Ok(ids.iter().map(|id| state.task(*id).map(|task| Task::clone(task))).collect())
    }

    async fn list(&self, query: &TaskQuery) -> Result<Page<Task>> {
        let state = self.open()?;
        let mut found = state.candidates(query).filter(|task| fits(query, task));
        let items: Vec<_> = found.by_ref().take(query.limit).map(|task| Task::clone(task)).collect();
        let more = query.limit > 0 && found.next().is_some();
        Ok(Page { items, more })
    }

    async fn held_by(&self, node: &NodeId, limit: usize) -> Result<Vec<Held>> {
        let state = self.open()?;
        Ok(state.indexes.held_by(node).take(limit).filter_map(|id| state.held(id)).collect())
    }

    async fn ended_parents(&self, limit: usize) -> Result<Vec<TaskId>> {
        let state = self.open()?;
        let ended = |id: &TaskId| state.task(*id).is_none_or(|task| task.state.is_terminal());
        Ok(state.indexes.depended_on().filter(ended).take(limit).collect())
    }

    async fn overdue(&self, now: Timestamp, limit: usize) -> Result<Vec<Task>> {
        let state = self.open()?;
        let found = state.indexes.overdue(now).take(limit).filter_map(|id| state.task(id));
        Ok(found.map(|task| Task::clone(task)).collect())
    }

    async fn next_due(&self, after: Timestamp) -> Result<Option<Timestamp>> {
        let state = self.open()?;
        let next = [state.indexes.next(after), state.schedules.next(after)].into_iter().flatten().min();
        Ok(next.filter(|at| *at < Timestamp::NEVER))
    }

    async fn queue_depths(&self) -> Result<QueueDepths> {
        Ok(self.open()?.indexes.depths())
    }

    async fn queued(&self) -> Result<u64> {
        Ok(self.open()?.indexes.in_state(TaskState::Created).len() as u64)
    }

    async fn events(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Event>> {
        Ok(self.open()?.events(task, after, limit))
    }

    async fn feed(&self, after: u64, limit: usize) -> Result<Vec<NumberedEvent>> {
        Ok(self.open()?.feed(after, limit))
    }

    async fn journal(&self, task: TaskId, era: u32, from: u64, limit: usize) -> Result<Vec<Entry>> {
        Ok(self.open()?.journal(task, era, from, limit))
    }

    async fn signals(&self, task: TaskId, name: &str, from: u64, limit: usize) -> Result<Vec<Signal>> {
        Ok(self.open()?.signals(task, name, from, limit))
    }

    async fn join(&self, node: &NodeRecord, lease: Duration) -> Result<()> {
        self.open()?.nodes.join(node, lease, self.clock.now());
        Ok(())
    }

    async fn renew(&self, node: &NodeId, running: u64, lease: Duration) -> Result<bool> {
        Ok(self.open()?.nodes.renew(node, running, lease, self.clock.now()))
    }

    async fn lapsed(&self) -> Result<Vec<NodeId>> {
        let State { nodes, indexes, .. } = &mut *self.open()?;
        Ok(nodes.lapsed(&indexes.holders(), self.clock.now()))
    }

    async fn part(&self, node: &NodeId) -> Result<()> {
        self.open()?.nodes.part(node);
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<NodeRecord>> {
        Ok(self.open()?.nodes.all())
    }

    fn watch(&self, runnable: WakeUp) {
        if self.shared {
            self.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&runnable));
        }
    }

    async fn put_schedule(
        &self,
        record: &ScheduleRecord,
        expected: Option<u64>,
        answer: Option<&KeptAnswer>,
    ) -> Result<bool> {
        let now = self.clock.now();
        let State { keys, schedules, .. } = &mut *self.open()?;
        let Some(answer) = answer else { return Ok(schedules.put(record, expected)) };
        if keys.recall(&answer.key, now) != Recalled::New || !schedules.put(record, expected) {
            return Ok(false);
        }
        keys.remember(&answer.key, &answer.answer, answer.at, now);
        Ok(true)
    }

    async fn schedule(&self, name: &str) -> Result<Option<ScheduleRecord>> {
        Ok(self.open()?.schedules.get(name))
    }

    async fn schedules(&self, after: Option<&str>, limit: usize) -> Result<Page<ScheduleRecord>> {
        Ok(self.open()?.schedules.list(after, limit))
    }

    async fn due_schedules(&self, now: Timestamp, limit: usize) -> Result<Vec<ScheduleRecord>> {
        Ok(self.open()?.schedules.due(now, limit))
    }

    async fn drop_schedule(&self, name: &str) -> Result<bool> {
        Ok(self.open()?.schedules.drop(name))
    }

    async fn deliveries(&self, now: Timestamp, limit: usize, hold: Duration) -> Result<Vec<Delivery>> {
        Ok(self.open()?.outbox.take(now, limit, hold))
    }

    async fn posted(&self, taken: &Delivery, what: &Posted, now: Timestamp) -> Result<bool> {
        let mut state = self.open()?;
        let seq = state.task(taken.task).map_or(0, |task| task.revision.seq);
        Ok(state.outbox.posted(taken, what, seq, now))
    }

    async fn revive(&self, task: TaskId, skip: bool, now: Timestamp) -> Result<bool> {
        let mut state = self.open()?;
        let seq = state.task(task).map(|task| task.revision.seq);
        Ok(state.outbox.revive(task, seq.filter(|_| skip), now))
    }

    async fn undelivered(&self, before: Option<TaskId>, limit: usize) -> Result<Page<Delivery>> {
        Ok(self.open()?.outbox.undelivered(before, limit))
    }

    async fn recall(&self, key: &IdempotencyKey) -> Result<Recalled> {
        Ok(self.open()?.keys.recall(key, self.clock.now()))
    }

    async fn remember(&self, key: &IdempotencyKey, answer: &Payload, now: Timestamp) -> Result<()> {
        self.open()?.keys.remember(key, answer, now, self.clock.now());
        Ok(())
    }

    async fn ended(&self, after: Option<TaskId>, created_before: Timestamp, limit: usize) -> Result<Vec<Ended>> {
        let state = self.open()?;
        let end = TaskId::first_at(created_before);
        if after.is_some_and(|after| after >= end) {
            return Ok(Vec::new()); // a range that ends before it begins
        }
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let tasks = state.indexes.over().range((after, Bound::Excluded(end))).filter_map(|id| state.task(*id));
        let ended = |task: &Arc<Task>| {
            let finished_at = task.finished_at?;
            (task.created_at < created_before).then_some(Ended { id: task.id, state: task.state, finished_at })
        };
        Ok(tasks.filter_map(ended).take(limit).collect())
    }

    async fn nth_newest(&self, state: TaskState, n: u64) -> Result<Option<TaskId>> {
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        Ok(self.open()?.indexes.in_state(state).iter().rev().nth(n).copied())
    }

    async fn purge(&self, tasks: &[TaskId], now: Timestamp) -> Result<u64> {
        Ok(self.open()?.purge(tasks, now))
    }

    async fn ping(&self) -> Result<()> {
        self.open().map(drop)
    }

    async fn close(&self) -> Result<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        Ok(())
    }
}
