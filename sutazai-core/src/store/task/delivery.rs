//! The outbox: events of tasks with a webhook that are still to be posted.

use std::sync::Arc;

use crate::{clock::Timestamp, task::TaskId};

/// Where the posting of a task's events stands. There is one for each task with a webhook from its insert on, and it goes with the task.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The task.
    pub task: TaskId,
    /// Where its events are posted to.
    pub url: Arc<str>,
    /// Events up to this number are posted.
    pub posted: u64,
    /// Tries of the next one that failed.
    pub failures: u32,
    /// Why it was given up, if it was: a dead letter of the outbox.
    pub given_up: Option<String>,
}

/// What became of a try.
#[derive(Clone, Debug, PartialEq)]
pub enum Posted {
    /// Events up to this number are posted; the failures count anew, and it is due again as soon as there are newer ones.
    UpTo(u64),
    /// The next one failed: another try at this moment.
    Failed {
        /// When.
        retry_at: Timestamp,
    },
    /// It is given up.
    GivenUp {
        /// Why.
        why: String,
    },
    /// It begins again where it was given up.
    Revived,
}
