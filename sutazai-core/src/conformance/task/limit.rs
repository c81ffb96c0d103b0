//! What a claim's policy guarantees in every store: ageing, shares, limits and rates.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;

use super::{Life, START, at, claim::ids, claim_of, request, store_all};
use crate::{
    engine::{QueueRule, TenantRule},
    error::Result,
    store::{Claim, TaskStore},
    task::{NodeId, Priority},
};

fn of(tenant: &str) -> Life {
    Life::of(request().tenant(tenant))
}

/// A claim with limits of the agent.
fn limited(limit: usize, concurrency: Option<u32>, rate: Option<u32>) -> Claim {
    let mut claim = claim_of(limit, START);
    claim.policy.queues = [("echo@1".into(), QueueRule { agent: "echo".into(), concurrency, rate })].into();
    claim
}

/// A minute of waiting is worth a step of priority.
pub async fn who_has_waited_long_goes_before_who_is_important(store: &dyn TaskStore) -> Result<()> {
    let with = |priority| Life::of(request().priority(Priority::new(priority).unwrap_or_default()));
    let (mut old, mut new) = (with(3), with(5));
    new.step.task.due_at = at(3 * 60_000);
    store_all(store, [&mut old, &mut new]).await?;
    let granted = store.claim(&claim_of(10, at(3 * 60_000))).await?;
    assert_eq!(ids(&granted.tasks), [old.id(), new.id()]);
    Ok(())
}

/// Tenants with work are granted by their weights, also over several claims that know of each other.
pub async fn tenants_share_by_weight(store: &dyn TaskStore) -> Result<()> {
    let mut lives: Vec<_> = (0..40).flat_map(|_| [of("a"), of("b"), of("c")]).collect();
    store_all(store, &mut lives).await?;
    let mut claim = claim_of(7, START);
    claim.policy.tenants = [("a".into(), TenantRule { weight: 2.0, concurrency: None })].into();
    let mut counts: BTreeMap<Arc<str>, i32> = BTreeMap::new();
    for _ in 0..8 {
        for task in store.claim(&claim).await?.tasks {
            claim.policy.granted(&task.tenant);
            *counts.entry(task.tenant).or_default() += 1;
        }
    }
    let counts: Vec<i32> = counts.into_values().collect();
    assert_eq!(counts.iter().sum::<i32>(), 56);
    let fair = counts.len() == 3 && (27..=29).contains(&counts[0]) && (13..=15).contains(&counts[1]);
    assert!(fair, "two shares, one and one of 56: {counts:?}");
    Ok(())
}

/// No more tasks of an agent run at once than its limit says, over all its queues.
pub async fn agents_keep_to_their_limit(store: &dyn TaskStore) -> Result<()> {
    let mut lives: Vec<_> = (0..6).map(|_| Life::new()).collect();
    let mut newer = Life::new();
    newer.step.task.agent_version = "2.0.0".into();
    store_all(store, lives.iter_mut().chain([&mut newer])).await?;
    let mut claim = limited(10, Some(3), None);
    let rule = QueueRule { agent: "echo".into(), concurrency: Some(3), rate: None };
    claim.policy.queues.insert("echo@2".into(), rule);
    assert_eq!(store.claim(&limited(2, Some(3), None)).await?.tasks.len(), 2);
    let third = store.claim(&claim).await?.tasks;
    let none = store.claim(&claim).await?;
    assert_eq!((third.len(), none.tasks.len(), none.held_back), (1, 0, true));
    let Some(ended) = lives.iter_mut().chain([&mut newer]).find(|life| life.id() == third[0].id) else { return Ok(()) };
    ended.claimed().write(); // as the claim has stored it
    store_all(store, [ended.completed()]).await?;
    assert_eq!(store.claim(&claim).await?.tasks.len(), 1, "an end makes room");
    Ok(())
}

/// No more tasks of a tenant run at once than its limit says, whatever their agents; others are not held back by it.
pub async fn tenants_keep_to_their_limit(store: &dyn TaskStore) -> Result<()> {
    let mut lives: Vec<_> = (0..4).flat_map(|_| [of("a"), of("b")]).collect();
    lives.push(Life::of_agent("sleep", request().tenant("a")));
    store_all(store, &mut lives).await?;
    let mut claim = claim_of(100, START);
    claim.policy = super::policy(["echo@1", "sleep@1"]);
    claim.policy.tenants = [("a".into(), TenantRule { weight: 1.0, concurrency: Some(2) })].into();
    let granted = store.claim(&claim).await?.tasks;
    let of_a = granted.iter().filter(|task| &*task.tenant == "a").count();
    assert_eq!((granted.len(), of_a), (6, 2));
    let none = store.claim(&claim).await?;
    assert_eq!((none.tasks.len(), none.held_back), (0, true));
    Ok(())
}

/// A rate lets so many start and says when the next one may; another claim knows of those before.
pub async fn rates_hold_back_and_say_until_when(store: &dyn TaskStore) -> Result<()> {
    let mut lives: Vec<_> = (0..10).map(|_| Life::new()).collect();
    store_all(store, &mut lives).await?;
    // 120 a minute: a burst of two, then one each half second.
    let mut claim = limited(10, None, Some(120));
    let granted = store.claim(&claim).await?;
    assert_eq!((granted.tasks.len(), granted.again_at, granted.held_back), (2, Some(at(500)), false));
    claim.now = at(499);
    let granted = store.claim(&claim).await?;
    assert_eq!((granted.tasks.len(), granted.again_at), (0, Some(at(500))));
    claim.now = at(500);
    let granted = store.claim(&claim).await?;
    assert_eq!((granted.tasks.len(), granted.again_at), (1, Some(at(1_000))));
    let free = store.claim(&limited(10, None, None)).await?;
    assert_eq!((free.tasks.len(), free.again_at, free.held_back), (7, None, false));
    Ok(())
}

/// Claims that race do not pass a limit together.
pub async fn racing_claims_keep_to_the_limits(store: &dyn TaskStore) -> Result<()> {
    let mut lives: Vec<_> = (0..60).map(|n| of(["a", "b", "c"][n % 3])).collect();
    store_all(store, &mut lives).await?;
    let claims: Vec<_> = (0..16)
        .map(|n| {
            let mut claim = limited(5, Some(20), Some(60 * 30));
            claim.node = NodeId::new(format!("node-{n}"));
            claim.policy.other_tenants.concurrency = Some(6);
            claim
        })
        .collect();
    let mut counts: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for granted in join_all(claims.iter().map(|claim| store.claim(claim))).await {
        for task in granted?.tasks {
            *counts.entry(task.tenant).or_default() += 1;
        }
    }
    assert!(counts.values().all(|count| *count <= 6), "{counts:?}");
    // Nothing is lost by it either: what is free is granted in the end.
    let mut claim = claims[0].clone();
    claim.limit = 100;
    let rest = store.claim(&claim).await?.tasks.len();
    assert_eq!(counts.values().sum::<usize>() + rest, 18);
    Ok(())
}
