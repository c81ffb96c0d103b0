//! What happened to a task: one numbered event per transition.

use serde::{Deserialize, Serialize};

use super::{NodeId, Progress, TaskError, TaskId, WaitReason};
use crate::clock::Timestamp;

/// One transition of one task. Payloads are not repeated here: they stand beside, in the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number within the task, from 1 without gaps.
    pub seq: u64,
    /// The task.
    pub task_id: TaskId,
    /// When it happened, by the clock of the process that caused it.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// An event in the one order of its store, in which no reader ever sees a smaller number later.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberedEvent {
    /// Its place: grows strictly, with gaps. At most 2^53, so that every JSON reader can hold it.
    pub number: u64,
    /// The event.
    pub event: Event,
}

/// What happened, with the details that this kind of event has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
#[non_exhaustive]
pub enum EventKind {
    /// The task was acknowledged.
    #[serde(rename = "task.created")]
    Created {
        /// The agent it was routed to.
        agent: String,
    },
    /// A worker holds the right to execute it.
    #[serde(rename = "task.assigned")]
    Assigned {
        /// The worker's process.
        node: NodeId,
        /// The fencing epoch of this grant.
        epoch: u64,
    },
    /// An execution began.
    #[serde(rename = "task.running")]
    Running {
        /// The attempt it belongs to.
        attempt: u32,
    },
    /// The agent reported progress. Coalesced: a newer report may have replaced older ones.
    #[serde(rename = "task.progress")]
    Progress(Progress),
    /// An attempt failed and another one will follow.
    #[serde(rename = "task.retrying")]
    Retrying {
        /// The attempt that failed.
        attempt: u32,
        /// Its error.
        error: TaskError,
        /// When the next one is due.
        due_at: Timestamp,
    },
    /// An execution was cut short (its process died or gave it back); another goes on, without spending an attempt.
    #[serde(rename = "task.recovered")]
    Recovered {
        /// How often this has happened to the task since its journal last grew.
        recoveries: u32,
    },
    /// It waits, and holds no worker meanwhile.
    #[serde(rename = "task.waiting")]
    Waiting {
        /// For what.
        reason: WaitReason,
        /// When it goes on at the latest, if a timer says so.
        until: Option<Timestamp>,
        /// For a decision: about what.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<TaskError>,
    },
    /// Somebody decided what the task waited for.
    #[serde(rename = "task.resolved")]
    Resolved {},
    /// It starts again from the top with another input and an empty journal, by its own wish.
    #[serde(rename = "task.continued")]
    Continued {},
    /// The dead letter starts again.
    #[serde(rename = "task.requeued")]
    Requeued {
        /// Whether with another input.
        new_input: bool,
    },
    /// The dead letter is given up for good.
    #[serde(rename = "task.discarded")]
    Discarded {},
    /// The task is done.
    #[serde(rename = "task.completed")]
    Completed {},
    /// The task is given up.
    #[serde(rename = "task.failed")]
    Failed {
        /// Why.
        error: TaskError,
    },
    /// The task was cancelled.
    #[serde(rename = "task.cancelled")]
    Cancelled {},
}

impl EventKind {
    /// The name on the wire, such as `task.created`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "task.created",
            Self::Assigned { .. } => "task.assigned",
            Self::Running { .. } => "task.running",
            Self::Progress(_) => "task.progress",
            Self::Retrying { .. } => "task.retrying",
            Self::Recovered { .. } => "task.recovered",
            Self::Waiting { .. } => "task.waiting",
            Self::Resolved {} => "task.resolved",
            Self::Continued {} => "task.continued",
            Self::Requeued { .. } => "task.requeued",
            Self::Discarded {} => "task.discarded",
            Self::Completed {} => "task.completed",
            Self::Failed { .. } => "task.failed",
            Self::Cancelled {} => "task.cancelled",
        }
    }

    /// Whether nothing follows unless somebody asks for it: an end, or the discarding after one.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.is_terminal() || matches!(self, Self::Discarded {})
    }

    /// Whether this ends the task.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed {} | Self::Failed { .. } | Self::Cancelled {})
    }
}
