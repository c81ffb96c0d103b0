//! Changed code, effects that were cut short, dead letters, forks and cassettes.

use super::*;

/// An agent whose second run asks for something else than its first.
fn changing(version: &str, lines: &[&str], step: &'static str, runs: Arc<AtomicU32>) -> impl Agent {
    let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    agent_fn("app", move |context: Context, (): ()| {
        let runs = Arc::clone(&runs);
        async move {
            runs.fetch_add(1, Ordering::SeqCst);
            context.step(step, || async { Ok(1) }).await?;
            context.sleep(Duration::from_millis(200)).await;
            Ok(())
        }
    })
    .describe(|agent| agent.version(version).goes_on_with(lines))
}

#[tokio::test]
async fn code_that_does_not_fit_its_journal_waits_for_a_decision() {
    let (store, runs) = (Arc::new(MemoryTaskStore::new()), Arc::new(AtomicU32::new(0)));
    let start = async |step, version| {
        let agent = changing(version, &[], step, Arc::clone(&runs));
        Orchestrator::builder().agent(agent).shared_store(store.clone()).start().await.unwrap()
    };
    // A process of its own, for it must end before its task wakes.
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let agent = changing("1.0.0", &[], "first", Arc::clone(&runs));
    let first = Orchestrator::builder().agent(agent).shared_store(store.clone());
    let id = process.spawn(async move {
        let old = first.start().await.unwrap();
        let id = old.submit("app", &()).await.unwrap().id();
        until(&old, id, TaskState::Waiting).await;
        id
    });
    let id = id.await.unwrap();
    process.shutdown_background();
    let new = start("other", "1.1.0").await;
    let halted = async {
        loop {
            let task = new.task(id).await.unwrap();
            if let Some(error) = task.error.as_ref() {
                return (task.state, task.attempt, error.clone());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (state, attempt, error) = tokio::time::timeout(LONG, halted).await.unwrap();
    assert_eq!((state, attempt, error.code.as_str()), (TaskState::Waiting, 1, "non_determinism"));
    assert!(
        error.message.contains("\"other\"") && error.message.contains("\"first\"") && error.message.contains("entry 0"),
        "{error}"
    );
    assert!(!new.replay(id).await.unwrap().matches);
    let fixed = start("first", "1.2.0").await;
    fixed.resolve(id, 0, &Resolution::Retry, None).await.unwrap();
    assert_eq!(fixed.wait(id, LONG).await.unwrap().state, TaskState::Completed);
    assert_eq!(fixed.resolve(id, 0, &Resolution::Retry, None).await.unwrap_err().code(), "nothing_to_resolve");
}

#[tokio::test]
async fn a_task_of_another_line_of_versions_is_left_alone() {
    let (store, runs) = (Arc::new(MemoryTaskStore::new()), Arc::new(AtomicU32::new(0)));
    let start = async |version: &str, lines: &[&str], runs_agents: bool| {
        let agent = changing(version, lines, "first", Arc::clone(&runs));
        let builder = Orchestrator::builder().agent(agent).shared_store(store.clone());
        let builder = if runs_agents { builder } else { builder.without_execution() };
        builder.start().await.unwrap()
    };
    let api = start("1.4.0", &[], false).await;
    let id = api.submit("app", &()).await.unwrap().id();
    let other = start("2.0.0", &[], true).await;
    // Tasks of its own line pass by the one that it must not take.
    let own = other.submit("app", &()).await.unwrap().id();
    assert_eq!(other.wait(own, LONG).await.unwrap().state, TaskState::Completed);
    assert_eq!(other.task(id).await.unwrap().state, TaskState::Created);
    let both = start("2.1.0", &["1"], true).await;
    assert_eq!(both.wait(id, LONG).await.unwrap().state, TaskState::Completed);
}

#[tokio::test]
async fn a_patch_holds_for_new_runs_and_old_ones_stay_as_they_were() {
    let ledger = Ledger::default();
    let agent = |patched: bool, ledger: Ledger| {
        agent_fn("patched", move |context: Context, (): ()| {
            let ledger = ledger.clone();
            async move {
                let ledger = &ledger;
                if patched && context.patched("more").await {
                    context
                        .step("new", || async move {
                            ledger.note("new");
                            Ok(())
                        })
                        .await?;
                }
                context
                    .step("old", || async move {
                        ledger.note("old");
                        Ok(())
                    })
                    .await?;
                context.sleep(Duration::from_millis(150)).await;
                Ok(())
            }
        })
    };
    let store = Arc::new(MemoryTaskStore::new());
    // A process of its own, for it must not take the tasks of the other one's code.
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let before = Orchestrator::builder().agent(agent(false, ledger.clone())).shared_store(store.clone());
    let old = process.spawn(async move {
        let before = before.start().await.unwrap();
        let id = before.submit("patched", &()).await.unwrap().id();
        until(&before, id, TaskState::Waiting).await;
        id
    });
    let old = old.await.unwrap();
    process.shutdown_background();
    let after = Orchestrator::builder().agent(agent(true, ledger.clone())).shared_store(store).start().await.unwrap();
    let new = after.submit("patched", &()).await.unwrap().id();
    for id in [old, new] {
        let task = after.wait(id, LONG).await.unwrap();
        assert_eq!(task.state, TaskState::Completed, "{task:?}");
    }
    assert_eq!(ledger.all(), ["old", "new", "old"]);
}

#[tokio::test]
async fn a_destructive_step_that_was_cut_short_waits_for_somebody_who_knows() {
    for (how, expected) in [
        (Resolution::Outcome(payload(json!(7))), (TaskState::Completed, Some("7"), 1)),
        (Resolution::Retry, (TaskState::Completed, Some("1"), 2)),
        (Resolution::Fail("it bounced".into()), (TaskState::Failed, None, 1)),
    ] {
        let (store, shots) = (Arc::new(MemoryTaskStore::new()), Arc::new(AtomicU32::new(0)));
        let start = async || {
            let shots = Arc::clone(&shots);
            let agent = agent_fn("fire", move |context: Context, (): ()| {
                let shots = Arc::clone(&shots);
                async move {
                    let fire = || {
                        let shot = shots.fetch_add(1, Ordering::SeqCst);
                        async move {
                            if shot == 0 {
                                std::future::pending::<()>().await; // until its process dies
                            }
                            Ok(shot)
                        }
                    };
                    context.step("shot", fire).destructive().await
                }
            });
            Orchestrator::builder().agent(agent).shared_store(store.clone()).start().await.unwrap()
        };
        let dead = start().await;
        let id = dead.submit("fire", &()).await.unwrap().id();
        while shots.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let heir = start().await;
        let task = until(&heir, id, TaskState::Waiting).await;
        assert_eq!(task.error.as_ref().map(|error| error.code.as_str()), Some("effect_unknown"));
        assert_eq!(heir.resolve(id, 5, &how, None).await.unwrap_err().code(), "entry_not_found");
        heir.resolve(id, 0, &how, None).await.unwrap();
        let task = heir.wait(id, LONG).await.unwrap();
        let output = task.output.as_ref().map(Payload::as_str);
        assert_eq!((task.state, output, shots.load(Ordering::SeqCst)), expected, "{task:?}");
    }
}

#[tokio::test]
async fn a_task_continues_as_new_with_an_empty_journal() {
    let agent = agent_fn("loop", |context: Context, round: u32| async move {
        for _ in 0..10 {
            context.step("work", || async { Ok(()) }).await?;
        }
        if round < 3 { context.continue_as_new(&(round + 1)).await } else { Ok(round) }
    });
    let engine = Orchestrator::builder().agent(agent).start().await.unwrap();
    let id = engine.submit("loop", &0).await.unwrap().id();
    let task = engine.wait(id, LONG).await.unwrap();
    assert_eq!((task.state, task.output.as_ref().unwrap().as_str(), task.journal.era), (TaskState::Completed, "3", 3));
    assert_eq!(task.input.as_str(), "3");
    assert_eq!(engine.journal(id, 0, 100).await.unwrap().len(), 10);
    assert_eq!(kinds(&engine, id).await.iter().filter(|kind| **kind == "task.continued").count(), 3);
}

#[tokio::test]
async fn a_signal_is_received_once_also_by_a_task_that_continues_as_new() {
    let agent = agent_fn("chat", |context: Context, heard: Vec<String>| async move {
        let said: Option<String> = context.wait_for("say", None).await?;
        let heard: Vec<String> = heard.into_iter().chain(said).collect();
        if heard.len() < 3 { context.continue_as_new(&heard).await } else { Ok(heard) }
    });
    let engine = Orchestrator::builder().agent(agent).start().await.unwrap();
    let id = engine.submit("chat", &Vec::<String>::new()).await.unwrap().id();
    for word in ["a", "b", "c"] {
        engine.signal(id, "say", payload(json!(word)), None).await.unwrap();
    }
    let task = engine.wait(id, LONG).await.unwrap();
    assert_eq!(task.output.as_ref().map(Payload::as_str), Some(r#"["a","b","c"]"#), "{task:?}");
    assert!(engine.replay(id).await.unwrap().matches);
}

#[tokio::test]
async fn a_fork_does_only_what_comes_after() {
    let ledger = Ledger::default();
    let noted = ledger.clone();
    let agent = agent_fn("steps", move |context: Context, input: Value| {
        let ledger = noted.clone();
        async move {
            for n in 0..6 {
                let (ledger, input) = (&ledger, &input);
                context
                    .step("s", || async move {
                        ledger.note(format!("{input}{n}"));
                        Ok(())
                    })
                    .await?;
            }
            Ok(())
        }
    });
    let engine = Orchestrator::builder().agent(agent).start().await.unwrap();
    let id = engine.submit("steps", &"a").await.unwrap().id();
    engine.wait(id, LONG).await.unwrap();
    let fork = engine.fork(id, 4, Some(payload(json!("b"))), None).await.unwrap().task.id;
    assert_eq!(engine.wait(fork, LONG).await.unwrap().state, TaskState::Completed);
    assert_eq!(ledger.all()[6..], ["\"b\"4", "\"b\"5"]);
    assert_eq!(engine.journal(fork, 0, 100).await.unwrap().len(), 6);
    let error = engine.fork(id, 99, None, None).await.unwrap_err();
    assert_eq!((error.kind(), error.faults()[0].path.as_str()), (ErrorKind::Invalid, "/from"));
}

#[tokio::test]
async fn a_dead_letter_comes_back_or_is_discarded() {
    let agent = agent_fn("picky", |context: Context, good: bool| async move {
        let done = context.step("look", || async { Ok(1) }).await?;
        if good { Ok(done) } else { Err(AgentError::permanent("bad", "no good")) }
    });
    let engine = Orchestrator::builder().agent(agent).start().await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = engine.submit("picky", &false).await.unwrap().id();
        assert_eq!(engine.wait(id, LONG).await.unwrap().state, TaskState::Failed);
        ids.push(id);
    }
    let wrong = Requeue { input: Some(payload(json!("x"))), deadline: None };
    assert_eq!(engine.requeue(ids[0], &wrong, None).await.unwrap_err().code(), "invalid_input");
    let better = Requeue { input: Some(payload(json!(true))), deadline: None };
    engine.requeue(ids[0], &better, None).await.unwrap();
    let task = engine.wait(ids[0], LONG).await.unwrap();
    assert_eq!((task.state, task.attempt, task.journal.era), (TaskState::Completed, 1, 1));
    assert_eq!(engine.requeue(ids[0], &better, None).await.unwrap_err().code(), "not_a_dead_letter");
    let history = kinds(&engine, ids[0]).await;
    assert_eq!(history.iter().filter(|kind| **kind == "task.failed").count(), 1);
    assert_eq!(history.last(), Some(&"task.completed"));
    engine.discard(ids[1], None).await.unwrap();
    let left = engine.requeue_all(sutazai_core::store::TaskQuery::default()).await.unwrap();
    assert_eq!(left, 1, "the third alone");
}

#[tokio::test]
async fn a_cassette_replays_in_a_test_of_its_own() {
    let asked = Arc::new(AtomicU32::new(0));
    let agent = |asked: Arc<AtomicU32>, more: bool| {
        agent_fn("ask", move |context: Context, n: u32| {
            let asked = Arc::clone(&asked);
            async move {
                let asked = &asked;
                let mut sum = 0;
                for _ in 0..n {
                    sum += context.step("ask", || async move { Ok(asked.fetch_add(1, Ordering::SeqCst)) }).await?;
                }
                if more {
                    context.step("one more", || async { Ok(()) }).await?;
                }
                Ok(sum)
            }
        })
    };
    let engine = Orchestrator::builder().agent(agent(Arc::clone(&asked), false)).start().await.unwrap();
    let id = engine.submit("ask", &4).await.unwrap().id();
    engine.wait(id, LONG).await.unwrap();
    let file = serde_json::to_string(&engine.record(id).await.unwrap()).unwrap();
    let cassette = sutazai_core::engine::Cassette::from_json(&file).unwrap();
    let other = Orchestrator::builder().agent(agent(Arc::clone(&asked), false)).start().await.unwrap();
    let same = other.replay_cassette(cassette.clone()).await.unwrap();
    assert!(same.matches, "{same:?}");
    let changed = Orchestrator::builder().agent(agent(Arc::clone(&asked), true)).start().await.unwrap();
    let differs = changed.replay_cassette(cassette).await.unwrap();
    assert!(differs.divergence.as_ref().is_some_and(|why| why.contains("one more")), "{differs:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 4, "no replay asked anybody");
}
