//! Dead letters on the wire.

use serde::Serialize;
use sutazai_core::{
    clock::Timestamp,
    task::{Event, EventKind, Task, TaskError},
};
use utoipa::ToSchema;

use super::{TaskView, task::ErrorView};

/// A dead letter: a task, with what each attempt ended in.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(in crate::http) struct DeadLetterView<'a> {
    #[serde(flatten)]
    task: TaskView<'a>,
    /// Every attempt's error, oldest first, since the task was submitted or last requeued.
    attempts: Vec<Attempt>,
}

impl<'a> DeadLetterView<'a> {
    pub(in crate::http) fn new(task: &'a Task, attempts: Vec<Attempt>) -> Self {
        Self { task: TaskView::from(task), attempts }
    }
}

/// How an attempt ended.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(in crate::http) struct Attempt {
    /// Its number, from 1; 0 if the task failed before its first.
    attempt: u32,
    /// Why it failed. The last one is the task's own error, which need not be an agent's: a deadline that passed between two attempts is listed under the last.
    #[schema(value_type = ErrorView)]
    error: TaskError,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

/// Gathers attempts from a task's events.
#[derive(Default)]
pub(in crate::http) struct Attempts {
    found: Vec<Attempt>,
    running: u32,
}

impl Attempts {
    pub(in crate::http) fn add(&mut self, event: &Event) {
        let (attempt, error) = match &event.kind {
            EventKind::Requeued { .. } | EventKind::Continued {} => {
                *self = Self::default();
                return;
            }
            EventKind::Running { attempt } => {
                self.running = *attempt;
                return;
            }
            EventKind::Retrying { attempt, error, .. } => (*attempt, error.clone()),
            EventKind::Failed { error } => (self.running, error.clone()),
            _ => return,
        };
        self.found.push(Attempt { attempt, error, at: event.at });
    }

    pub(in crate::http) fn into_inner(self) -> Vec<Attempt> {
        self.found
    }
}

/// A page of dead letters, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterList)]
pub(in crate::http) struct DeadLetterList<'a> {
    /// The dead letters.
    pub(in crate::http) items: Vec<DeadLetterView<'a>>,
    /// What to send as `cursor` for the next page; null at the end.
    #[schema(required = true)]
    pub(in crate::http) next_cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use sutazai_core::task::TaskId;

    use super::*;

    #[test]
    fn attempts_are_those_since_the_last_requeue() {
        let at = Timestamp::from_millis(0);
        let error = |code: &str| TaskError::new(code, "m");
        let retrying = |attempt, code| EventKind::Retrying { attempt, error: error(code), due_at: at };
        let kinds = [
            EventKind::Running { attempt: 1 },
            EventKind::Failed { error: error("old") },
            EventKind::Requeued { new_input: false },
            EventKind::Running { attempt: 1 },
            retrying(1, "first"),
            EventKind::Running { attempt: 2 },
            EventKind::Failed { error: error("second") },
        ];
        let mut attempts = Attempts::default();
        for (seq, kind) in (1..).zip(kinds) {
            attempts.add(&Event { seq, task_id: TaskId::from_bytes([7; 16]), at, kind });
        }
        let attempt = |attempt, code| Attempt { attempt, error: error(code), at };
        assert_eq!(attempts.into_inner(), [attempt(1, "first"), attempt(2, "second")]);
    }
}
