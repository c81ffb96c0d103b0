//! Names of tasks and of the processes that execute them.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;

/// A task's id: a UUIDv7, so ids sort by time of creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(Uuid);

impl TaskId {
    /// From 48 bits of milliseconds followed by a 12-bit counter, and 62 random bits (RFC 9562 § 5.7).
    pub(crate) fn from_ticks(ticks: u64, random: u64) -> Self {
        let high = ((ticks >> 12) << 16) | 0x7000 | (ticks & 0x0fff);
        let low = (random & (u64::MAX >> 2)) | (1 << 63);
        Self(Uuid::from_u64_pair(high, low))
    }

    /// Before every id that is made at this moment or later: ids begin with their time, so that an index of ids leads straight to what is old. No task's own.
    #[must_use]
    pub fn first_at(moment: Timestamp) -> Self {
        let mut id = [0; 16];
        // The time has 48 bits.
        id[..6].copy_from_slice(&moment.as_millis().clamp(0, (1 << 48) - 1).to_be_bytes()[2..]);
        Self::from_bytes(id)
    }

    /// From a moment and bits that stand for what the id is derived from.
    pub(crate) fn from_hash(at: Timestamp, hash: [u8; 32]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, ..] = hash;
        let millis = u64::try_from(at.as_millis()).unwrap_or(0);
        let counter = u64::from(u16::from_be_bytes([a, b]) & 0x0fff);
        Self::from_ticks((millis << 12) | counter, u64::from_be_bytes([c, d, e, f, g, h, i, j]))
    }

    /// From 16 bytes, big end first, as stores keep it.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes, big end first.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TaskId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self)
    }
}

/// A process that executes tasks, known across its restarts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// A node called `name`; two running processes must not share one.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
