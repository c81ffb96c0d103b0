//! Tasks in memory: the reference that other stores are compared with, and the default of an embedded program.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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
/// It keeps every task until it is dropped. Only tasks that have not ended stand in its indexes, so a claim costs the same however many have.
#[derive(Default)]
pub struct MemoryTaskStore {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    tasks: BTreeMap<TaskId, Entry>,
    keys: HashMap<KeyName, FirstUse>,
    /// Tasks that may be claimed once they are due, by priority.
    runnable: [BTreeSet<(Timestamp, TaskId)>; Priority::MAX.get() as usize + 1],
    deadlines: BTreeSet<(Timestamp, TaskId)>,
    held: BTreeSet<(NodeId, TaskId)>,
    children: BTreeSet<(TaskId, TaskId)>,
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
}

impl MemoryTaskStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
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
        if let (Some(key), Some(name)) = (key, name) {
            self.keys.insert(name, FirstUse { fingerprint: key.fingerprint, task: task.id });
        }
        self.index(task);
        if let Some(parent) = task.parent_id {
            self.children.insert((parent, task.id));
        }
        self.tasks.insert(task.id, Entry { task: Arc::clone(task), events: events.to_vec() });
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
        WriteOutcome::Applied
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
