//! What nodes and their leases guarantee. Time is the store's own: lapses are waited for, and nothing is timed.

use std::time::Duration;

use super::{Life, START, eventually, node, store_all, wall};
use crate::{
    engine::Command,
    error::Result,
    store::{NodeRecord, TaskStore},
    task::NodeId,
};

/// Longer than any case takes.
const LONG: Duration = Duration::from_secs(3_600);

/// Short enough to wait for.
const SHORT: Duration = Duration::from_millis(300);

/// A node of this name and id that joins.
pub(super) fn record(name: &str, id: &str) -> NodeRecord {
    NodeRecord {
        id: NodeId::new(id),
        name: name.into(),
        role: "worker".into(),
        version: "0.1.0".into(),
        address: Some("127.0.0.1:7878".into()),
        started_at: START,
        // The store's to set.
        seen_at: crate::clock::Timestamp::NEVER,
        lease_until: START,
        running: 3,
        dead: true,
    }
}

async fn ids(store: &dyn TaskStore) -> Result<Vec<(String, bool)>> {
    let nodes = store.nodes().await?;
    Ok(nodes.iter().map(|node| (node.id.to_string(), node.dead)).collect())
}

/// The list tells who there is, by id, until they part; a renewal notes how many tasks run and draws the lease out.
pub async fn nodes_join_renew_and_part(store: &dyn TaskStore) -> Result<()> {
    assert_eq!(store.nodes().await?, []);
    assert!(!store.renew(&NodeId::new("a/1"), 0, LONG).await?, "nobody knows it");
    let before = wall();
    store.join(&record("b", "b/1"), LONG).await?;
    store.join(&NodeRecord { address: None, ..record("a", "a/1") }, LONG).await?;
    let nodes = store.nodes().await?;
    let [first, second] = nodes.as_slice() else { panic!("two nodes: {nodes:?}") };
    assert_eq!((first.id.as_str(), second.id.as_str()), ("a/1", "b/1"));
    assert_eq!((first.address.as_deref(), second.address.as_deref()), (None, Some("127.0.0.1:7878")));
    let rest = |node: &NodeRecord| (node.role.to_string(), node.version.to_string(), node.started_at, node.running);
    assert_eq!(rest(first), ("worker".to_owned(), "0.1.0".to_owned(), START, 3));
    assert!(!first.dead && !second.dead, "they live");
    assert_eq!(first.lease_until, first.seen_at.plus(LONG), "a lease from now");
    let apart = before.until(first.seen_at).max(first.seen_at.until(before));
    assert!(apart < LONG, "by a clock that is near this one");

    assert!(store.renew(&NodeId::new("a/1"), 12, 2 * LONG).await?);
    let renewed = store.nodes().await?.remove(0);
    assert_eq!(renewed.running, 12);
    assert!(renewed.seen_at >= first.seen_at && renewed.lease_until == renewed.seen_at.plus(2 * LONG));
    assert_eq!(store.lapsed().await?, [], "those who live hold what they hold");
    store.part(&NodeId::new("a/1")).await?;
    store.part(&NodeId::new("nobody")).await?;
    assert_eq!(ids(store).await?, [("b/1".to_owned(), false)]);
    assert!(!store.renew(&NodeId::new("a/1"), 0, LONG).await?);
    Ok(())
}

/// Who joins declares earlier lives of its name dead, and nobody else; they can renew no more.
pub async fn another_life_of_a_name_is_dead(store: &dyn TaskStore) -> Result<()> {
    for (name, id) in [("a", "a/1"), ("b", "b/1"), ("a", "a/2")] {
        store.join(&record(name, id), LONG).await?;
    }
    let expected = [("a/1", true), ("a/2", false), ("b/1", false)].map(|(id, dead)| (id.to_owned(), dead));
    assert_eq!(ids(store).await?, expected);
    assert!(!store.renew(&NodeId::new("a/1"), 0, LONG).await?);
    assert!(store.renew(&NodeId::new("a/2"), 0, LONG).await?);
    assert_eq!(store.lapsed().await?, [NodeId::new("a/1")]);
    assert_eq!(store.lapsed().await?, [NodeId::new("a/1")], "until it is struck off");
    store.part(&NodeId::new("a/1")).await?;
    assert_eq!(store.lapsed().await?, []);
    Ok(())
}

/// A node that is silent for longer than its lease is declared dead, once and for all; one that renews is not.
pub async fn a_lapsed_lease_is_declared_dead(store: &dyn TaskStore) -> Result<()> {
    let (silent, alive) = (NodeId::new("silent/1"), NodeId::new("alive/1"));
    store.join(&record("silent", "silent/1"), SHORT).await?;
    store.join(&record("alive", "alive/1"), SHORT).await?;
    assert!(store.renew(&alive, 0, LONG).await?);
    eventually("the lease lapses", async || Ok(store.lapsed().await? == [silent.clone()])).await?;
    assert!(!store.renew(&silent, 0, LONG).await?, "dead is dead");
    let expected = [("alive/1", false), ("silent/1", true)].map(|(id, dead)| (id.to_owned(), dead));
    assert_eq!(ids(store).await?, expected);
    store.join(&record("silent", "silent/2"), LONG).await?;
    assert!(store.renew(&NodeId::new("silent/2"), 0, LONG).await?, "another life is another node");
    assert_eq!(store.lapsed().await?, [silent]);
    Ok(())
}

/// Whoever holds tasks and is not on the list is among those that do not live, once, for as long as it holds any.
pub async fn holders_without_a_record_are_lapsed(store: &dyn TaskStore) -> Result<()> {
    let mut lives: [Life; 4] = std::array::from_fn(|_| Life::new());
    for life in &mut lives[..2] {
        life.claimed();
    }
    lives[2].then(Command::Claim { node: NodeId::new("known/1") }, START);
    lives[3].then(Command::Claim { node: NodeId::new("gone/1") }, START).completed();
    store.join(&record("known", "known/1"), LONG).await?;
    store_all(store, &mut lives).await?;
    assert_eq!(store.lapsed().await?, [node()]);
    store.part(&NodeId::new("known/1")).await?;
    let mut lapsed = store.lapsed().await?;
    lapsed.sort_unstable();
    assert_eq!(lapsed, [NodeId::new("known/1"), node()]);
    store_all(store, lives[..2].iter_mut().map(|life| life.then(Command::Recover { journal: 0 }, START))).await?;
    assert_eq!(store.lapsed().await?, [NodeId::new("known/1")]);
    Ok(())
}
