//! What is asked of a task store.

use std::collections::BTreeMap;

use crate::{
    clock::Timestamp,
    engine::ClaimPolicy,
    task::{NodeId, Task, TaskId, TaskState},
};

/// Asks for tasks to execute.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who will execute them.
    pub node: NodeId,
    /// Which queues, in which order and within which limits.
    pub policy: ClaimPolicy,
    /// Only tasks due by then.
    pub now: Timestamp,
    /// At most so many.
    pub limit: usize,
}

/// What a claim gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Granted {
    /// The tasks as they are now, in the order of the grant.
    pub tasks: Vec<Task>,
    /// How many of them were `created`.
    pub from_created: usize,
    /// When a rate limit that held something back lets the next one through.
    pub again_at: Option<Timestamp>,
    /// Whether something was left because as many tasks of its agent or tenant run as may: the end of one of them makes room.
    pub held_back: bool,
}

/// A task that a node holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// The task.
    pub task: Task,
    /// Entries of its current journal.
    pub journal: u64,
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
    /// Only dead letters: failed and not discarded.
    pub dead_letters: bool,
    /// Only those that have not ended.
    pub live: bool,
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

/// A task that has ended, as retention looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The task.
    pub id: TaskId,
    /// How it ended.
    pub state: TaskState,
    /// When.
    pub finished_at: Timestamp,
}
