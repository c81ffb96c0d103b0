//! What becomes of the tasks of processes that go silent, in virtual time.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kit::{BEGINNING, Virtual};
use sutazai_core::{
    engine::{self, Command, MAX_RECOVERIES},
    memory::MemoryTaskStore,
    prelude::*,
    store::{NodeRecord, TaskStore, TaskWrite, WriteOutcome},
    task::{EventKind, NodeId, TaskId},
};
use tokio::time::sleep;

const LEASE: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

/// A store that several processes share, under a clock that goes as the test lets it.
struct Place {
    clock: Arc<Virtual>,
    store: Arc<MemoryTaskStore>,
}

impl Place {
    fn new() -> Self {
        let clock = Virtual::new();
        Self { store: Arc::new(MemoryTaskStore::with_clock(clock.clone()).shared()), clock }
    }

    /// A process that joins and is never heard of again.
    async fn silent(&self, name: &str, lease: Duration) -> NodeId {
        let record = NodeRecord {
            id: NodeId::new(format!("{name}/1")),
            name: name.into(),
            role: "all".into(),
            version: "1.0.0".into(),
            address: None,
            started_at: BEGINNING,
            seen_at: BEGINNING,
            lease_until: BEGINNING,
            running: 0,
            dead: false,
        };
        self.store.join(&record, lease).await.unwrap();
        record.id
    }

    /// A process that lives and executes.
    async fn heir(&self, name: &str) -> Orchestrator {
        let echo = agent_fn("echo", |_context, n: u64| async move { Ok(n) });
        let builder = Orchestrator::builder().node(name).agent(echo).clock(self.clock.clone());
        builder.shared_store(self.store.clone()).lease(LEASE).start().await.unwrap()
    }

    /// Stores tasks that `node` executes, each after `cuts` executions that were cut short.
    async fn held(&self, node: &NodeId, numbers: std::ops::Range<u64>, cuts: u32) -> Vec<Task> {
        let mut tasks = Vec::new();
        for number in numbers {
            let request = TaskRequest::new("echo", Payload::of(&number).unwrap());
            let id = TaskId::from_bytes((u128::from(number) + 1).to_be_bytes());
            let mut step = engine::create(id, "echo".into(), "0.1.0".into(), request, BEGINNING);
            for _ in 0..cuts {
                step.apply(Command::Claim { node: node.clone() }, BEGINNING).unwrap();
                step.apply(Command::Recover { journal: 0 }, BEGINNING).unwrap();
            }
            step.apply(Command::Claim { node: node.clone() }, BEGINNING).unwrap();
            let task = Arc::new(step.task.clone());
            let write = TaskWrite::Insert { task, events: step.events, key: None, journal: None };
            assert_eq!(self.store.write(&[write]).await.unwrap(), [WriteOutcome::Applied]);
            tasks.push(step.task);
        }
        tasks
    }

    async fn now(&self, task: &Task) -> Task {
        self.store.load(&[task.id]).await.unwrap().pop().flatten().unwrap()
    }

    async fn listed(&self) -> Vec<NodeId> {
        self.store.nodes().await.unwrap().into_iter().map(|node| node.id).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_process_held_goes_on_elsewhere_once_its_lease_has_lapsed() {
    let place = Place::new();
    let (silent, living) = (place.silent("silent", LEASE).await, place.silent("living", 10 * MINUTE).await);
    let held = place.held(&silent, 0..1, 0).await.remove(0);
    let lives = place.held(&living, 1..2, 0).await.remove(0);
    let strange = place.held(&NodeId::new("stranger/1"), 2..3, 0).await.remove(0);
    let cut_often = place.held(&silent, 3..4, MAX_RECOVERIES - 1).await.remove(0);
    let heir = place.heir("heir").await;

    // Whoever is on no list has no lease that could hold.
    let ended = heir.wait(strange.id, LEASE / 2).await.unwrap();
    assert_eq!((ended.state, ended.recoveries), (TaskState::Completed, 1));
    assert_eq!(place.now(&held).await, held, "its lease holds yet");

    let ended = heir.wait(held.id, MINUTE).await.unwrap();
    assert_eq!((ended.state, ended.attempt, ended.recoveries), (TaskState::Completed, 1, 1), "{ended:?}");
    assert_eq!(ended.output, Some(Payload::of(&0).unwrap()));
    let given_up = heir.wait(cut_often.id, MINUTE).await.unwrap();
    let code = given_up.error.as_ref().map(|error| error.code.as_str());
    assert_eq!((given_up.state, code), (TaskState::Failed, Some("crash_loop")));

    sleep(2 * LEASE).await;
    assert_eq!(place.now(&lives).await, lives, "the lease of this one holds all the while");
    let listed = place.listed().await;
    assert!(
        !listed.contains(&silent) && listed.contains(&living),
        "who holds nothing any more is struck off: {listed:?}"
    );

    // The silent one wakes up and says that it has done its task.
    let late = engine::apply(&held, Command::Complete { output: Payload::null() }, BEGINNING).unwrap();
    let (task, expected) = (Arc::new(late.task), held.revision);
    let write = TaskWrite::Update { task, expected, events: late.events, entries: Vec::new(), key: None };
    assert_eq!(place.store.write(&[write]).await.unwrap(), [WriteOutcome::Stale]);
}

#[tokio::test(start_paused = true)]
async fn each_task_is_taken_over_once_however_many_there_are_and_look_for_them() {
    let place = Place::new();
    let silent = place.silent("silent", LEASE).await;
    let held = place.held(&silent, 0..1_200, 0).await;
    let heirs = [place.heir("a").await, place.heir("b").await, place.heir("c").await];
    for task in &held {
        let ended = heirs[0].wait(task.id, MINUTE).await.unwrap();
        assert_eq!((ended.state, ended.attempt, ended.recoveries), (TaskState::Completed, 1, 1), "{ended:?}");
    }
    let mut recovered = BTreeMap::<TaskId, usize>::new();
    for task in &held {
        let events = place.store.events(task.id, 0, 100).await.unwrap();
        let count = events.iter().filter(|event| matches!(event.kind, EventKind::Recovered { .. })).count();
        recovered.insert(task.id, count);
    }
    assert!(recovered.values().all(|count| *count == 1), "{recovered:?}");
    sleep(2 * LEASE).await;
    assert!(!place.listed().await.contains(&silent));
}

#[tokio::test(start_paused = true)]
async fn of_two_processes_with_one_name_the_later_works_and_the_other_waits_for_its_end() {
    let place = Place::new();
    let first = place.heir("twin").await;
    let second = place.heir("twin").await;
    for _ in 0..10 {
        sleep(LEASE).await;
        let refused = first.ping().await.unwrap_err();
        assert_eq!((refused.code(), refused.kind()), ("node_in_use", ErrorKind::Unavailable));
        second.ping().await.unwrap();
    }
    let nodes = second.nodes().await.unwrap();
    assert_eq!(nodes.iter().filter(|node| !node.dead).count(), 1, "{nodes:?}");
    // What it is asked for, the other does.
    let task = first.submit("echo", &7).await.unwrap();
    assert_eq!(second.wait(task.id(), MINUTE).await.unwrap().state, TaskState::Completed);
}

#[tokio::test(start_paused = true)]
async fn who_had_to_wait_for_the_end_of_another_of_its_name_works_after_it() {
    let place = Place::new();
    let first = place.heir("twin").await;
    place.silent("twin", 4 * LEASE).await;
    sleep(LEASE).await;
    assert_eq!(first.ping().await.unwrap_err().code(), "node_in_use");
    let task = first.submit("echo", &7).await.unwrap();
    sleep(2 * LEASE).await;
    assert_eq!(first.task(task.id()).await.unwrap().state, TaskState::Created, "nobody works");
    assert_eq!(first.wait(task.id(), MINUTE).await.unwrap().state, TaskState::Completed);
    first.ping().await.unwrap();
}
