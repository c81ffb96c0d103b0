//! A bounded queue, and changes that are asked for again or by somebody who goes away.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sutazai_core::{
    engine::{OrchestratorBuilder, Requeue},
    prelude::*,
    task::IdempotencyKey,
};

fn engine(queue_max: u64) -> OrchestratorBuilder {
    let echo = agent_fn("echo", |_context, n: u64| async move { Ok(n) });
    Orchestrator::builder().agent(echo).queue_max(queue_max)
}

fn echo(n: u64) -> TaskRequest {
    TaskRequest::new("echo", Payload::of(&n).unwrap())
}

fn key(name: &str) -> Option<IdempotencyKey> {
    Some(IdempotencyKey { tenant: "default".into(), key: name.into(), fingerprint: [1; 32] })
}

#[tokio::test]
async fn a_full_queue_still_answers_what_it_has_taken_in() {
    let engine = engine(2).without_execution().start().await.unwrap();
    let first = engine.submit_request(echo(1).idempotency_key("a")).await.unwrap().task;
    let fork = engine.fork(first.id, 0, None, key("f")).await.unwrap().task;
    for request in [echo(2), echo(2).idempotency_key("b")] {
        assert_eq!(engine.submit_request(request).await.unwrap_err().code(), "queue_full");
    }
    let again = engine.submit_request(echo(1).idempotency_key("a")).await.unwrap();
    assert_eq!((again.task.id, again.replayed), (first.id, true));
    let other = engine.submit_request(echo(3).idempotency_key("a")).await.unwrap_err();
    assert_eq!(other.code(), "idempotency_conflict");
    let again = engine.fork(first.id, 0, None, key("f")).await.unwrap();
    assert_eq!((again.task.id, again.replayed), (fork.id, true));
    assert_eq!(engine.fork(first.id, 0, None, key("g")).await.unwrap_err().code(), "queue_full");
    let batch = vec![echo(4), echo(1).idempotency_key("a"), echo(5).idempotency_key("c")];
    let answers = engine.submit_batch(batch).await;
    let codes: Vec<_> = answers.iter().map(|answer| answer.as_ref().map_or_else(Error::code, |_| "taken")).collect();
    assert_eq!(codes, ["queue_full", "taken", "queue_full"]);
}

#[tokio::test]
async fn no_more_are_taken_in_than_there_are_places() {
    let engine = engine(10).without_execution().start().await.unwrap();
    engine.submit_request(echo(0).idempotency_key("k")).await.unwrap();
    for n in 1..20 {
        // Each has a place until it turns out that it is none.
        let refused = engine.submit_request(echo(n).idempotency_key("k")).await.unwrap_err();
        assert_eq!(refused.code(), "idempotency_conflict");
    }
    let answers = engine.submit_batch((0..100).map(echo).collect()).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 9);
    assert!(answers[..9].iter().all(Result::is_ok), "in order");
    assert_eq!(engine.submit("echo", &1).await.map(|_| ()).unwrap_err().code(), "queue_full");
    let stored = engine.task_store().queued().await.unwrap();
    assert_eq!(stored, 10);
}

#[tokio::test]
async fn of_submits_at_once_only_as_many_are_taken_in_as_there_are_places() {
    let engine = engine(7).without_execution().start().await.unwrap();
    let answers = futures_util::future::join_all((0..50).map(|n| engine.submit_request(echo(n)))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 7);
    assert_eq!(engine.task_store().queued().await.unwrap(), 7);
}

#[tokio::test]
async fn what_was_asked_for_is_done_though_whoever_asked_goes_away() {
    let mended = Arc::new(AtomicBool::new(false));
    let works = Arc::clone(&mended);
    let agent = agent_fn("fragile", move |_context, (): ()| {
        let works = works.load(Ordering::SeqCst);
        async move { if works { Ok(()) } else { Err(AgentError::permanent("broken", "not yet")) } }
    });
    let engine = engine(100).agent(agent).start().await.unwrap();
    let task = engine.submit("fragile", &()).await.unwrap().result().await.unwrap();
    assert_eq!(task.state, TaskState::Failed);
    mended.store(true, Ordering::SeqCst);
    let (requeue, key) = (Requeue::default(), key("r"));
    tokio::select! {
        biased;
        _ = engine.requeue(task.id, &requeue, key.clone()) => panic!("whoever asks goes before the answer"),
        () = std::future::ready(()) => {}
    }
    while engine.task(task.id).await.unwrap().state != TaskState::Completed {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let again = engine.requeue(task.id, &requeue, key).await.unwrap();
    assert_eq!((again.task.state, again.replayed), (TaskState::Completed, true));
}
