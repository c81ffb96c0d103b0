//! Runs over what was recorded: code that passes it by, signals of tasks that begin anew, what a replay finds.

use super::{effects::undecided, *};

/// Lets a task of the first code come to its wait in a process that ends, and goes on with the second code.
async fn changed(first: impl Agent, second: impl Agent, input: Value) -> (Orchestrator, TaskId) {
    let store = Arc::new(MemoryTaskStore::new());
    let name = first.descriptor().name.clone();
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let engine = Orchestrator::builder().agent(first).shared_store(store.clone());
    let id = process.spawn(async move {
        let engine = engine.start().await.unwrap();
        let id = engine.submit(&name, &input).await.unwrap().id();
        until(&engine, id, TaskState::Waiting).await;
        id
    });
    let id = id.await.unwrap();
    process.shutdown_background();
    (Orchestrator::builder().agent(second).shared_store(store).start().await.unwrap(), id)
}

async fn step(context: &Context, name: &'static str) -> Result<(), AgentError> {
    context.step(name, || async { Ok(()) }).await
}

#[tokio::test]
async fn code_that_ends_without_asking_for_what_is_recorded_is_noticed() {
    let agent = |steps: bool| {
        agent_fn("app", move |context: Context, (): ()| async move {
            if steps {
                step(&context, "first").await?;
            }
            context.sleep(Duration::from_millis(150)).await;
            Ok(())
        })
    };
    let (engine, id) = changed(agent(true), agent(false), json!(null)).await;
    let message = undecided(&engine, id, "non_determinism").await;
    assert!(message.contains("ends") && message.contains("entry 0") && message.contains("\"first\""), "{message}");
}

#[tokio::test]
async fn code_that_waits_without_asking_for_what_is_recorded_is_noticed() {
    let agent = |steps: bool| {
        agent_fn("app", move |context: Context, (): ()| async move {
            if steps {
                step(&context, "first").await?;
            }
            let _: Option<Value> = context.wait_for("go", Some(Duration::from_millis(150))).await?;
            let _: Option<Value> = context.wait_for("on", None).await?;
            Ok(())
        })
    };
    // The wait that is recorded is over, and the next one is new: its branch has not caught up.
    let (engine, id) = changed(agent(true), agent(false), json!(null)).await;
    let message = undecided(&engine, id, "non_determinism").await;
    assert!(message.contains("entry 0") && message.contains("\"first\""), "{message}");
    // The recorded wait goes on.
    let agent = |steps: bool| {
        agent_fn("app", move |context: Context, (): ()| async move {
            if steps {
                step(&context, "first").await?;
            }
            let _: Option<Value> = context.wait_for("go", None).await?;
            let _: Option<Value> = context.wait_for("go", None).await?;
            Ok(())
        })
    };
    let (engine, id) = changed(agent(true), agent(false), json!(null)).await;
    engine.signal(id, "no", Payload::null(), None).await.unwrap(); // wakes it, and is not what it waits for
    let message = undecided(&engine, id, "non_determinism").await;
    assert!(message.contains("waits") && message.contains("entry 0"), "{message}");
}

#[tokio::test]
async fn code_that_asks_for_another_signal_is_noticed_although_a_branch_waits() {
    let agent = |name: &'static str| {
        agent_fn("app", move |context: Context, (): ()| async move {
            let branch =
                |name: &'static str| move |context: Context| async move { context.wait_for::<Value>(name, None).await };
            context.join_all([branch("a"), branch(name)]).await;
            Ok(())
        })
    };
    let (engine, id) = changed(agent("b"), agent("c"), json!(null)).await;
    engine.signal(id, "no", Payload::null(), None).await.unwrap();
    let message = undecided(&engine, id, "non_determinism").await;
    assert!(message.contains("\"c\"") && message.contains("\"b\""), "{message}");
}

#[tokio::test]
async fn the_first_answer_of_a_patch_holds_for_all_turns_of_a_loop() {
    let agent = |patched: bool| {
        agent_fn("loop", move |context: Context, (): ()| async move {
            let mut new = 0;
            for _ in 0..4 {
                if patched && context.patched("more").await {
                    step(&context, "new").await?;
                    new += 1;
                }
                step(&context, "old").await?;
                context.sleep(Duration::from_millis(90)).await; // suspended: each turn is replayed
            }
            Ok(new)
        })
    };
    let (engine, id) = changed(agent(false), agent(true), json!(null)).await;
    let task = engine.wait(id, LONG).await.unwrap();
    assert_eq!(task.output.as_ref().map(Payload::as_str), Some("0"), "{task:?}");
    let id = engine.submit("loop", &()).await.unwrap().id();
    let task = engine.wait(id, LONG).await.unwrap();
    assert_eq!(task.output.as_ref().map(Payload::as_str), Some("4"), "{task:?}");
    let journal = engine.journal(id, 0, 100).await.unwrap();
    assert_eq!(journal.iter().filter(|entry| entry.id.name == "patched:more").count(), 1);
}

/// Hears three words, one after the other.
fn listener() -> impl Agent {
    agent_fn("listener", |context: Context, fails: bool| async move {
        let mut heard = Vec::new();
        for _ in 0..3 {
            heard.extend(context.wait_for::<String>("say", None).await?);
            if fails {
                context.wait_for::<Value>("end", None).await?;
                return Err(AgentError::permanent("planned", "by the test"));
            }
        }
        Ok(heard)
    })
}

#[tokio::test]
async fn a_fork_has_signals_of_its_own() {
    let engine = Orchestrator::builder().agent(listener()).start().await.unwrap();
    let id = engine.submit("listener", &false).await.unwrap().id();
    for word in ["a", "b", "c"] {
        engine.signal(id, "say", payload(json!(word)), None).await.unwrap();
    }
    engine.wait(id, LONG).await.unwrap();
    // The journal holds a beginning and a receipt of each.
    let fork = engine.fork(id, 4, None, None).await.unwrap().task.id;
    engine.signal(fork, "say", payload(json!("d")), None).await.unwrap();
    let task = engine.wait(fork, LONG).await.unwrap();
    assert_eq!(task.output.as_ref().map(Payload::as_str), Some(r#"["a","b","d"]"#), "{task:?}");
}

#[tokio::test]
async fn a_dead_letter_with_another_input_does_not_hear_again_what_it_heard() {
    let engine = Orchestrator::builder().agent(listener()).start().await.unwrap();
    let id = engine.submit("listener", &true).await.unwrap().id();
    for word in ["a", "b", "c"] {
        engine.signal(id, "say", payload(json!(word)), None).await.unwrap();
    }
    engine.signal(id, "end", Payload::null(), None).await.unwrap();
    assert_eq!(engine.wait(id, LONG).await.unwrap().state, TaskState::Failed);
    let how = Requeue { input: Some(payload(json!(false))), deadline: None };
    engine.requeue(id, &how, None).await.unwrap();
    until(&engine, id, TaskState::Waiting).await;
    engine.signal(id, "say", payload(json!("d")), None).await.unwrap();
    let task = engine.wait(id, LONG).await.unwrap();
    assert_eq!(task.output.as_ref().map(Payload::as_str), Some(r#"["b","c","d"]"#), "{task:?}");
}

#[tokio::test]
async fn a_replay_says_how_far_the_record_goes() {
    let agent = |more: bool| {
        agent_fn("app", move |context: Context, fails: bool| async move {
            step(&context, "first").await?;
            if more {
                step(&context, "second").await?;
            }
            if fails {
                return Err(AgentError::permanent("planned", "by the test"));
            }
            let _: Option<Value> = context.wait_for("go", None).await?;
            Ok(())
        })
    };
    let old = Orchestrator::builder().agent(agent(false)).start().await.unwrap();
    let new = Orchestrator::builder().agent(agent(true)).start().await.unwrap();
    let waiting = old.submit("app", &false).await.unwrap().id();
    until(&old, waiting, TaskState::Waiting).await;
    let cancelled = old.submit("app", &false).await.unwrap().id();
    until(&old, cancelled, TaskState::Waiting).await;
    old.cancel(cancelled).await.unwrap();
    for id in [waiting, cancelled] {
        let replayed = old.replay(id).await.unwrap();
        assert!(replayed.matches && replayed.beyond.as_ref().unwrap().contains("\"go\""), "{replayed:?}");
        let differs = new.replay_cassette(old.record(id).await.unwrap()).await.unwrap();
        assert!(!differs.matches && differs.divergence.as_ref().unwrap().contains("\"second\""), "{differs:?}");
    }
    let failed = old.submit("app", &true).await.unwrap().id();
    old.wait(failed, LONG).await.unwrap();
    let replayed = old.replay(failed).await.unwrap();
    assert!(replayed.matches && replayed.beyond.is_none() && replayed.error.is_some(), "{replayed:?}");
    let differs = new.replay_cassette(old.record(failed).await.unwrap()).await.unwrap();
    assert!(!differs.matches && differs.divergence.as_ref().unwrap().contains("its journal ends"), "{differs:?}");
}

#[tokio::test]
async fn a_replay_asks_no_model() {
    let agent = agent_fn("asks", |context: Context, asks: bool| async move {
        step(&context, "first").await?;
        if asks {
            let _ = context.embed(&["text".to_owned()]).await;
        }
        Ok(())
    });
    let engine = Orchestrator::builder().agent(agent).start().await.unwrap();
    let id = engine.submit("asks", &true).await.unwrap().id();
    engine.wait(id, LONG).await.unwrap();
    let replayed = engine.replay(id).await.unwrap();
    assert!(replayed.divergence.as_ref().is_some_and(|why| why.contains("a replay asks nobody")), "{replayed:?}");
}
