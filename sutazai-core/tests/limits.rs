//! What limits hold back goes on at the very moment at which it may, in virtual time.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{sync::Arc, time::Duration};

use sutazai_core::{
    agent::AgentLimits,
    engine::{OrchestratorBuilder, TenantRule},
    memory::MemoryTaskStore,
    prelude::*,
};
use tokio::time::Instant;

use kit::Virtual;

fn engine(limits: AgentLimits) -> OrchestratorBuilder {
    let sleep = agent_fn("sleep", |_context, ms: u64| async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok(ms)
    })
    .describe(|agent| agent.limits(limits));
    Orchestrator::builder().agent(sleep).clock(Virtual::new())
}

/// When tasks of so many milliseconds each have ended that are submitted together, in milliseconds from then on.
async fn ends(engine: &Orchestrator, tasks: usize, ms: u64) -> Vec<u128> {
    let began = Instant::now();
    let requests = (0..tasks).map(|_| TaskRequest::new("sleep", Payload::of(&ms).unwrap())).collect();
    let mut ends = Vec::new();
    for submitted in engine.submit_batch(requests).await {
        let task = engine.wait(submitted.unwrap().task.id, Duration::from_secs(600)).await.unwrap();
        assert_eq!(task.state, TaskState::Completed);
        ends.push(began.elapsed().as_millis());
    }
    ends
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_task_makes_room_for_the_next_of_its_agent() {
    let engine = engine(AgentLimits { concurrency: Some(2), ..AgentLimits::default() }).start().await.unwrap();
    let ends = ends(&engine, 6, 100).await;
    assert!(ends[5] < 400, "three rounds of 100 ms: {ends:?}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_task_makes_room_for_the_next_of_its_tenant() {
    let rule = TenantRule { weight: 1.0, concurrency: Some(1) };
    let engine = engine(AgentLimits::default()).other_tenants(rule).start().await.unwrap();
    let ends = ends(&engine, 4, 100).await;
    assert!(ends[3] < 500, "one after the other: {ends:?}");
}

#[tokio::test(start_paused = true)]
async fn a_place_that_another_process_frees_is_found_soon() {
    let clock = Virtual::new();
    let store = Arc::new(MemoryTaskStore::with_clock(clock.clone()).shared());
    let rule = TenantRule { weight: 1.0, concurrency: Some(1) };
    let other = agent_fn("other", |_context, ms: u64| async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok(ms)
    });
    let other = Orchestrator::builder().agent(other).node("b").clock(clock).other_tenants(rule);
    let other = other.shared_store(store.clone()).start().await.unwrap();
    let engine =
        engine(AgentLimits::default()).node("a").other_tenants(rule).shared_store(store).start().await.unwrap();
    let before = other.submit("other", &1_000).await.unwrap();
    while other.task(before.id()).await.unwrap().state != TaskState::Running {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ends = ends(&engine, 1, 1).await;
    assert!((900..1_700).contains(&ends[0]), "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rate_lets_the_next_task_through_when_its_moment_comes() {
    let engine = engine(AgentLimits { per_minute: Some(60), ..AgentLimits::default() }).start().await.unwrap();
    let ends = ends(&engine, 4, 1).await;
    let late = ends.iter().zip([0, 1_000, 2_000, 3_000]).any(|(end, due)| !(due..due + 100).contains(end));
    assert!(!late, "one a second: {ends:?}");
}
