//! A task: one durable unit of work, as every store keeps it and every API shows it.

mod event;
mod fold;
mod id;
mod journal;
mod request;
mod retry;
mod state;
mod version;
mod wait;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::{
    event::{Event, EventKind, NumberedEvent},
    fold::Summary,
    id::{NodeId, TaskId},
    journal::{Entry, EntryId, EntryKind, Failure, JournalMark, MAX_ENTRIES, MAX_OUTCOME, Outcome, Signal},
    request::{IdempotencyKey, Target, TaskRequest},
    retry::{MAX_DELAY, RetryPolicy},
    state::{Priority, TaskState},
    version::version_line,
    wait::{Wait, WaitReason},
};
use crate::{clock::Timestamp, payload::Payload};

/// The tenant of tasks that name none.
pub const DEFAULT_TENANT: &str = "default";

/// Free `key: value` pairs that lists can be filtered by.
pub type Labels = BTreeMap<String, String>;

/// One durable unit of work with everything known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its id, a UUIDv7: sorts by time of creation.
    pub id: TaskId,
    /// The agent that handles it.
    pub agent: Arc<str>,
    /// The agent's version when the task was created.
    pub agent_version: Arc<str>,
    /// Where it is in its life.
    pub state: TaskState,
    /// 9 goes first.
    pub priority: Priority,
    /// Whose task it is; [`DEFAULT_TENANT`] unless named.
    pub tenant: Arc<str>,
    /// Labels to filter by.
    pub labels: Labels,
    /// The agent's input.
    pub input: Payload,
    /// The agent's output, once `completed`.
    pub output: Option<Payload>,
    /// The last error: of the last attempt while waiting for the next, final once `failed`.
    pub error: Option<TaskError>,
    /// The number of the current or last attempt; 0 before the first. Recoveries do not count.
    pub attempt: u32,
    /// How attempts are spaced and how many there are.
    pub retry: RetryPolicy,
    /// How often its execution was cut short and taken up again since its journal last grew.
    pub recoveries: u32,
    /// What the agent last said about its progress.
    pub progress: Option<Progress>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When its latest execution began.
    pub started_at: Option<Timestamp>,
    /// When it reached a terminal state.
    pub finished_at: Option<Timestamp>,
    /// When it fails unless it has finished.
    pub deadline: Option<Timestamp>,
    /// The task whose agent called for this one.
    pub parent_id: Option<TaskId>,
    /// The task goes on when the one that called for it ends.
    pub detached: bool,
    /// What it waits for, while `waiting`.
    pub wait: Option<Wait>,
    /// Not to be claimed before: the end of a retry delay, the next timer. A wake-up draws it near; it is no part of what events tell.
    pub due_at: Timestamp,
    /// How many signals and ends of children have come: kept by the store, and only read by the engine. A task that suspends itself without having seen them
    /// all is due at once.
    pub wakes: u64,
    /// Where its journal stands.
    pub journal: JournalMark,
    /// Where its state changes are posted to.
    pub webhook: Option<Arc<str>>,
    /// A dead letter that nobody wants any more.
    pub discarded: bool,
    /// Which writes still count.
    pub revision: Revision,
    /// Who executes it, while `assigned` or `running`.
    pub node: Option<NodeId>,
}

impl Task {
    /// The queue it stands in: its agent and the line of versions that can go on with its journal, such as `coder@1`.
    #[must_use]
    pub fn queue(&self) -> String {
        queue_name(&self.agent, version_line(&self.agent_version))
    }

    /// Whether it failed and nobody has decided yet what becomes of it.
    #[must_use]
    pub fn is_dead_letter(&self) -> bool {
        self.state == TaskState::Failed && !self.discarded
    }
}

/// The queue of the tasks of a line of an agent's versions; see [`version_line`].
#[must_use]
pub fn queue_name(agent: &str, line: &str) -> String {
    format!("{agent}@{line}")
}

/// The fence around a task: a write states the revision it read and is refused if that is no longer current.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Revision {
    /// Grows with each grant, loss or end of the right to execute.
    pub epoch: u64,
    /// The number of the task's newest event; 0 before the first.
    pub seq: u64,
}

/// Why a task or an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    /// Stable, `snake_case`.
    pub code: String,
    /// For people.
    pub message: String,
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for TaskError {}

impl TaskError {
    /// An error of `code`.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

/// How far an agent says it has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 1, where the agent knows.
    pub fraction: Option<f64>,
    /// For people.
    pub message: String,
}
