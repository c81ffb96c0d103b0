//! Where tasks live.

mod delivery;
mod node;
mod read;
mod schedule;
mod write;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::{
    delivery::{Delivery, Posted},
    node::NodeRecord,
    read::{Claim, Ended, Granted, Held, Page, QueueDepths, TaskQuery},
    schedule::ScheduleRecord,
    write::{Child, JournalCopy, TaskWrite, WriteOutcome},
};
use crate::{
    clock::Timestamp,
    error::Result,
    payload::Payload,
    task::{Entry, Event, IdempotencyKey, NodeId, NumberedEvent, Signal, Task, TaskId, TaskState},
};

/// What a task store is, as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// The backend's name, such as `sqlite`.
    pub name: &'static str,
    /// Whether what was acknowledged survives the end of the process and the loss of power.
    pub durable: bool,
    /// Whether other processes may use it at the same time: nodes then keep their leases alive.
    pub shared: bool,
    /// How many batches it stores at the same time: an engine has as many under way, each for other tasks. 1 where they would only wait for each other.
    pub parallel_writes: usize,
}

/// Tells an engine that something may be runnable; quick, and harmless when there is nothing. A store may forget one that its engine has dropped.
pub type WakeUp = Arc<dyn Fn() + Send + Sync>;

/// How long an idempotency key is kept after the end of its task, and the answer to a request that belongs to no task.
pub const KEY_LIFE: Duration = Duration::from_secs(24 * 3_600);

/// How long the end of a task waits at most to be posted before the task may be purged: nobody may be there who posts.
pub const POST_LIFE: Duration = Duration::from_secs(7 * 24 * 3_600);

/// What is known of an idempotency key.
#[derive(Clone, Debug, PartialEq)]
pub enum Recalled {
    /// It was not used yet.
    New,
    /// It was used for the same request, which was answered so.
    Answered(Payload),
    /// It was used for another request.
    Conflict,
}

/// The answer to a request that belongs to no task, as it is kept under its key until a day after it was given.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptAnswer {
    /// The key of the request.
    pub key: IdempotencyKey,
    /// The answer.
    pub answer: Payload,
    /// When it was given.
    pub at: Timestamp,
}

/// Durable tasks: batches in, batches out.
///
/// Every method may be called from many tasks at once. Temporary faults of the backend (busy, full disk, lost connection) come
/// back as errors that [`is_temporary`](crate::Error::is_temporary); after one of them the outcome of a write is unknown and the caller reads the
/// revisions again.
#[async_trait]
pub trait TaskStore: Send + Sync + 'static {
    /// What this store is.
    fn info(&self) -> StoreInfo;

    // ---- tasks ----

    /// Stores a batch in one commit and answers each member in order.
    ///
    /// *Durability*: when it returns `Ok`, every `Applied` member is as durable as [`StoreInfo::durable`] says. *Atomicity*: a member is stored whole, with its
    /// events, entries and children, or not at all; members fail one by one, and the others are stored all the same. *Order*: members
    /// take effect in order, so one batch may hold several writes of one task. *Idempotency*: of many writes with one key of one tenant
    /// exactly one is `Applied`, also across batches and processes. An empty batch does nothing.
    async fn write(&self, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>>;

    /// Grants up to `limit` runnable tasks to a node, in one commit, and returns them as they then are.
    ///
    /// Runnable is what is `created` or `waiting` with `due_at ≤ now`, of a queue of the claim's policy. Which of them, and in which order, is
    /// [`Selection`](crate::engine::Selection)'s to say. *Exclusion*: no task is granted twice at one revision, whatever runs beside it. The change is
    /// [`Command::Claim`](crate::engine::Command::Claim), with its events.
    async fn claim(&self, claim: &Claim) -> Result<Granted>;

    /// Reads tasks by id, each as of some moment after the call began; `None` for those that do not exist. Order as asked.
    async fn load(&self, ids: &[TaskId]) -> Result<Vec<Option<Task>>>;

    /// Lists tasks, newest first. A task that stays as it is while pages are read is listed exactly once.
    async fn list(&self, query: &TaskQuery) -> Result<Page<Task>>;

    /// Tasks `assigned` to or `running` on `node`, at most `limit`, in any order.
    async fn held_by(&self, node: &NodeId, limit: usize) -> Result<Vec<Held>>;

    /// Tasks that have ended, or are not there any more, although tasks live that they called for and that are not detached; each once, at most `limit`, in any
    /// order. Costs what lives costs, not what is kept.
    async fn ended_parents(&self, limit: usize) -> Result<Vec<TaskId>>;

    /// Tasks that have not ended and whose deadline is at or before `now`, at most `limit`.
    async fn overdue(&self, now: Timestamp, limit: usize) -> Result<Vec<Task>>;

    /// The earliest moment strictly after `after` at which a `waiting` task becomes runnable, one that has not ended becomes overdue, or a schedule fires, if
    /// there is one before [`Timestamp::NEVER`]. An index look-up.
    async fn next_due(&self, after: Timestamp) -> Result<Option<Timestamp>>;

    /// How many tasks are `created` or `waiting`, by agent; agents without any may be left out. Costs no more than a walk over the index of those.
    async fn queue_depths(&self) -> Result<QueueDepths>;

    /// How many tasks are `created`.
    async fn queued(&self) -> Result<u64>;

    // ---- events, journals, signals ----

    /// A task's events after number `after`, in order, at most `limit`; empty if there are none or no such task.
    async fn events(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Event>>;

    /// Events of all tasks after number `after` of the store's one order, at most `limit`. A reader that goes on from the last number it was given misses
    /// nothing: an event is shown at most a second after its commit, and never with a number below one that was shown before.
    async fn feed(&self, after: u64, limit: usize) -> Result<Vec<NumberedEvent>>;

    /// Entries of a task's journal from `from` on, in order of their index, at most `limit`.
    async fn journal(&self, task: TaskId, era: u32, from: u64, limit: usize) -> Result<Vec<Entry>>;

    /// Signals of one name that a task was told, in the order in which they were stored, from the `from`th (from 0) on, at most `limit`.
    async fn signals(&self, task: TaskId, name: &str, from: u64, limit: usize) -> Result<Vec<Signal>>;

    // ---- nodes ----

    /// Takes in a node under a lease from now, by the store's clock, and declares every other node of its name dead. `seen_at`, `lease_until` and `dead` of
    /// the record are the store's to set.
    async fn join(&self, node: &NodeRecord, lease: Duration) -> Result<()>;

    /// Renews a node's lease from now, by the store's clock, and notes how many tasks it executes. False if it was declared dead or is not known: whatever it
    /// held is lost.
    async fn renew(&self, node: &NodeId, running: u64, lease: Duration) -> Result<bool>;

    /// Declares every node dead whose lease has passed by the store's clock. Returns all that may hold tasks and do not live: the dead ones, and holders of tasks
    /// that are no node of the list.
    async fn lapsed(&self) -> Result<Vec<NodeId>>;

    /// Strikes a node off the list: one that shuts down, or a dead one that holds nothing any more.
    async fn part(&self, node: &NodeId) -> Result<()>;

    /// Every node of the list, by id.
    async fn nodes(&self) -> Result<Vec<NodeRecord>>;

    /// Calls `runnable` when another process has made something runnable. A notification may get lost; a slow poll makes up for it. Stores of one process
    /// do nothing.
    fn watch(&self, runnable: WakeUp) {
        drop(runnable);
    }

    // ---- schedules ----

    /// Stores a schedule: a new one if `expected` is none, else over the one at that revision. False if there is one already, or it is not at that revision.
    ///
    /// With an `answer` to the request that asked for it, both are stored in one commit, or neither is: false too if its key was used.
    async fn put_schedule(
        &self,
        record: &ScheduleRecord,
        expected: Option<u64>,
        answer: Option<&KeptAnswer>,
    ) -> Result<bool>;

    /// The schedule called `name`.
    async fn schedule(&self, name: &str) -> Result<Option<ScheduleRecord>>;

    /// Schedules by name, after the one called `after`.
    async fn schedules(&self, after: Option<&str>, limit: usize) -> Result<Page<ScheduleRecord>>;

    /// Schedules with `next ≤ now`, at most `limit`, the earliest first.
    async fn due_schedules(&self, now: Timestamp, limit: usize) -> Result<Vec<ScheduleRecord>>;

    /// Removes a schedule; false if there is none.
    async fn drop_schedule(&self, name: &str) -> Result<bool>;

    // ---- outbox ----

    /// Takes deliveries that are due, at most `limit`: nobody else is given them for `hold`. Their `due_at` is the end of that.
    async fn deliveries(&self, now: Timestamp, limit: usize, hold: Duration) -> Result<Vec<Delivery>>;

    /// Notes what became of a delivery, if it still stands as it was taken. False, and nothing is noted, once the hold has passed and somebody else has
    /// taken it or noted something, or the task is gone: a taker that was frozen neither goes back nor gives up what another one is posting.
    async fn posted(&self, taken: &Delivery, what: &Posted, now: Timestamp) -> Result<bool>;

    /// Begins a delivery again that was given up: where it stood, or, with `skip`, after the newest event that there is. False if it was not given up.
    /// Whoever stores that a task is requeued has the first done in the same commit.
    async fn revive(&self, task: TaskId, skip: bool, now: Timestamp) -> Result<bool>;

    /// Deliveries that were given up, by task, newest first, before (exclusive) the given one.
    async fn undelivered(&self, before: Option<TaskId>, limit: usize) -> Result<Page<Delivery>>;

    // ---- keys and retention ----

    /// What is known of a key that belongs to no task.
    async fn recall(&self, key: &IdempotencyKey) -> Result<Recalled>;

    /// Keeps the answer to the request of a key that belongs to no task, until a day after `now`. The first answer stays.
    async fn remember(&self, key: &IdempotencyKey, answer: &Payload, now: Timestamp) -> Result<()>;

    /// Tasks that have ended, in order of their ids, after `after` and created before `created_before`, at most `limit`. One whose id is of a later time may be left
    /// out: the walk over ids ends there, and costs no more than what has ended between both.
    async fn ended(&self, after: Option<TaskId>, created_before: Timestamp, limit: usize) -> Result<Vec<Ended>>;

    /// The `n`th newest (from 0) of the tasks in a state.
    async fn nth_newest(&self, state: TaskState, n: u64) -> Result<Option<TaskId>>;

    /// Removes tasks that have ended, with their events, journals, signals, deliveries and idempotency keys, and says how many there were. Others are left
    /// alone, and so is what somebody may still rely on at `now`: a task one of whose keys has not had its day ([`KEY_LIFE`] after the end of the task, or after
    /// the key was used for a task that was there), and one with news to be posted that ended less than [`POST_LIFE`] ago.
    async fn purge(&self, tasks: &[TaskId], now: Timestamp) -> Result<u64>;

    // ---- the store itself ----

    /// Whether the store answers at all; the check behind `/ready`.
    async fn ping(&self) -> Result<()>;

    /// Finishes what is under way and lets go of files and connections. Later calls fail as unavailable.
    async fn close(&self) -> Result<()>;
}
