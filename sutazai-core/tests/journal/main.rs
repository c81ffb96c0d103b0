//! Journals from the outside, on the memory store: what is recorded is not done again, waiting costs nothing, changed code is noticed.
#![allow(clippy::unwrap_used, reason = "a test")]

mod changes;
mod effects;
mod rerun;

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
