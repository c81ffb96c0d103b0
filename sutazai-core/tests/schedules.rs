//! Schedules that cannot fire, and those that could all the while, in virtual time.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{sync::Arc, time::Duration};

use sutazai_core::{
    clock::Timestamp,
    engine::OrchestratorBuilder,
    memory::MemoryTaskStore,
    prelude::*,
    schedule::{CatchUp, MOMENT_LABEL, Overlap, SCHEDULE_LABEL, Schedule, TaskTemplate, Timing},
    store::{Page, Recalled, ScheduleRecord, TaskQuery, TaskStore},
    task::IdempotencyKey,
};

use kit::{BEGINNING, Virtual};

fn agent(name: &'static str) -> impl Agent {
    agent_fn(name, |_context, n: u64| async move { Ok(n) }).describe(|agent| agent.capabilities([format!("to {name}")]))
}

fn after(ms: u64) -> Timestamp {
    BEGINNING.plus(Duration::from_millis(ms))
}

fn moment(ms: u64) -> Timing {
    Timing::At { time: after(ms) }
}

fn task(agent: &str) -> TaskTemplate {
    TaskTemplate::new(agent, Payload::of(&1).unwrap())
}

async fn of(engine: &Orchestrator, schedule: &str) -> Vec<Task> {
    let label = Some((SCHEDULE_LABEL.to_owned(), schedule.to_owned()));
    let Page { items, .. } = engine.tasks(TaskQuery { label, limit: 100, ..TaskQuery::default() }).await.unwrap();
    items
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn engine(name: &'static str, store: &Arc<MemoryTaskStore>, clock: &Arc<Virtual>) -> OrchestratorBuilder {
    Orchestrator::builder().node(name).agent(agent(name)).clock(clock.clone()).shared_store(store.clone())
}

#[tokio::test(start_paused = true)]
async fn a_moment_in_the_past_fires_once_whatever_becomes_of_missed_ones() {
    let clock = Virtual::new();
    let engine = engine("a", &Arc::default(), &clock).start().await.unwrap();
    seconds(100).await;
    for (name, catch_up) in [("last", CatchUp::Last), ("none", CatchUp::None), ("all", CatchUp::All)] {
        let schedule = Schedule { catch_up, ..Schedule::new(name, moment(5_000), task("a")) };
        engine.put_schedule(schedule.clone(), false).await.unwrap();
        seconds(1).await;
        assert_eq!(of(&engine, name).await.len(), 1, "{name}");
        engine.put_schedule(schedule, true).await.unwrap();
        seconds(100).await;
        assert_eq!(of(&engine, name).await.len(), 1, "{name}: the same moment again");
        engine.put_schedule(Schedule::new(name, moment(6_000), task("a")), true).await.unwrap();
        seconds(1).await;
        assert_eq!(of(&engine, name).await.len(), 2, "{name}: another moment");
    }
}

#[tokio::test(start_paused = true)]
async fn schedules_that_others_must_fire_wait_for_them_and_stop_nobody() {
    let clock = Virtual::new();
    let store = Arc::new(MemoryTaskStore::with_clock(clock.clone()).shared());
    let put = async |schedule: Schedule, next: Timestamp| {
        let (created_at, next) = (BEGINNING, Some(next));
        let record = ScheduleRecord { schedule, created_at, paused: false, last: None, next, revision: 0 };
        assert!(store.put_schedule(&record, None, None).await.unwrap());
    };
    for n in 0..250 {
        let mut template = task("b");
        if n % 2 == 0 {
            (template.agent, template.capability) = (None, Some("to b".to_owned()));
        }
        put(Schedule::new(format!("b{n}"), moment(10_000), template), after(10_000)).await;
    }
    put(Schedule::new("a", moment(20_000), task("a")), after(20_000)).await;
    let a = engine("a", &store, &clock).start().await.unwrap();
    seconds(21).await;
    assert_eq!(of(&a, "a").await.len(), 1, "250 that this process cannot fire came before it");
    assert_eq!(of(&a, "b7").await, []);
    let b = engine("b", &store, &clock).start().await.unwrap();
    seconds(1).await;
    for n in 0..250 {
        assert_eq!(of(&b, &format!("b{n}")).await.len(), 1, "{n}");
    }
    seconds(100).await;
    assert_eq!(a.tasks(TaskQuery { limit: 1_000, ..TaskQuery::default() }).await.unwrap().items.len(), 251);
}

#[tokio::test(start_paused = true)]
async fn all_that_nobody_was_there_for_is_made_up_for_whatever_overlaps() {
    for overlap in [Overlap::Skip, Overlap::Queue, Overlap::Cancel] {
        let clock = Virtual::new();
        let store = Arc::new(MemoryTaskStore::with_clock(clock.clone()).shared());
        let schedule = Schedule {
            catch_up: CatchUp::All,
            overlap,
            ..Schedule::new("s", Timing::Every { every_ms: 60_000 }, task("slow"))
        };
        let (created_at, next) = (BEGINNING, Some(after(60_000)));
        let record = ScheduleRecord { schedule, created_at, paused: false, last: None, next, revision: 0 };
        assert!(store.put_schedule(&record, None, None).await.unwrap());
        seconds(330).await;
        let slow = agent_fn("slow", |_context, n: u64| async move {
            seconds(4).await;
            Ok(n)
        });
        let engine =
            Orchestrator::builder().agent(slow).clock(clock.clone()).shared_store(store).start().await.unwrap();
        seconds(45).await;
        let mut fired: Vec<_> = of(&engine, "s").await;
        fired.sort_by_key(|task| task.id);
        let moments: Vec<_> = fired.iter().map(|task| task.labels[MOMENT_LABEL].clone()).collect();
        let expected: Vec<_> = (1..=6).map(|n| after(n * 60_000).to_string()).collect();
        assert_eq!(moments, expected, "{overlap:?}");
        assert!(fired.iter().all(|task| task.state == TaskState::Completed), "{overlap:?}: {fired:?}");
    }
}

#[tokio::test]
async fn only_schedules_set_the_labels_that_overlaps_go_by() {
    let engine = Orchestrator::builder().agent(agent("a")).start().await.unwrap();
    for label in ["schedule", "schedule_at"] {
        let request = TaskRequest::new("a", Payload::of(&1).unwrap()).label(label, "s");
        let refused = engine.submit_request(request).await.unwrap_err();
        assert_eq!((refused.kind(), &*refused.faults()[0].path), (ErrorKind::Invalid, &*format!("/labels/{label}")));
    }
    engine.put_schedule(Schedule::new("s", Timing::Every { every_ms: 60_000 }, task("a")), false).await.unwrap();
    let fired = engine.trigger_schedule("s", None).await.unwrap().task;
    assert_eq!(fired.labels.get(SCHEDULE_LABEL).map(String::as_str), Some("s"));
    let fork = engine.fork(fired.id, 0, None, None).await.unwrap().task;
    assert_eq!(fork.labels.len(), 0, "a fork is nobody's firing: {:?}", fork.labels);
}

#[tokio::test(start_paused = true)]
async fn a_change_under_a_key_is_stored_with_its_answer_or_not_at_all() {
    let clock = Virtual::new();
    let store = Arc::new(MemoryTaskStore::with_clock(clock.clone()));
    let engine = engine("a", &store, &clock).start().await.unwrap();
    let key = |name: &str| IdempotencyKey::new("default", name, "change", &Payload::null()).unwrap();
    let answer = |record: &ScheduleRecord| Payload::of(&(record.revision, record.paused));
    let kept = |revision: u64, paused: bool| Recalled::Answered(Payload::of(&(revision, paused)).unwrap());
    let schedule = |name: &str| Schedule::new(name, Timing::Every { every_ms: 60_000 }, task("a"));

    engine.put_schedule_keyed(schedule("s"), false, Some(key("put")), answer).await.unwrap();
    assert_eq!(store.recall(&key("put")).await.unwrap(), kept(0, false), "nobody but the change has kept it");
    let refused = engine.put_schedule_keyed(schedule("t"), false, Some(key("put")), answer).await.unwrap_err();
    assert_eq!(refused.code(), "idempotency_conflict");
    assert_eq!(store.schedule("t").await.unwrap(), None);
    let refused = engine.pause_schedule_keyed("s", true, Some(key("put")), answer).await.unwrap_err();
    assert_eq!(refused.code(), "idempotency_conflict");
    assert!(!engine.schedule("s").await.unwrap().paused);

    for (name, kept) in [("pause", kept(1, true)), ("once more", kept(1, true))] {
        engine.pause_schedule_keyed("s", true, Some(key(name)), answer).await.unwrap();
        assert_eq!(store.recall(&key(name)).await.unwrap(), kept, "also where nothing changes");
    }
    let wrong = |_: &ScheduleRecord| Err(Error::new(ErrorKind::Internal, "no answer"));
    engine.pause_schedule_keyed("s", false, Some(key("wrong")), wrong).await.unwrap_err();
    assert!(engine.schedule("s").await.unwrap().paused);
    assert_eq!(store.recall(&key("wrong")).await.unwrap(), Recalled::New);
}
