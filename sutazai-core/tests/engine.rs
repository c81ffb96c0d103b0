//! The engine from the outside, on the memory store.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use sutazai_core::{
    clock::{Clock, SystemClock, Timestamp},
    engine::OrchestratorBuilder,
    memory::MemoryTaskStore,
    prelude::*,
    store::{TaskQuery, TaskStore},
    task::{EventKind, TaskError},
};

fn echo() -> impl Agent {
    agent_fn("echo", |_context, input: Value| async move { Ok(input) }).describe(|agent| agent.effects(Effects::None))
}

fn sleeper() -> impl Agent {
    agent_fn("sleep", |_context, ms: u64| async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok(ms)
    })
}

fn engine() -> OrchestratorBuilder {
    Orchestrator::builder().agent(echo()).agent(sleeper())
}

fn in_ms(ms: u64) -> Timestamp {
    SystemClock.now().plus(Duration::from_millis(ms))
}

async fn kinds(engine: &Orchestrator, task: &Task) -> Vec<&'static str> {
    engine.events(task.id, 0).map_ok(|event| event.kind.name()).try_collect().await.unwrap()
}

#[tokio::test]
async fn a_task_comes_back_with_its_output_and_its_whole_history() {
    let engine = engine().start().await.unwrap();
    let output: Value = engine.submit("echo", &json!({"x": [1, "ü", null]})).await.unwrap().output().await.unwrap();
    assert_eq!(output, json!({"x": [1, "ü", null]}));
    let task = engine.submit("sleep", &5).await.unwrap().result().await.unwrap();
    assert_eq!((task.state, task.attempt), (TaskState::Completed, 1));
    assert_eq!(kinds(&engine, &task).await, ["task.created", "task.assigned", "task.running", "task.completed"]);
    let rest: Vec<_> = engine.events(task.id, 2).map_ok(|event| event.seq).try_collect().await.unwrap();
    assert_eq!(rest, [3, 4]);
    let stored = engine.task(task.id).await.unwrap();
    assert_eq!(stored, task);
}

#[tokio::test]
async fn requests_that_cannot_work_are_refused_with_the_fields() {
    let engine = engine().start().await.unwrap();
    let refused = engine.submit("nobody", &1).await.map(|_| ()).unwrap_err();
    assert_eq!((refused.code(), refused.faults()[0].path.as_str()), ("agent_not_found", "/agent"));
    let refused = engine.submit("sleep", &json!({"ms": 1})).await.map(|_| ()).unwrap_err();
    assert_eq!((refused.code(), refused.faults()[0].path.as_str()), ("invalid_input", "/input"));
    let request = TaskRequest::new("echo", Payload::null()).idempotency_key("ü");
    let refused = engine.submit_request(request).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.faults()[0].path, "/idempotency_key");
    let request = TaskRequest::to(sutazai_core::task::Target::Capability("fly".into()), Payload::null());
    assert_eq!(engine.submit_request(request).await.unwrap_err().code(), "capability_not_found");
}

#[tokio::test]
async fn temporary_errors_are_retried_and_permanent_ones_are_not() {
    let flaky = agent_fn("flaky", |context: Context, (times, temporary): (u32, bool)| async move {
        match (context.attempt() <= times, temporary) {
            (false, _) => Ok(context.attempt()),
            (true, true) => Err(AgentError::temporary("later", "not yet")),
            (true, false) => Err(AgentError::permanent("never", "broken")),
        }
    });
    let engine = engine().agent(flaky).start().await.unwrap();
    let retry = RetryPolicy { max_attempts: 3, initial_ms: 5, max_ms: 20 };
    let run = async |times: u32, temporary: bool| {
        let request = TaskRequest::new("flaky", Payload::of(&(times, temporary)).unwrap()).retry(retry);
        let id = engine.submit_request(request).await.unwrap().task.id;
        engine.wait(id, Duration::from_secs(10)).await.unwrap()
    };
    let task = run(2, true).await;
    assert_eq!((task.state, task.attempt, task.error.clone()), (TaskState::Completed, 3, None));
    assert_eq!(kinds(&engine, &task).await.iter().filter(|kind| **kind == "task.retrying").count(), 2);
    let task = run(9, true).await;
    assert_eq!((task.state, task.attempt), (TaskState::Failed, 3));
    let task = run(9, false).await;
    assert_eq!((task.state, task.attempt), (TaskState::Failed, 1));
    assert_eq!(task.error, Some(TaskError::new("never", "broken")));
}

#[tokio::test]
async fn a_deadline_ends_running_and_queued_tasks() {
    let engine = engine().max_running(1).start().await.unwrap();
    let late = |ms| TaskRequest::new("sleep", Payload::of(&60_000).unwrap()).deadline(in_ms(ms));
    let running = engine.submit_request(late(60)).await.unwrap().task.id;
    let queued = engine.submit_request(late(30)).await.unwrap().task.id;
    for id in [running, queued] {
        let task = engine.wait(id, Duration::from_secs(10)).await.unwrap();
        assert_eq!(task.error.as_ref().map(|error| error.code.as_str()), Some("deadline_exceeded"));
    }
}

#[tokio::test]
async fn cancel_reaches_the_agent_and_its_children_and_is_final() {
    let dropped = Arc::new(AtomicU32::new(0));
    struct Guard(Arc<AtomicU32>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let counter = Arc::clone(&dropped);
    let forever = agent_fn("forever", move |_context, (): ()| {
        let guard = Guard(Arc::clone(&counter));
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok(())
        }
    });
    let parent =
        agent_fn("parent", |context: Context, (): ()| async move { context.call::<(), ()>("forever", &()).await });
    let engine = engine().agent(forever).agent(parent).max_running(1).start().await.unwrap();
    let handle = engine.submit("parent", &()).await.unwrap();
    while engine
        .tasks(sutazai_core::store::TaskQuery { limit: 9, ..Default::default() })
        .await
        .unwrap()
        .items
        .iter()
        .filter(|task| task.state == TaskState::Running)
        .count()
        < 2
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(handle.cancel().await.unwrap().state, TaskState::Cancelled);
    assert_eq!(engine.cancel(handle.id()).await.unwrap_err().code(), "task_finished");
    for task in engine.tasks(sutazai_core::store::TaskQuery { limit: 9, ..Default::default() }).await.unwrap().items {
        assert_eq!(task.state, TaskState::Cancelled);
    }
    while dropped.load(Ordering::SeqCst) == 0 || engine.running() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(engine.submit("echo", &1).await.unwrap().output::<u32>().await.unwrap(), 1, "the slot is free again");
}

#[tokio::test]
async fn agents_call_agents_without_holding_a_slot() {
    let factorial = agent_fn("factorial", |context: Context, n: u64| async move {
        if n < 2 {
            return Ok(1);
        }
        let below: u64 = context.call("factorial", &(n - 1)).await?;
        Ok(n * below)
    });
    let engine = Orchestrator::builder().agent(factorial).max_running(1).start().await.unwrap();
    assert_eq!(engine.submit("factorial", &10).await.unwrap().output::<u64>().await.unwrap(), 3_628_800);
}

#[tokio::test]
async fn urgent_tasks_overtake_queued_ones() {
    let engine = engine().max_running(1).start().await.unwrap();
    let busy = engine.submit("sleep", &60_000).await.unwrap();
    let submit = async |priority| {
        let request = TaskRequest::new("sleep", Payload::of(&1).unwrap()).priority(Priority::new(priority).unwrap());
        engine.submit_request(request).await.unwrap().task.id
    };
    let mut low = Vec::new();
    for _ in 0..5 {
        low.push(submit(1).await);
    }
    let high = submit(9).await;
    busy.cancel().await.unwrap();
    let first = engine.wait(high, Duration::from_secs(10)).await.unwrap();
    for id in low {
        let task = engine.wait(id, Duration::from_secs(10)).await.unwrap();
        assert!(task.started_at >= first.finished_at, "{task:?}");
    }
}

#[tokio::test]
async fn a_repeated_key_gives_the_first_task() {
    let engine = engine().start().await.unwrap();
    let request = |n: u32| TaskRequest::new("echo", Payload::of(&n).unwrap()).idempotency_key("k");
    let racing = (0..100).map(|_| engine.submit_request(request(1)));
    let all = futures_util::future::try_join_all(racing).await.unwrap();
    assert!(all.iter().all(|one| one.task.id == all[0].task.id));
    assert_eq!(all.iter().filter(|one| !one.replayed).count(), 1);
    assert_eq!(engine.submit_request(request(2)).await.unwrap_err().code(), "idempotency_conflict");
}

#[tokio::test]
async fn a_batch_is_answered_one_by_one() {
    let engine = engine().max_running(3).start().await.unwrap();
    let requests = (0..1_000)
        .map(|n| match n % 10 {
            9 => TaskRequest::new("nobody", Payload::null()),
            even if even % 2 == 0 => TaskRequest::new("echo", Payload::of(&n).unwrap()),
            _ => TaskRequest::new("sleep", Payload::of(&1).unwrap()),
        })
        .collect();
    let answers = engine.submit_batch(requests).await;
    assert_eq!(answers.len(), 1_000);
    for (n, answer) in answers.iter().enumerate() {
        match answer {
            Ok(submitted) if n % 2 == 0 => {
                let task = engine.wait(submitted.task.id, Duration::from_secs(30)).await.unwrap();
                assert_eq!(task.output.as_ref().unwrap().as_str(), n.to_string());
            }
            Ok(_) => assert!(n % 10 != 9),
            Err(error) => assert_eq!((n % 10, error.code()), (9, "agent_not_found")),
        }
    }
}

#[tokio::test]
async fn progress_is_seen_and_kept() {
    let worker = agent_fn("worker", |context: Context, (): ()| async move {
        for step in 0..=4 {
            context.progress(Some(f64::from(step) / 4.0), format!("step {step}"));
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
        Ok(())
    });
    let engine = engine().agent(worker).start().await.unwrap();
    let handle = engine.submit("worker", &()).await.unwrap();
    let events: Vec<_> = handle.events().try_collect().await.unwrap();
    let reports = events.iter().filter(|event| matches!(event.kind, EventKind::Progress(_))).count();
    assert!((2..=5).contains(&reports), "{events:?}");
    let task = handle.result().await.unwrap();
    assert_eq!(task.progress.as_ref().map(|progress| progress.message.as_str()), Some("step 4"));
}

#[tokio::test]
async fn a_panic_is_an_error_of_the_task() {
    let bad = agent_fn("bad", |_context, n: u32| async move {
        if n > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(n > 9, "number {n} is bad");
        Ok(())
    });
    let engine = engine().agent(bad).start().await.unwrap();
    for n in [0, 1] {
        let request = TaskRequest::new("bad", Payload::of(&n).unwrap()).retry(RetryPolicy::NEVER);
        let id = engine.submit_request(request).await.unwrap().task.id;
        let task = engine.wait(id, Duration::from_secs(10)).await.unwrap();
        let error = task.error.clone().unwrap();
        assert_eq!(
            (error.code.as_str(), error.message.contains(&format!("number {n} is bad"))),
            ("agent_panicked", true)
        );
    }
}

#[tokio::test]
async fn a_shutdown_drains_and_gives_the_rest_back() {
    let store = Arc::new(MemoryTaskStore::new());
    let engine = engine().shared_store(store).start().await.unwrap();
    let quick = engine.submit("sleep", &50).await.unwrap();
    let slow = engine.submit("sleep", &60_000).await.unwrap();
    let mut events = Box::pin(slow.events());
    let drained = engine.shutdown(Duration::from_millis(400)).await.unwrap();
    assert_eq!((drained.finished, drained.released), (1, 1));
    assert_eq!(quick.result().await.unwrap().state, TaskState::Completed);
    assert_eq!(engine.submit("echo", &1).await.map(|_| ()).unwrap_err().code(), "shutting_down");
    let closed = events.next().await.unwrap().unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Unavailable, "a stream ends with the reason instead of hanging");
}

#[tokio::test]
async fn what_comes_last_finds_nothing_running_and_the_store_open() {
    let store = Arc::new(MemoryTaskStore::new());
    let (tell, told) = tokio::sync::oneshot::channel();
    let last = {
        let store = Arc::clone(&store);
        async move {
            let running = TaskQuery { state: Some(TaskState::Running), limit: 9, ..TaskQuery::default() };
            tell.send(store.list(&running).await.map(|found| found.items.len())).unwrap();
        }
    };
    let engine = engine().shared_store(store.clone()).at_the_end(last).start().await.unwrap();
    engine.submit("sleep", &60_000).await.unwrap();
    engine.shutdown(Duration::from_millis(400)).await.unwrap();
    assert_eq!(told.await.unwrap().unwrap(), 0);
    assert!(store.ping().await.is_err(), "it is closed then");
}

#[tokio::test]
async fn what_a_dead_process_was_running_runs_again() {
    let store = Arc::new(MemoryTaskStore::new());
    let dead = engine().shared_store(store.clone()).start().await.unwrap();
    let id = dead.submit("sleep", &200).await.unwrap().id();
    // Its process "dies": nothing of it ever writes again, and its successor has the same name.
    let heir = engine().shared_store(store).start().await.unwrap();
    let task = heir.wait(id, Duration::from_secs(10)).await.unwrap();
    assert_eq!((task.state, task.attempt, task.recoveries), (TaskState::Completed, 1, 1));
    let kinds = kinds(&heir, &task).await;
    assert_eq!(kinds.iter().filter(|kind| **kind == "task.completed").count(), 1, "{kinds:?}");
}

#[tokio::test]
async fn a_task_past_its_deadline_never_runs() {
    let engine = engine().start().await.unwrap();
    for agent in ["echo", "sleep"] {
        let request = TaskRequest::new(agent, Payload::of(&1).unwrap()).deadline(Timestamp::from_millis(1));
        let id = engine.submit_request(request).await.unwrap().task.id;
        let task = engine.wait(id, Duration::from_secs(10)).await.unwrap();
        assert_eq!(task.error.as_ref().map(|error| error.code.as_str()), Some("deadline_exceeded"), "{task:?}");
        assert_eq!(task.output, None);
    }
}

#[tokio::test]
async fn a_shutdown_wakes_whoever_waits_and_spends_no_attempt() {
    let store = Arc::new(MemoryTaskStore::new());
    // It calls while the engine drains: that must not count as its failure.
    let late = agent_fn("late", |context: Context, (): ()| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        context.call::<_, u64>("sleep", &1).await
    });
    let first = engine().agent(late).shared_store(store.clone()).max_running(1).start().await.unwrap();
    let request = TaskRequest::new("late", Payload::null()).retry(RetryPolicy::NEVER);
    let late = first.submit_request(request).await.unwrap().task.id;
    let queued = first.submit("sleep", &60_000).await.unwrap();
    let waiting = tokio::spawn(queued.result());
    let drained = first.shutdown(Duration::from_secs(20)).await.unwrap();
    assert_eq!((drained.finished, drained.released), (0, 1));
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), "shutting_down");
    drop(store);
    assert_eq!(first.task(late).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn an_acknowledged_child_is_found_again_whatever_its_input() {
    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    let child = agent_fn("child", move |_context, _input: u32| {
        counter.fetch_add(1, Ordering::SeqCst);
        async { Ok("once") }
    });
    let runs = Arc::new(AtomicU32::new(0));
    let parent = agent_fn("parent", move |context: Context, (): ()| {
        let run = runs.fetch_add(1, Ordering::SeqCst);
        async move {
            let answer: String = context.call("child", &run).await?;
            if run == 0 {
                std::future::pending::<()>().await; // until its process dies
            }
            Ok(answer)
        }
    });
    let (child, parent): (Arc<dyn Agent>, Arc<dyn Agent>) = (Arc::new(child), Arc::new(parent));
    let store = Arc::new(MemoryTaskStore::new());
    let start = async || {
        let agents = [Arc::clone(&child), Arc::clone(&parent)];
        Orchestrator::builder().agents(agents).shared_store(store.clone()).start().await.unwrap()
    };
    let dead = start().await;
    let id = dead.submit("parent", &()).await.unwrap().id();
    while calls.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let heir = start().await;
    let task = heir.wait(id, Duration::from_secs(10)).await.unwrap();
    assert_eq!(task.output.as_ref().map(Payload::as_str), Some("\"once\""), "{task:?}");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn branches_that_wait_hold_no_slot() {
    let leaf = agent_fn("leaf", |_context, ms: u64| async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok(ms)
    });
    let pipelines = agent_fn("pipelines", |context: Context, (): ()| async move {
        let pipeline = async |first: u64, second: u64| -> Result<u64, AgentError> {
            let a: u64 = context.call("leaf", &first).await?;
            let b: u64 = context.call("leaf", &second).await?;
            Ok(a + b)
        };
        let (a, b, c) = tokio::try_join!(pipeline(1, 7), pipeline(3, 2), pipeline(2, 4))?;
        Ok(a + b + c)
    });
    let engine = Orchestrator::builder().agent(leaf).agent(pipelines).max_running(1).start().await.unwrap();
    for _ in 0..20 {
        assert_eq!(engine.submit("pipelines", &()).await.unwrap().output::<u64>().await.unwrap(), 19);
    }
}

#[tokio::test]
async fn children_do_not_outlive_their_parent() {
    let parent = agent_fn("parent", |context: Context, (): ()| async move {
        if context.attempt() == 1 {
            context.spawn::<_, u64>("sleep", &60_000).await?;
            return Err(AgentError::temporary("later", "not yet"));
        }
        Ok(())
    });
    let engine = engine().agent(parent).start().await.unwrap();
    let task = engine.submit("parent", &()).await.unwrap().result().await.unwrap();
    assert_eq!((task.state, task.attempt), (TaskState::Completed, 2));
    let query = sutazai_core::store::TaskQuery { parent: Some(task.id), limit: 9, ..Default::default() };
    let children = engine.tasks(query).await.unwrap().items;
    assert_eq!(children.iter().map(|child| child.state).collect::<Vec<_>>(), [TaskState::Cancelled]);
}

#[tokio::test]
async fn a_failure_tells_its_code_and_a_cancel_is_no_failure() {
    let bad = agent_fn("bad", |_context, temporary: bool| async move {
        let error = if temporary { AgentError::temporary } else { AgentError::permanent };
        Err::<(), _>(error("broken", "it is broken").retry_after(Duration::MAX))
    });
    let engine = engine().agent(bad).start().await.unwrap();
    let error = engine.submit("bad", &false).await.unwrap().output::<()>().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Failed, "task_failed"));
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<TaskError>());
    assert_eq!(cause.map(|cause| cause.code.as_str()), Some("broken"));

    let handle = engine.submit("bad", &true).await.unwrap();
    while engine.task(handle.id()).await.unwrap().state != TaskState::Waiting {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waiting = engine.task(handle.id()).await.unwrap();
    assert!(in_ms(31 * 24 * 3_600_000) > waiting.due_at, "no delay is beyond 30 days: {}", waiting.due_at);
    let cancelled = handle.cancel().await.unwrap();
    assert_eq!((cancelled.state, &cancelled.error), (TaskState::Cancelled, &None));
    assert_eq!(handle.output::<()>().await.unwrap_err().code(), "task_cancelled");
}

#[tokio::test]
async fn a_panicking_observer_breaks_nothing() {
    struct Bad;
    impl sutazai_core::engine::Observer for Bad {
        fn task_changed(&self, _task: &Task, _events: &[sutazai_core::task::Event]) {
            panic!("on purpose");
        }
    }
    let engine = engine().observer(Arc::new(Bad)).start().await.unwrap();
    for n in 0..3 {
        assert_eq!(engine.submit("echo", &n).await.unwrap().output::<u32>().await.unwrap(), n);
    }
    engine.ping().await.unwrap();
}

#[tokio::test]
async fn what_an_agent_returns_and_says_is_bounded() {
    let big = agent_fn("big", |context: Context, fails: bool| async move {
        context.progress(None, "ü".repeat(5_000));
        let text = "ü".repeat(9 << 20);
        if fails { Err(AgentError::permanent("wordy", text)) } else { Ok(text) }
    });
    let engine = engine().agent(big).start().await.unwrap();
    let task = engine.submit("big", &false).await.unwrap().result().await.unwrap();
    assert_eq!(task.error.as_ref().map(|error| error.code.as_str()), Some("output_too_large"));
    assert!(task.progress.as_ref().is_some_and(|progress| (1_000..=1_024).contains(&progress.message.len())));
    let task = engine.submit("big", &true).await.unwrap().result().await.unwrap();
    assert!(task.error.as_ref().is_some_and(|error| error.message.len() <= 16 << 10 && error.message.ends_with('…')));
}
