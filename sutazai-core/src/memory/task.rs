//! Tasks in memory: the reference that other stores are compared with, and the default of an embedded program.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::{
    clock::Timestamp,
    engine::{self, Command},
    error::{Error, ErrorKind, Result},
    store::{Claim, Page, QueueDepths, StoreInfo, TaskQuery, TaskStore, TaskWrite, WriteOutcome},
    task::{Event, IdempotencyKey, NodeId, Priority, Revision, Task, TaskId, TaskState},
};

/// A [`TaskStore`] in memory: complete, fast, and gone with the process.
///
/// It keeps every task that has not ended, and of those that have the newest [`KEPT`](MemoryTaskStore::KEPT) or as many as [`MemoryTaskStore::keeping`] says;
/// an older one goes with its events and its idempotency key. Only tasks that have not ended stand in its indexes, so a claim costs the same however many have.
#[derive(Default)]
pub struct MemoryTaskStore {
    state: Mutex<State>,
}

struct State {
    closed: bool,
    /// Tasks that have ended, in the order of their ends.
    ended: VecDeque<TaskId>,
    kept: usize,
    tasks: BTreeMap<TaskId, Entry>,
    keys: HashMap<KeyName, FirstUse>,
    /// Tasks that may be claimed once they are due, by priority.
    runnable: [BTreeSet<(Timestamp, TaskId)>; Priority::MAX.get() as usize + 1],
    deadlines: BTreeSet<(Timestamp, TaskId)>,
    held: BTreeSet<(NodeId, TaskId)>,
    children: BTreeSet<(TaskId, TaskId)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            closed: false,
            ended: VecDeque::new(),
            kept: MemoryTaskStore::KEPT,
            tasks: BTreeMap::new(),
            keys: HashMap::new(),
            runnable: Default::default(),
            deadlines: BTreeSet::new(),
            held: BTreeSet::new(),
            children: BTreeSet::new(),
        }
    }
}

/// An idempotency key in its tenant.
type KeyName = (Arc<str>, Arc<str>);

struct FirstUse {
    fingerprint: [u8; 32],
    task: TaskId,
}

struct Entry {
    task: Arc<Task>,
    events: Vec<Event>,
    key: Option<KeyName>,
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

    /// An empty store that keeps so many tasks that have ended, the newest.
    #[must_use]
    pub fn keeping(ended: usize) -> Self {
        Self { state: Mutex::new(State { kept: ended, ..State::default() }) }
    }

    fn open(&self) -> Result<MutexGuard<'_, State>> {
        // A panic while the lock was held would be a fault in this file; what others stored stays readable.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(Error::new(ErrorKind::Unavailable, "the store is closed; open another one"));
        }
        Ok(state)
    }
}

impl State {
    fn write(&mut self, write: &TaskWrite) -> WriteOutcome {
        match write {
            TaskWrite::Insert { task, events, key } => self.insert(task, events, key.as_ref()),
            TaskWrite::Update { task, expected, events } => self.update(Arc::clone(task), *expected, events),
        }
    }

    fn insert(&mut self, task: &Arc<Task>, events: &[Event], key: Option<&IdempotencyKey>) -> WriteOutcome {
        let name = key.map(|key| (Arc::clone(&key.tenant), Arc::clone(&key.key)));
        if let (Some(key), Some(name)) = (key, &name)
            && let Some(first) = self.keys.get(name)
        {
            return match self.tasks.get(&first.task) {
                Some(entry) if first.fingerprint == key.fingerprint => {
                    WriteOutcome::Replayed(Box::new(Task::clone(&entry.task)))
                }
                _ => WriteOutcome::KeyConflict,
            };
        }
        if self.tasks.contains_key(&task.id) {
            return WriteOutcome::Stale;
        }
        if let (Some(key), Some(name)) = (key, &name) {
            self.keys.insert(name.clone(), FirstUse { fingerprint: key.fingerprint, task: task.id });
        }
        self.index(task);
        if let Some(parent) = task.parent_id {
            self.children.insert((parent, task.id));
        }
        self.tasks.insert(task.id, Entry { task: Arc::clone(task), events: events.to_vec(), key: name });
        self.keep(task);
        WriteOutcome::Applied
    }

    fn update(&mut self, task: Arc<Task>, expected: Revision, events: &[Event]) -> WriteOutcome {
        let Some(entry) = self.tasks.get_mut(&task.id) else { return WriteOutcome::Stale };
        if entry.task.revision != expected {
            return WriteOutcome::Stale;
        }
        entry.events.extend_from_slice(events);
        let before = std::mem::replace(&mut entry.task, Arc::clone(&task));
        self.unindex(&before);
        self.index(&task);
        self.keep(&task);
        WriteOutcome::Applied
    }

    /// Lets the oldest ends go when there are too many.
    fn keep(&mut self, task: &Task) {
        if task.state.is_terminal() {
            self.ended.push_back(task.id);
        }
        while self.ended.len() > self.kept {
            let Some(entry) = self.ended.pop_front().and_then(|oldest| self.tasks.remove(&oldest)) else { continue };
            if let Some(name) = entry.key {
                self.keys.remove(&name);
            }
            if let Some(parent) = entry.task.parent_id {
                self.children.remove(&(parent, entry.task.id));
            }
        }
    }

    fn index(&mut self, task: &Task) {
        if let Some(queue) = self.queue(task) {
            queue.insert((task.due_at, task.id));
        }
        if let (Some(deadline), false) = (task.deadline, task.state.is_terminal()) {
            self.deadlines.insert((deadline, task.id));
        }
        if let (Some(node), TaskState::Assigned | TaskState::Running) = (&task.node, task.state) {
            self.held.insert((node.clone(), task.id));
        }
    }

    fn unindex(&mut self, task: &Task) {
        if let Some(queue) = self.queue(task) {
            queue.remove(&(task.due_at, task.id));
        }
        if let Some(deadline) = task.deadline {
            self.deadlines.remove(&(deadline, task.id));
        }
        if let Some(node) = &task.node {
            self.held.remove(&(node.clone(), task.id));
        }
    }

    /// The queue in which `task` waits to be claimed, if it does.
    fn queue(&mut self, task: &Task) -> Option<&mut BTreeSet<(Timestamp, TaskId)>> {
        matches!(task.state, TaskState::Created | TaskState::Waiting)
            .then(|| &mut self.runnable[usize::from(task.priority.get())])
    }

    fn claim(&mut self, claim: &Claim) -> Vec<Task> {
        let due = ..=(claim.now, last_id());
        let queued = self.runnable.iter().rev().flat_map(|queue| queue.range(due));
        let wanted = queued
            .filter_map(|(_, id)| self.tasks.get(id))
            .map(|entry| &entry.task)
            .filter(|task| claim.agents.contains(&task.agent));
        let tasks: Vec<_> = wanted.take(claim.limit).map(Arc::clone).collect();
        let mut granted = Vec::with_capacity(tasks.len());
        for before in tasks {
            let command = Command::Claim { node: claim.node.clone() };
            let Ok(step) = engine::apply(&before, command, claim.now) else { continue };
            let task = Arc::new(step.task);
            self.update(Arc::clone(&task), before.revision, &step.events);
            granted.push(Task::clone(&task));
        }
        granted
    }

    fn select<'a>(&'a self, ids: impl Iterator<Item = &'a TaskId>) -> Vec<Task> {
        ids.filter_map(|id| self.tasks.get(id)).map(|entry| Task::clone(&entry.task)).collect()
    }
}

/// The least of all ids.
fn first_id() -> TaskId {
    TaskId::from_bytes([0; 16])
}

/// The greatest of all ids.
fn last_id() -> TaskId {
    TaskId::from_bytes([u8::MAX; 16])
}

fn matches_query(query: &TaskQuery, task: &Task) -> bool {
    query.state.is_none_or(|state| task.state == state)
        && query.agent.as_deref().is_none_or(|agent| *task.agent == *agent)
        && query.tenant.as_deref().is_none_or(|tenant| *task.tenant == *tenant)
        && query.label.as_ref().is_none_or(|(key, value)| task.labels.get(key) == Some(value))
        && query.parent.is_none_or(|parent| task.parent_id == Some(parent))
}

#[async_trait]
impl TaskStore for MemoryTaskStore {
    fn info(&self) -> StoreInfo {
        StoreInfo { name: "memory", durable: false }
    }

    async fn write(&self, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
        let mut state = self.open()?;
        Ok(batch.iter().map(|write| state.write(write)).collect())
    }

    async fn claim(&self, claim: &Claim) -> Result<Vec<Task>> {
        Ok(self.open()?.claim(claim))
    }

    async fn load(&self, ids: &[TaskId]) -> Result<Vec<Option<Task>>> {
        let state = self.open()?;
        Ok(ids.iter().map(|id| state.tasks.get(id).map(|entry| Task::clone(&entry.task))).collect())
    }

    async fn list(&self, query: &TaskQuery) -> Result<Page<Task>> {
        let state = self.open()?;
        let before = query.before.map_or(Bound::Unbounded, Bound::Excluded);
        let candidates: Box<dyn Iterator<Item = &Entry> + Send> = match query.parent {
            Some(parent) => {
                let before =
                    query.before.map_or(Bound::Included((parent, last_id())), |id| Bound::Excluded((parent, id)));
                let children = state.children.range((Bound::Included((parent, first_id())), before));
                Box::new(children.rev().filter_map(|(_, child)| state.tasks.get(child)))
            }
            None => Box::new(state.tasks.range((Bound::Unbounded, before)).rev().map(|(_, entry)| entry)),
        };
        let mut found = candidates.map(|entry| &entry.task).filter(|task| matches_query(query, task));
        let items: Vec<_> = found.by_ref().take(query.limit).map(|task| Task::clone(task)).collect();
        let more = query.limit > 0 && found.next().is_some();
        Ok(Page { items, more })
    }

    async fn events(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Event>> {
        let state = self.open()?;
        let Some(entry) = state.tasks.get(&task) else { return Ok(Vec::new()) };
        let from = entry.events.partition_point(|event| event.seq <= after);
        Ok(entry.events[from..].iter().take(limit).cloned().collect())
    }

    async fn held_by(&self, node: &NodeId, limit: usize) -> Result<Vec<Task>> {
        let state = self.open()?;
        let range = (node.clone(), first_id())..=(node.clone(), last_id());
        Ok(state.select(state.held.range(range).take(limit).map(|(_, id)| id)))
    }

    async fn overdue(&self, now: Timestamp, limit: usize) -> Result<Vec<Task>> {
        let state = self.open()?;
        Ok(state.select(state.deadlines.range(..=(now, last_id())).take(limit).map(|(_, id)| id)))
    }

    async fn next_due(&self, after: Timestamp) -> Result<Option<Timestamp>> {
        let state = self.open()?;
        let later = (Bound::Excluded((after, last_id())), Bound::Unbounded);
        let queues = state.runnable.iter().chain([&state.deadlines]);
        Ok(queues.filter_map(|queue| queue.range(later).next()).map(|(at, _)| *at).min())
    }

    async fn queue_depths(&self) -> Result<QueueDepths> {
        let state = self.open()?;
        let mut depths = QueueDepths::new();
        for (_, id) in state.runnable.iter().flatten() {
            if let Some(entry) = state.tasks.get(id) {
                match depths.get_mut(&*entry.task.agent) {
                    Some(depth) => *depth += 1,
                    None => drop(depths.insert(entry.task.agent.to_string(), 1)),
                }
            }
        }
        Ok(depths)
    }

    async fn ping(&self) -> Result<()> {
        self.open().map(drop)
    }

    async fn close(&self) -> Result<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    #[tokio::test]
    async fn the_newest_ends_are_kept_and_every_live_task() {
        let echo = agent_fn("echo", |_context, n: u32| async move { Ok(n) });
        let sleep = agent_fn("sleep", |_context, (): ()| async move {
            std::future::pending::<()>().await;
            Ok(())
        });
        let store = Arc::new(MemoryTaskStore::keeping(2));
        let engine = Orchestrator::builder().agent(echo).agent(sleep).shared_store(store).start().await.unwrap();
        let live = engine.submit("sleep", &()).await.unwrap().id();
        let mut ids = Vec::new();
        for n in 0..5_u32 {
            let request = TaskRequest::new("echo", Payload::of(&n).unwrap()).idempotency_key(format!("k{n}"));
            let id = engine.submit_request(request).await.unwrap().task.id;
            engine.wait(id, std::time::Duration::from_secs(10)).await.unwrap();
            ids.push(id);
        }
        let query = TaskQuery { limit: 10, ..TaskQuery::default() };
        let kept: Vec<_> = engine.tasks(query).await.unwrap().items.iter().map(|task| task.id).collect();
        assert_eq!(kept, [ids[4], ids[3], live]);
        let request = |key: &str| TaskRequest::new("echo", Payload::of(&9_u32).unwrap()).idempotency_key(key);
        assert!(!engine.submit_request(request("k0")).await.unwrap().replayed, "its key went with it");
        assert_eq!(engine.submit_request(request("k4")).await.unwrap_err().code(), "idempotency_conflict");
    }
}
