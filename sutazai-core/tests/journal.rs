//! Journals from the outside, on the memory store: what is recorded is not done again, waiting costs nothing, changed code is noticed.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::TryStreamExt;
use serde_json::{Value, json};
use sutazai_core::{
    engine::{Requeue, Resolution},
    memory::MemoryTaskStore,
    prelude::*,
    task::{EntryKind, Outcome, TaskId},
};

const LONG: Duration = Duration::from_secs(20);

/// How often each thing was done, in order.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<Vec<String>>>);

impl Ledger {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn payload(value: Value) -> Payload {
    Payload::of(&value).unwrap()
}

/// Waits until the task is in this state.
async fn until(engine: &Orchestrator, id: TaskId, state: TaskState) -> Arc<Task> {
    let found = async {
        loop {
            let task = engine.task(id).await.unwrap();
            if task.state == state {
                return task;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, found).await.unwrap()
}

async fn kinds(engine: &Orchestrator, id: TaskId) -> Vec<&'static str> {
    engine.events(id, 0).map_ok(|event| event.kind.name()).try_collect().await.unwrap()
}

#[tokio::test]
async fn a_recorded_step_is_not_done_again_after_its_process_died() {
    let ledger = Ledger::default();
    let (store, first) = (Arc::new(MemoryTaskStore::new()), Arc::new(AtomicU32::new(0)));
    let agent = |ledger: Ledger, first: Arc<AtomicU32>| {
        agent_fn("steps", move |context: Context, count: u32| {
            let (ledger, run) = (ledger.clone(), first.fetch_add(1, Ordering::SeqCst));
            async move {
                let (at, drawn) = (context.now().await, context.random().await);
                let mut sum = 0;
                for n in 0..count {
                    let ledger = &ledger;
                    sum += context
                        .step("add", || async move {
                            ledger.note(format!("{n}"));
                            Ok(n)
                        })
                        .await?;
                    if run == 0 && n == 2 {
                        std::future::pending::<()>().await; // until its process dies
                    }
                }
                Ok(json!([sum, at.as_millis(), drawn]))
            }
        })
    };
    let dead = Orchestrator::builder()
        .agent(agent(ledger.clone(), first.clone()))
        .shared_store(store.clone())
        .start()
        .await
        .unwrap();
    let id = dead.submit("steps", &5).await.unwrap().id();
    while ledger.all().len() < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let before = dead.journal(id, 0, 100).await.unwrap();
    let heir = Orchestrator::builder().agent(agent(ledger.clone(), first)).shared_store(store).start().await.unwrap();
    let task = heir.wait(id, LONG).await.unwrap();
    assert_eq!((task.state, task.attempt, task.recoveries), (TaskState::Completed, 1, 1), "{task:?}");
    assert_eq!(ledger.all(), ["0", "1", "2", "3", "4"]);
    let journal = heir.journal(id, 0, 100).await.unwrap();
    assert_eq!(journal[..before.len()], before, "what was recorded stays");
    assert_eq!(journal.iter().filter(|entry| entry.id.name == "add").count(), 5);
    assert!(journal.iter().map(|entry| entry.index).eq(0..journal.len() as u64));
    let output: Vec<u64> = task.output.as_ref().unwrap().read().unwrap();
    let recorded = |name: &str| {
        let entry = journal.iter().find(|entry| entry.id.name == name).unwrap();
        match &entry.outcome {
            Outcome::Done(value) => value.read::<u64>().unwrap(),
            other => unreachable!("{other:?}"),
        }
    };
    assert_eq!(output, [10, recorded("now"), recorded("random")], "time and chance are recorded too");
    assert!(heir.replay(id).await.unwrap().matches);
    assert_eq!(ledger.all().len(), 5, "a replay does nothing");
}

#[tokio::test]
async fn a_new_attempt_keeps_successes_and_forgets_failures() {
    let ledger = Ledger::default();
    let noted = ledger.clone();
    let agent = agent_fn("twice", move |context: Context, (): ()| {
        let ledger = noted.clone();
        async move {
            let ledger = &ledger;
            context
                .step("good", || async move {
                    ledger.note("good");
                    Ok(())
                })
                .await?;
            let attempt = context.attempt();
            let caught = context
                .step("bad", || async move {
                    ledger.note("bad");
                    if attempt == 1 { Err(AgentError::temporary("flaky", "not yet")) } else { Ok("fine".to_owned()) }
                })
                .await?;
            Ok(caught)
        }
    });
    let engine = Orchestrator::builder().agent(agent).start().await.unwrap();
    let request =
        TaskRequest::new("twice", Payload::null()).retry(RetryPolicy { initial_ms: 1, ..RetryPolicy::default() });
    let id = engine.submit_request(request).await.unwrap().task.id;
    let task = engine.wait(id, LONG).await.unwrap();
    assert_eq!((task.state, task.attempt), (TaskState::Completed, 2), "{task:?}");
    assert_eq!(ledger.all(), ["good", "bad", "bad"]);
}

#[tokio::test]
async fn a_step_s_own_retries_come_before_the_task_s() {
    let tries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tries);
    let agent = agent_fn("stubborn", move |context: Context, (): ()| {
        let tries = Arc::clone(&counted);
        async move {
            let policy = RetryPolicy { max_attempts: 4, initial_ms: 1, max_ms: 2 };
            context
                .step("call", || {
                    let n = tries.fetch_add(1, Ordering::SeqCst);
                    async move { if n < 3 { Err(AgentError::temporary("flaky", "not yet")) } else { Ok(n) } }
                })
                .retry(policy)
                .await
        }
    });
    let engine = Orchestrator::builder().agent(agent).start().await.unwrap();
    let task = engine.submit("stubborn", &()).await.unwrap().result().await.unwrap();
    assert_eq!((task.state, task.attempt, tries.load(Ordering::SeqCst)), (TaskState::Completed, 1, 4));
}

#[tokio::test]
async fn a_waiting_task_holds_nothing_and_is_woken_by_its_signal() {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let agent = agent_fn("approval", move |context: Context, (): ()| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let first: Option<String> = context.wait_for("go", None).await?;
            let second: Option<String> = context.wait_for("go", Some(Duration::from_millis(150))).await?;
            Ok(json!([first, second]))
        }
    });
    let engine = Orchestrator::builder().agent(agent).max_running(1).start().await.unwrap();
    let waiting = engine.submit("approval", &()).await.unwrap().id();
    let early = engine.submit("approval", &()).await.unwrap().id();
    for text in ["a", "b"] {
        engine.signal(early, "go", payload(json!(text)), None).await.unwrap();
    }
    let done = engine.wait(early, LONG).await.unwrap();
    assert_eq!(done.output.as_ref().unwrap().as_str(), r#"["a","b"]"#);
    until(&engine, waiting, TaskState::Waiting).await;
    assert_eq!(engine.running(), 0);
    engine.signal(waiting, "go", payload(json!("c")), None).await.unwrap();
    let done = engine.wait(waiting, LONG).await.unwrap();
    assert_eq!(done.output.as_ref().unwrap().as_str(), r#"["c",null]"#, "the second did not come in time");
    assert_eq!(engine.signal(waiting, "go", Payload::null(), None).await.unwrap_err().code(), "task_finished");
    assert!(runs.load(Ordering::SeqCst) >= 4, "it was dropped and ran again");
    assert!(kinds(&engine, waiting).await.contains(&"task.waiting"));
    assert!(engine.replay(waiting).await.unwrap().matches);
}

#[tokio::test]
async fn a_sleep_survives_its_process() {
    let store = Arc::new(MemoryTaskStore::new());
    let agent = || {
        agent_fn("nap", |context: Context, ms: u64| async move {
            context.sleep(Duration::from_millis(ms)).await;
            Ok(ms)
        })
    };
    let first = Orchestrator::builder().agent(agent()).shared_store(store.clone()).start().await.unwrap();
    let id = first.submit("nap", &400).await.unwrap().id();
    until(&first, id, TaskState::Waiting).await;
    let heir = Orchestrator::builder().agent(agent()).shared_store(store).start().await.unwrap();
    let task = heir.wait(id, LONG).await.unwrap();
    assert_eq!((task.state, task.attempt, task.recoveries), (TaskState::Completed, 1, 0));
    let slept = task.finished_at.unwrap().as_millis() - task.created_at.as_millis();
    assert!(slept >= 400, "{slept} ms");
}

#[tokio::test]
async fn children_are_born_with_their_entry_and_wake_their_parent() {
    let child = agent_fn("double", |context: Context, n: u32| async move {
        context.sleep(Duration::from_millis(120)).await; // longer than its parent stays in memory
        Ok(n * 2)
    });
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let parent = agent_fn("parent", move |context: Context, count: u32| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let branch = |n: u32| move |context: Context| async move { context.call::<_, u32>("double", &n).await };
            let results = context.join_all((0..count).map(branch)).await;
            results.into_iter().sum::<Result<u32, AgentError>>()
        }
    });
    let engine = Orchestrator::builder().agent(child).agent(parent).max_running(4).start().await.unwrap();
    let id = engine.submit("parent", &6).await.unwrap().id();
    let task = engine.wait(id, LONG).await.unwrap();
    assert_eq!((task.state, task.output.as_ref().unwrap().as_str()), (TaskState::Completed, "30"), "{task:?}");
    let journal = engine.journal(id, 0, 100).await.unwrap();
    assert_eq!(journal.len(), 12, "each child is begun and ended once");
    assert!(journal.iter().all(|entry| entry.kind == EntryKind::Child));
    assert!(runs.load(Ordering::SeqCst) >= 2, "the parent was suspended");
    assert!(engine.replay(id).await.unwrap().matches);
}

#[tokio::test]
async fn the_same_branch_wins_whenever_the_code_runs_again() {
    let agent = agent_fn("race", |context: Context, (): ()| async move {
        let slow = |ms: u64| {
            move |context: Context| async move {
                context.sleep(Duration::from_millis(ms)).await;
                ms
            }
        };
        let (place, ms) = context.race([slow(300), slow(90), slow(200)]).await;
        context.sleep(Duration::from_millis(120)).await; // suspended once more: the race is replayed
        Ok(json!([place, ms]))
    });
    let engine = Orchestrator::builder().agent(agent).start().await.unwrap();
    let id = engine.submit("race", &()).await.unwrap().id();
    let task = engine.wait(id, LONG).await.unwrap();
    assert_eq!(task.output.as_ref().unwrap().as_str(), "[1,90]");
    assert!(engine.replay(id).await.unwrap().matches);
}

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
    let before =
        Orchestrator::builder().agent(agent(false, ledger.clone())).shared_store(store.clone()).start().await.unwrap();
    let old = before.submit("patched", &()).await.unwrap().id();
    until(&before, old, TaskState::Waiting).await;
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

#[tokio::test]
async fn ten_thousand_steps_are_each_recorded_once() {
    let agent = agent_fn("many", |context: Context, count: u32| async move {
        for n in 0..count {
            context.step("s", || async move { Ok(n) }).await?;
        }
        context.sleep(Duration::from_millis(120)).await; // suspended: all are replayed
        Ok(count)
    });
    let engine = Orchestrator::builder().agent(agent).start().await.unwrap();
    let id = engine.submit("many", &10_000).await.unwrap().id();
    let task = engine.wait(id, Duration::from_secs(60)).await.unwrap();
    assert_eq!(task.state, TaskState::Completed, "{:?}", task.error);
    let journal = engine.journal(id, 0, 20_000).await.unwrap();
    assert_eq!(journal.iter().filter(|entry| entry.kind == EntryKind::Step).count(), 10_000);
}
