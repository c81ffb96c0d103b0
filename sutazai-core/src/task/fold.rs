//! What a task's events say about it.

use super::{Event, EventKind, NodeId, Progress, Task, TaskError, TaskState};
use crate::clock::Timestamp;

/// A task's state as its events tell it: [`Summary::of`] its history equals [`Summary::from`] its image.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Where it is in its life.
    pub state: TaskState,
    /// The number of the current or last attempt.
    pub attempt: u32,
    /// How often it was cut short since its journal last grew.
    pub recoveries: u32,
    /// Who executes it.
    pub node: Option<NodeId>,
    /// The last error.
    pub error: Option<TaskError>,
    /// What the agent last said about its progress.
    pub progress: Option<Progress>,
    /// When its latest execution began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// A dead letter that nobody wants any more.
    pub discarded: bool,
    /// The number of its newest event.
    pub seq: u64,
}

impl Summary {
    /// Folds a task's events, from the first on; `None` without any.
    pub fn of<'e>(events: impl IntoIterator<Item = &'e Event>) -> Option<Self> {
        let mut summary = None;
        for event in events {
            summary.get_or_insert_with(Self::new).add(event);
        }
        summary
    }

    fn new() -> Self {
        Self {
            state: TaskState::Created,
            attempt: 0,
            recoveries: 0,
            node: None,
            error: None,
            progress: None,
            started_at: None,
            finished_at: None,
            discarded: false,
            seq: 0,
        }
    }

    fn add(&mut self, event: &Event) {
        self.seq = event.seq;
        match &event.kind {
            EventKind::Created { .. } => {}
            EventKind::Assigned { node, .. } => {
                self.state = TaskState::Assigned;
                self.node = Some(node.clone());
                self.started_at = Some(event.at);
            }
            EventKind::Running { attempt } => {
                self.state = TaskState::Running;
                self.attempt = *attempt;
            }
            EventKind::Progress(progress) => self.progress = Some(progress.clone()),
            EventKind::Retrying { error, .. } => {
                self.error = Some(error.clone());
                self.leave(TaskState::Waiting);
            }
            EventKind::Waiting { error, .. } => {
                if error.is_some() {
                    self.error.clone_from(error);
                }
                self.leave(TaskState::Waiting);
            }
            EventKind::Recovered { recoveries } => {
                self.recoveries = *recoveries;
                self.leave(TaskState::Created);
            }
            EventKind::Resolved {} => self.error = None,
            EventKind::Continued {} => {
                *self = Self { seq: self.seq, started_at: self.started_at, ..Self::new() };
            }
            EventKind::Requeued { .. } => *self = Self { seq: self.seq, ..Self::new() },
            EventKind::Discarded {} => self.discarded = true,
            EventKind::Completed {} => {
                self.error = None;
                self.end(TaskState::Completed, event.at);
            }
            EventKind::Failed { error } => {
                self.error = Some(error.clone());
                self.end(TaskState::Failed, event.at);
            }
            EventKind::Cancelled {} => {
                self.error = None;
                self.end(TaskState::Cancelled, event.at);
            }
        }
    }

    fn leave(&mut self, state: TaskState) {
        self.state = state;
        self.node = None;
    }

    fn end(&mut self, state: TaskState, at: Timestamp) {
        self.leave(state);
        self.finished_at = Some(at);
    }
}

impl From<&Task> for Summary {
    fn from(task: &Task) -> Self {
        Self {
            state: task.state,
            attempt: task.attempt,
            recoveries: task.recoveries,
            node: task.node.clone(),
            error: task.error.clone(),
            progress: task.progress.clone(),
            started_at: task.started_at,
            finished_at: task.finished_at,
            discarded: task.discarded,
            seq: task.revision.seq,
        }
    }
}
