//! Schedules as a store keeps them.

use serde::{Deserialize, Serialize};

use crate::{clock::Timestamp, schedule::Schedule};

/// A schedule with what has become of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleRecord {
    /// What its owner asked for; its name is the record's.
    pub schedule: Schedule,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether it fires.
    pub paused: bool,
    /// The moment it last fired for.
    pub last: Option<Timestamp>,
    /// The moment it fires for next; none while paused and when nothing is left.
    pub next: Option<Timestamp>,
    /// Grows with every change.
    pub revision: u64,
}
