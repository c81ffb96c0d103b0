//! The list of nodes and their leases.

use std::{collections::BTreeMap, time::Duration};

use crate::{clock::Timestamp, store::NodeRecord, task::NodeId};

/// Every node that has joined and not parted.
#[derive(Default)]
pub(super) struct Nodes {
    records: BTreeMap<NodeId, NodeRecord>,
}

impl Nodes {
    pub(super) fn join(&mut self, node: &NodeRecord, lease: Duration, now: Timestamp) {
        for other in self.records.values_mut().filter(|other| other.name == node.name) {
            other.dead = true;
        }
        let record = NodeRecord { seen_at: now, lease_until: now.plus(lease), dead: false, ..node.clone() };
        self.records.insert(node.id.clone(), record);
    }

    pub(super) fn renew(&mut self, node: &NodeId, running: u64, lease: Duration, now: Timestamp) -> bool {
        let Some(record) = self.records.get_mut(node).filter(|record| !record.dead) else { return false };
        (record.running, record.seen_at, record.lease_until) = (running, now, now.plus(lease));
        true
    }

    /// The dead ones, and those of `holders` that are not on the list.
    pub(super) fn lapsed(&mut self, holders: &[&NodeId], now: Timestamp) -> Vec<NodeId> {
        for record in self.records.values_mut().filter(|record| record.lease_until < now) {
            record.dead = true;
        }
        let dead = self.records.values().filter(|record| record.dead).map(|record| record.id.clone());
        let strangers =
            holders.iter().filter(|node| !self.records.contains_key(**node)).map(|node| NodeId::clone(node));
        dead.chain(strangers).collect()
    }

    pub(super) fn part(&mut self, node: &NodeId) {
        self.records.remove(node);
    }

    pub(super) fn all(&self) -> Vec<NodeRecord> {
        self.records.values().cloned().collect()
    }
}
