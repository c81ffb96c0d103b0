//! Nodes on the wire.

use serde::Serialize;
use sutazai_core::{clock::Timestamp, store::NodeRecord};
use utoipa::ToSchema;

/// One life of a process that shares the store.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
pub(in crate::http) struct NodeView<'a> {
    /// Of this life alone.
    #[schema(example = "local/1f0c99ab")]
    id: &'a str,
    /// The process's, the same over its restarts.
    name: &'a str,
    /// What it does: `all`, `api` or `worker`.
    role: &'a str,
    /// The version of its program.
    version: &'a str,
    /// Where it is reached, if anywhere.
    #[schema(required = true)]
    address: Option<&'a str>,
    /// `live`, or `dead`: it was silent for longer than its lease, and what it held is being taken over.
    #[schema(example = "live")]
    state: &'static str,
    /// Tasks it was executing when it was last heard of.
    running: u64,
    /// When this life began, by its own clock.
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// When it was last heard of, by the store's clock.
    #[schema(value_type = String, format = DateTime)]
    seen_at: Timestamp,
    /// Until when it may be silent, by the store's clock.
    #[schema(value_type = String, format = DateTime)]
    lease_until: Timestamp,
}

impl<'a> From<&'a NodeRecord> for NodeView<'a> {
    fn from(node: &'a NodeRecord) -> Self {
        Self {
            id: node.id.as_str(),
            name: &node.name,
            role: &node.role,
            version: &node.version,
            address: node.address.as_deref(),
            state: if node.dead { "dead" } else { "live" },
            running: node.running,
            started_at: node.started_at,
            seen_at: node.seen_at,
            lease_until: node.lease_until,
        }
    }
}

/// A page of nodes, by id.
#[derive(Serialize, ToSchema)]
#[schema(as = NodeList)]
pub(in crate::http) struct NodeList<'a> {
    /// The nodes.
    pub(in crate::http) items: Vec<NodeView<'a>>,
    /// What to send as `cursor` for the next page; null at the end.
    #[schema(required = true)]
    pub(in crate::http) next_cursor: Option<String>,
}
