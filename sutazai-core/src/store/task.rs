//! Where tasks live.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;

use crate::{
    clock::Timestamp,
    error::Result,
    task::{Event, IdempotencyKey, NodeId, Revision, Task, TaskId, TaskState},
};

/// What a task store is, as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// The backend's name, such as `sqlite`.
    pub name: &'static str,
    /// Whether what was acknowledged survives the end of the process and the loss of power.
    pub durable: bool,
}

/// One write of a batch. The engine makes it with the pure transition function; a store only keeps it.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskWrite {
    /// A new task, in whatever state it has reached, with all its events so far.
    Insert {
        /// The task.
        task: Arc<Task>,
        /// Its events, from number 1.
        events: Vec<Event>,
        /// Makes a repetition return the first task instead.
        key: Option<IdempotencyKey>,
    },
    /// The next image of a task that exists.
    Update {
        /// The task after the transition; `id`, `agent`, `created_at`, `labels`, `tenant`, `parent_id` and `input` never change.
        task: Arc<Task>,
        /// The revision that the transition started from.
        expected: Revision,
        /// The events from `expected.seq + 1` on.
        events: Vec<Event>,
    },
}

impl TaskWrite {
    /// The task as it is after this write.
    #[must_use]
    pub fn task(&self) -> &Arc<Task> {
        match self {
            Self::Insert { task, .. } | Self::Update { task, .. } => task,
        }
    }

    /// The events this write appends.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        match self {
            Self::Insert { events, .. } | Self::Update { events, .. } => events,
        }
    }
}

/// What became of one write of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum WriteOutcome {
    /// It is stored.
    Applied,
    /// The key was used before with the same fingerprint: this is the first task. Nothing was stored.
    Replayed(Box<Task>),
    /// The key was used before with another fingerprint. Nothing was stored.
    KeyConflict,
    /// The task is no longer at the expected revision (or, for an insert, exists already). Nothing was stored.
    Stale,
}

/// Asks for tasks to execute.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who will execute them.
    pub node: NodeId,
    /// Only tasks of these agents: those that the node has registered.
    pub agents: Arc<[Arc<str>]>,
    /// Only tasks due by then.
    pub now: Timestamp,
    /// At most so many.
    pub limit: usize,
}

/// Which tasks to list; every condition given must hold.
#[derive(Clone, Debug, Default)]
pub struct TaskQuery {
    /// In this state.
    pub state: Option<TaskState>,
    /// Of this agent.
    pub agent: Option<String>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// With this label.
    pub label: Option<(String, String)>,
    /// Called for by this task.
    pub parent: Option<TaskId>,
    /// Created before this task (exclusive): the cursor.
    pub before: Option<TaskId>,
    /// At most so many; 0 gives an empty page.
    pub limit: usize,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// Whether there are more after them.
    pub more: bool,
}

/// How many tasks no worker has, by agent.
pub type QueueDepths = BTreeMap<String, u64>;

/// Durable tasks: batches in, batches out.
///
/// Every method may be called from many tasks at once. Temporary faults of the backend (busy, full disk, lost connection) come
/// back as errors that [`is_temporary`](crate::Error::is_temporary); after one of them the outcome of a write is unknown and the caller reads the
/// revisions again.
#[async_trait]
pub trait TaskStore: Send + Sync + 'static {
    /// What this store is.
    fn info(&self) -> StoreInfo;

    /// Stores a batch in one commit and answers each member in order.
    ///
    /// *Durability*: when it returns `Ok`, every `Applied` member is as durable as [`StoreInfo::durable`] says. *Atomicity*: a member and
    /// its events are stored together or not at all; members fail one by one, and the others are stored all the same. *Order*: members
    /// take effect in order, so one batch may hold several writes of one task. *Idempotency*: of many inserts with one key of one tenant
    /// exactly one is `Applied`, also across batches and processes. An empty batch does nothing.
    async fn write(&self, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>>;

    /// Grants up to `limit` runnable tasks to a node, in one commit, and returns them as they then are.
    ///
    /// Runnable is what is `created` or `waiting` with `due_at ≤ now`, of an agent in [`Claim::agents`]. *Order*: by priority, highest first; within one, by `due_at`, then id. *Exclusion*:
    /// no task is granted twice at one revision, whatever runs beside it. The change is [`Command::Claim`](crate::engine::Command::Claim), with its events.
    async fn claim(&self, claim: &Claim) -> Result<Vec<Task>>;

    /// Reads tasks by id, each as of some moment after the call began; `None` for those that do not exist. Order as asked.
    async fn load(&self, ids: &[TaskId]) -> Result<Vec<Option<Task>>>;

    /// Lists tasks, newest first. A task that stays as it is while pages are read is listed exactly once.
    async fn list(&self, query: &TaskQuery) -> Result<Page<Task>>;

    /// A task's events after number `after`, in order, at most `limit`; empty if there are none or no such task.
    async fn events(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Event>>;

    /// Tasks `assigned` to or `running` on `node`, at most `limit`, in any order.
    async fn held_by(&self, node: &NodeId, limit: usize) -> Result<Vec<Task>>;

    /// Tasks that have not ended and whose deadline is at or before `now`, at most `limit`.
    async fn overdue(&self, now: Timestamp, limit: usize) -> Result<Vec<Task>>;

    /// The earliest moment strictly after `after` at which a task that has not ended becomes runnable or overdue, if any.
    async fn next_due(&self, after: Timestamp) -> Result<Option<Timestamp>>;

    /// How many tasks are `created` or `waiting`, by agent; agents without any may be left out. Costs no more than a walk over the index of those.
    async fn queue_depths(&self) -> Result<QueueDepths>;

    /// Whether the store answers at all; the check behind `/ready`.
    async fn ping(&self) -> Result<()>;

    /// Finishes what is under way and lets go of files and connections. Later calls fail as unavailable.
    async fn close(&self) -> Result<()>;
}
