//! Effects that must not happen twice, and what is recorded of others' tasks.

use super::*;

/// Waits until the task has stopped for a decision; what is said about it.
pub(super) async fn undecided(engine: &Orchestrator, id: TaskId, code: &str) -> String {
    let halted = async {
        loop {
            let task = engine.task(id).await.unwrap();
            assert!(!task.state.is_terminal(), "{task:?}");
            if let Some(error) = task.error.as_ref().filter(|_| task.state == TaskState::Waiting) {
                assert_eq!((error.code.as_str(), task.attempt), (code, 1));
                return error.message.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, halted).await.unwrap()
}

#[tokio::test]
async fn an_outcome_that_cannot_be_recorded_leaves_a_destructive_step_undecided() {
    let shots = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&shots);
    let agent = agent_fn("large", move |context: Context, destructive: bool| {
        let shots = Arc::clone(&counted);
        async move {
            let step = context.step("shot", || {
                shots.fetch_add(1, Ordering::SeqCst);
                async { Ok("x".repeat(2 << 20)) }
            });
            let text = if destructive { step.destructive().await? } else { step.await? };
            Ok(text.len())
        }
    });
    let engine = Orchestrator::builder().agent(agent).start().await.unwrap();
    let plain = engine.submit("large", &false).await.unwrap().id();
    let task = engine.wait(plain, LONG).await.unwrap();
    assert_eq!(task.error.as_ref().map(|error| error.code.as_str()), Some("outcome_too_large"));
    let id = engine.submit("large", &true).await.unwrap().id();
    let message = undecided(&engine, id, "effect_unknown").await;
    assert!(message.contains("entry 0") && message.contains("2097154 bytes"), "{message}");
    let large = Resolution::Outcome(payload(json!("x".repeat(2 << 20))));
    let error = engine.resolve(id, 0, &large, None).await.unwrap_err();
    assert_eq!((error.kind(), error.faults()[0].path.as_str()), (ErrorKind::Invalid, "/outcome"));
    engine.resolve(id, 0, &Resolution::Outcome(payload(json!("see there"))), None).await.unwrap();
    let task = engine.wait(id, LONG).await.unwrap();
    assert_eq!((task.output.as_ref().map(Payload::as_str), shots.load(Ordering::SeqCst)), (Some("9"), 2), "{task:?}");
}

#[tokio::test]
async fn a_destructive_step_that_is_dropped_in_the_middle_is_undecided() {
    let shots = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&shots);
    let agent = agent_fn("racer", move |context: Context, (): ()| {
        let shots = Arc::clone(&counted);
        async move {
            let context = &context;
            let branch = |fires: bool| {
                let shots = Arc::clone(&shots);
                move |branch: Context| async move {
                    if fires {
                        let shoot = || {
                            shots.fetch_add(1, Ordering::SeqCst);
                            std::future::pending::<Result<(), AgentError>>()
                        };
                        branch.step("shot", shoot).destructive().await
                    } else {
                        let look = || async {
                            while shots.load(Ordering::SeqCst) == 0 {
                                tokio::time::sleep(Duration::from_millis(1)).await;
                            }
                            Ok(())
                        };
                        branch.step("look", look).await
                    }
                }
            };
            let (place, _) = context.race([branch(true), branch(false)]).await;
            context.step("after", || async move { Ok(place) }).await
        }
    });
    let engine = Orchestrator::builder().agent(agent).start().await.unwrap();
    let id = engine.submit("racer", &()).await.unwrap().id();
    let message = undecided(&engine, id, "effect_unknown").await;
    assert!(message.contains("\"shot\"") && message.contains("entry 0"), "{message}");
    engine.resolve(id, 0, &Resolution::Retry, None).await.unwrap();
    let task = engine.wait(id, LONG).await.unwrap();
    assert_eq!(task.output.as_ref().map(Payload::as_str), Some("1"), "{task:?}");
    assert_eq!(shots.load(Ordering::SeqCst), 1, "the race was decided: nobody shoots again");
}

#[tokio::test]
async fn what_a_child_gives_must_fit_its_parent_and_its_journal() {
    let child = agent_fn("text", |_: Context, length: usize| async move { Ok("x".repeat(length)) });
    let asks = |name: &str| {
        agent_fn(name, |context: Context, length: usize| async move {
            let text: String = context.call("text", &length).await?;
            Ok(text.len())
        })
    };
    let wrong = agent_fn("wrong", |context: Context, (): ()| async move { context.call::<_, u32>("text", &3).await });
    let engine = Orchestrator::builder().agent(child).agent(asks("asks")).agent(wrong).start().await.unwrap();
    let id = engine.submit("asks", &(2usize << 20)).await.unwrap().id();
    let task = engine.wait(id, LONG).await.unwrap();
    assert_eq!(task.error.as_ref().map(|error| error.code.as_str()), Some("outcome_too_large"), "{:?}", task.error);
    assert!(engine.replay(id).await.unwrap().matches);
    let id = engine.submit("wrong", &()).await.unwrap().id();
    let message = undecided(&engine, id, "non_determinism").await;
    assert!(message.contains("no longer decodes"), "{message}");
}

#[tokio::test]
async fn that_a_child_was_refused_is_recorded() {
    let agent = agent_fn("asks", |context: Context, (): ()| async move {
        let refused = context.call::<_, ()>("nobody", &()).await.unwrap_err();
        context.sleep(Duration::from_millis(120)).await; // suspended: it is replayed
        Ok(refused.task_error().code.clone())
    });
    let engine = Orchestrator::builder().agent(agent).start().await.unwrap();
    let id = engine.submit("asks", &()).await.unwrap().id();
    let task = engine.wait(id, LONG).await.unwrap();
    assert_eq!(task.output.as_ref().map(Payload::as_str), Some(r#""agent_not_found""#), "{task:?}");
    let journal = engine.journal(id, 0, 10).await.unwrap();
    assert!(matches!(journal[0].outcome, Outcome::Failed(_)) && journal[0].kind == EntryKind::Child, "{journal:?}");
    assert!(engine.replay(id).await.unwrap().matches);
}

#[tokio::test]
async fn a_journal_that_is_full_at_the_end_is_told() {
    let agent = agent_fn("clock", |context: Context, times: u32| async move {
        for _ in 0..times {
            context.now().await;
        }
        Ok(())
    });
    let engine = Orchestrator::builder().agent(agent).start().await.unwrap();
    let id = engine.submit("clock", &50_001).await.unwrap().id();
    let task = engine.wait(id, Duration::from_secs(60)).await.unwrap();
    assert_eq!(task.error.as_ref().map(|error| error.code.as_str()), Some("journal_full"), "{task:?}");
    let id = engine.submit("clock", &10).await.unwrap().id();
    assert_eq!(engine.wait(id, LONG).await.unwrap().state, TaskState::Completed);
    assert_eq!(engine.journal(id, 0, 100).await.unwrap().len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_without_effects_begin_after_they_are_born() {
    let child = agent_fn("child", |context: Context, n: u32| async move {
        tokio::task::yield_now().await; // not done before it is stored
        context.step("s", || async move { Ok(n) }).await
    });
    let parent = agent_fn("parent", |context: Context, count: u32| async move {
        let branch = |n: u32| move |context: Context| async move { context.call::<_, u32>("child", &n).await };
        context.join_all((0..count).map(branch)).await.into_iter().sum::<Result<u32, AgentError>>()
    });
    let none = |agent: AgentDescriptor| agent.effects(Effects::None);
    let engine =
        Orchestrator::builder().agent(child.describe(none)).agent(parent.describe(none)).start().await.unwrap();
    for _ in 0..20 {
        let id = engine.submit("parent", &20).await.unwrap().id();
        let task = engine.wait(id, LONG).await.unwrap();
        assert_eq!((task.output.as_ref().map(Payload::as_str), task.recoveries), (Some("190"), 0), "{task:?}");
    }
}
