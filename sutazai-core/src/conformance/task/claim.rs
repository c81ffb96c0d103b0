//! What claims, holders, deadlines and counts guarantee.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;

use super::{Life, START, at, claim_of, holds, node, policy, request, store_all};
use crate::{
    engine::Command,
    error::Result,
    store::{Claim, TaskStore},
    task::{NodeId, Priority, RetryPolicy, Task, TaskError, TaskId},
};

pub(super) fn ids(tasks: &[Task]) -> Vec<TaskId> {
    tasks.iter().map(|task| task.id).collect()
}

fn id_set(tasks: &[Task]) -> BTreeSet<TaskId> {
    tasks.iter().map(|task| task.id).collect()
}

/// A life whose first attempt failed and whose next is due at `millis`.
pub(super) fn waiting_until(millis: u64) -> Life {
    let mut life = Life::of(request().retry(RetryPolicy { max_attempts: 3, initial_ms: 0, max_ms: 0 }));
    let retry = Some(Duration::from_millis(millis));
    life.claimed().then(Command::Fail { error: TaskError::new("e", "m"), retry, random: 0 }, START);
    life
}

/// Highest priority first, then what is due first, then the older id.
pub async fn claims_go_by_priority_then_due_then_id(store: &dyn TaskStore) -> Result<()> {
    let with = |priority| Life::of(request().priority(Priority::new(priority).unwrap_or_default()));
    let mut lives = [with(5), with(0), with(9), with(5), waiting_until(20), waiting_until(10), with(9)];
    store_all(store, lives.iter_mut().rev()).await?;
    let order = [2, 6, 0, 3, 5, 4, 1].map(|index: usize| lives[index].id());
    let mut claimed = store.claim(&claim_of(3, at(50))).await?.tasks;
    assert_eq!(claimed.len(), 3);
    claimed.extend(store.claim(&claim_of(100, at(50))).await?.tasks);
    assert_eq!(ids(&claimed), order);
    Ok(())
}

/// A task is claimed from the moment it is due, not before.
pub async fn nothing_is_claimed_before_it_is_due(store: &dyn TaskStore) -> Result<()> {
    let (mut later, mut fresh) = (waiting_until(500), Life::new());
    store_all(store, [&mut later, &mut fresh]).await?;
    assert_eq!(store.claim(&claim_of(10, at(-1))).await?.tasks, []);
    assert_eq!(ids(&store.claim(&claim_of(10, at(499))).await?.tasks), [fresh.id()]);
    assert_eq!(ids(&store.claim(&claim_of(10, at(500))).await?.tasks), [later.id()]);
    assert_eq!(store.claim(&claim_of(10, at(9_000))).await?.tasks, []);
    Ok(())
}

/// Only tasks of the queues that the policy names are given, line of versions included; others keep their place.
pub async fn only_queues_of_the_policy_are_claimed(store: &dyn TaskStore) -> Result<()> {
    let agents = ["echo", "sleep", "echo'; --", "écho", "echo"];
    let mut lives = agents.map(|agent| Life::of_agent(agent, request()));
    lives[4].step.task.agent_version = "2.0.0".into();
    store_all(store, &mut lives).await?;
    let claim =
        |queues: &[&'static str]| Claim { node: node(), policy: policy(queues.iter().copied()), now: START, limit: 10 };
    assert_eq!(store.claim(&claim(&[])).await?.tasks, []);
    assert_eq!(store.claim(&claim(&["nobody@1", "echo", "echo@"])).await?.tasks, []);
    assert_eq!(ids(&store.claim(&claim(&["sleep@1"])).await?.tasks), [lives[1].id()]);
    let rest = store.claim(&claim(&["nobody@1", "écho@1", "echo'; --@1", "echo@1", "sleep@1"])).await?.tasks;
    assert_eq!(ids(&rest), [0, 2, 3].map(|index: usize| lives[index].id()));
    assert_eq!(ids(&store.claim(&claim(&["echo@2"])).await?.tasks), [lives[4].id()]);
    Ok(())
}

/// A claim changes a task as the engine's rules say, and stores its events.
pub async fn a_claim_is_the_transition(store: &dyn TaskStore) -> Result<()> {
    let mut lives = [Life::of(request().label("a", "b")), waiting_until(10)];
    store_all(store, &mut lives).await?;
    let claimed = store.claim(&claim_of(10, at(20))).await?.tasks;
    assert_eq!(claimed.len(), 2);
    for life in &mut lives {
        life.then(Command::Claim { node: node() }, at(20));
        assert!(claimed.contains(life.task()), "{:?}", life.task());
        holds(store, life).await?;
        life.write();
    }
    // The node can go on from the revision it was given, and nobody from the one before.
    store_all(store, lives.iter_mut().map(Life::completed)).await?;
    holds(store, &lives[0]).await
}

/// Claims that race share the tasks out: each is granted once.
pub async fn no_task_is_claimed_twice(store: &dyn TaskStore) -> Result<()> {
    let mut lives: Vec<_> = (0..200).map(|_| Life::new()).collect();
    store_all(store, &mut lives).await?;
    let claims: Vec<_> =
        (0..20).map(|n| Claim { node: NodeId::new(format!("node-{n}")), ..claim_of(15, START) }).collect();
    let mut granted = Vec::new();
    for (claim, tasks) in claims.iter().zip(join_all(claims.iter().map(|claim| store.claim(claim))).await) {
        let tasks = tasks?.tasks;
        assert!(tasks.len() <= 15 && tasks.iter().all(|task| task.node.as_ref() == Some(&claim.node)));
        granted.extend(ids(&tasks));
    }
    let once: BTreeSet<_> = granted.iter().collect();
    assert_eq!((granted.len(), once.len()), (200, 200));
    Ok(())
}

/// What runs or has ended is not claimed; what was given back is.
pub async fn only_runnable_tasks_are_claimed(store: &dyn TaskStore) -> Result<()> {
    let mut lives: [Life; 4] = std::array::from_fn(|_| Life::new());
    lives[0].claimed();
    lives[1].claimed().completed();
    lives[2].then(Command::Cancel, START);
    lives[3].claimed().then(Command::Release, at(1));
    store_all(store, &mut lives).await?;
    assert_eq!(store.claim(&claim_of(0, at(5))).await?.tasks, []);
    assert_eq!(ids(&store.claim(&claim_of(10, at(5))).await?.tasks), [lives[3].id()]);
    store_all(store, [lives[0].then(Command::Recover { journal: 0 }, at(6))]).await?;
    assert_eq!(ids(&store.claim(&claim_of(10, at(6))).await?.tasks), [lives[0].id()]);
    Ok(())
}

/// `held_by` gives the tasks a node executes, and no others.
pub async fn held_tasks_are_those_of_the_node(store: &dyn TaskStore) -> Result<()> {
    let mut lives: Vec<_> = (0..5).map(|_| Life::new()).collect();
    lives[4].then(Command::Claim { node: NodeId::new("node-10") }, START);
    store_all(store, &mut lives).await?;
    let claimed = store.claim(&claim_of(3, START)).await?.tasks;
    let held: Vec<Task> = store.held_by(&node(), 10).await?.into_iter().map(|held| held.task).collect();
    assert_eq!(id_set(&held), id_set(&claimed));
    assert!(held.iter().all(|task| claimed.contains(task)));
    assert_eq!(store.held_by(&node(), 2).await?.len(), 2);
    assert_eq!(store.held_by(&NodeId::new("nobody"), 10).await?, []);
    let Some(life) = lives.iter_mut().find(|life| life.id() == claimed[0].id) else { return Ok(()) };
    life.claimed().completed();
    life.written = Some(claimed[0].revision);
    life.step.events.retain(|event| event.seq > claimed[0].revision.seq);
    store_all(store, [life]).await?;
    assert_eq!(store.held_by(&node(), 10).await?.len(), 2);
    Ok(())
}

/// `overdue` gives what has a deadline by then and has not ended.
pub async fn deadlines_hold_until_the_end(store: &dyn TaskStore) -> Result<()> {
    let mut lives = [100, 200, 200].map(|millis| Life::of(request().deadline(at(millis))));
    let mut free = Life::new();
    lives[1].claimed();
    store_all(store, lives.iter_mut().chain([&mut free])).await?;
    assert_eq!(store.overdue(at(99), 10).await?, []);
    assert_eq!(ids(&store.overdue(at(100), 10).await?), [lives[0].id()]);
    assert_eq!(store.overdue(at(200), 2).await?.len(), 2);
    let all = store.overdue(at(200), 10).await?;
    assert_eq!(id_set(&all), lives.iter().map(Life::id).collect());
    assert!(all.contains(lives[1].task()), "a running task is overdue like any other");
    lives[0].then(Command::Expire, at(100));
    lives[1].completed();
    store_all(store, &mut lives[..2]).await?;
    assert_eq!(ids(&store.overdue(at(9_000), 10).await?), [lives[2].id()]);
    Ok(())
}

/// `next_due` is the next moment after the one given at which a task that has not ended becomes runnable or overdue.
pub async fn next_due_is_the_next_moment(store: &dyn TaskStore) -> Result<()> {
    assert_eq!(store.next_due(START).await?, None);
    let mut lives = [waiting_until(300), Life::of(request().deadline(at(200))), Life::of(request().deadline(at(400)))];
    lives[2].claimed();
    store_all(store, &mut lives).await?;
    assert_eq!(store.next_due(at(-1)).await?, Some(at(200)), "what is `created` was told of when it came");
    assert_eq!(store.next_due(START).await?, Some(at(200)));
    assert_eq!(store.next_due(at(199)).await?, Some(at(200)));
    assert_eq!(store.next_due(at(200)).await?, Some(at(300)));
    assert_eq!(store.next_due(at(300)).await?, Some(at(400)), "deadlines of running tasks count");
    assert_eq!(store.next_due(at(400)).await?, None);
    lives[1].then(Command::Cancel, at(1));
    lives[2].completed();
    store_all(store, &mut lives[1..]).await?;
    assert_eq!(store.next_due(START).await?, Some(at(300)), "what has ended is never due");
    assert_eq!(store.next_due(at(300)).await?, None);
    Ok(())
}

/// A claim says how many of what it gives were `created`.
pub async fn claims_say_what_was_created(store: &dyn TaskStore) -> Result<()> {
    let mut lives = [Life::new(), waiting_until(10), Life::new()];
    store_all(store, &mut lives).await?;
    let granted = store.claim(&claim_of(10, at(20))).await?;
    assert_eq!((granted.tasks.len(), granted.from_created, granted.again_at), (3, 2, None));
    let granted = store.claim(&claim_of(10, at(20))).await?;
    assert_eq!((granted.tasks.len(), granted.from_created), (0, 0));
    Ok(())
}

/// `queue_depths` counts what no worker has, by agent.
pub async fn depths_follow_the_states(store: &dyn TaskStore) -> Result<()> {
    let depth = async || -> Result<u64> { Ok(store.queue_depths().await?.values().sum()) };
    assert_eq!(depth().await?, 0);
    let mut lives = [Life::new(), Life::new(), Life::new(), waiting_until(1_000)];
    lives[2].claimed().completed();
    store_all(store, &mut lives).await?;
    assert_eq!(store.queued().await?, 2, "those that are `created`");
    assert_eq!(depth().await?, 3);
    let agent = lives[0].task().agent.to_string();
    assert_eq!(store.queue_depths().await?.get(&agent), Some(&3), "under its name");
    let claimed = store.claim(&claim_of(1, START)).await?.tasks;
    assert_eq!((claimed.len(), depth().await?, store.queued().await?), (1, 2, 1));
    Ok(())
}
