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
    /// Tries of the next one that failed in a row.
    pub failures: u32,
    /// When it is due: one that was taken is its taker's alone until then. None while there is nothing to post, and once it is given up.
    pub due_at: Option<Timestamp>,
    /// Why it was given up, if it was: a dead letter of the outbox.
    pub given_up: Option<String>,
}

/// What became of a delivery that was taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Posted {
    /// Events up to this number are posted; the failures count anew, and it is due again as soon as there are newer ones.
    UpTo(u64),
    /// It is due again at a moment of the taker's choice, whatever is new.
    Later {
        /// Events up to this number are posted.
        posted: u64,
        /// Tries of the next one that failed in a row.
        failures: u32,
        /// When.
        due_at: Timestamp,
    },
    /// It is given up, and nothing is due until it is revived.
    GivenUp {
        /// Events up to this number are posted.
        posted: u64,
        /// Tries of the next one that failed in a row.
        failures: u32,
        /// Why.
        why: String,
    },
}
