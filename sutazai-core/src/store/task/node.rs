//! The processes that share a store.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{clock::Timestamp, task::NodeId};

/// One life of a process that executes tasks or takes them in.
///
/// Its lease is the lease of every task it holds: it is renewed with one small write, whatever runs. Once it has passed, any other node may declare this one
/// dead; from then on it can only join again, under another id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// This life's id: the name and a number that no other life of it has.
    pub id: NodeId,
    /// The process's name, the same over its restarts.
    pub name: Arc<str>,
    /// What it does: `all`, `api` or `worker`.
    pub role: Arc<str>,
    /// The version of its program.
    pub version: Arc<str>,
    /// Where it is reached, if anywhere.
    pub address: Option<Arc<str>>,
    /// When this life began, by its own clock.
    pub started_at: Timestamp,
    /// When it was last heard of, by the store's clock.
    pub seen_at: Timestamp,
    /// Until when it may be silent, by the store's clock.
    pub lease_until: Timestamp,
    /// Tasks it was executing when it was last heard of.
    pub running: u64,
    /// It was declared dead, and what it held is being taken over.
    pub dead: bool,
}
