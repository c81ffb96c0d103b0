//! A process that writes is killed at any moment: what it was told is stored is stored, and each batch as a whole.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what it finds by panicking")]
#![cfg(all(feature = "sqlite", unix))]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    process::{Command as Process, Stdio},
    sync::Arc,
};

use sutazai_core::{
    Payload,
    clock::{Clock, SystemClock},
    engine::{self, ClaimPolicy, Command, QueueRule, Transition},
    store::{Claim, TaskQuery, TaskStore, TaskWrite, WriteOutcome},
    task::{NodeId, TaskId, TaskRequest, TaskState},
};
use sutazai_store::SqliteStore;

const FILE: &str = "SUTAZAI_TEST_KILL_FILE";
const BATCH: usize = 8;
const ROUNDS: usize = 8;

fn created(batch: &str) -> Transition {
    let id = TaskId::from_bytes(uuid::Uuid::now_v7().into_bytes());
    let request = TaskRequest::new("echo", Payload::of(&"x".repeat(2_000)).unwrap()).label("batch", batch);
    engine::create(id, "echo".into(), "1.0.0".into(), request, SystemClock.now())
}

#[test]
#[ignore = "is the process that the other test kills"]
fn writer_process() {
    let Ok(path) = std::env::var(FILE) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(path).await.unwrap();
        let mut out = std::io::stdout().lock();
        for number in 0.. {
            let batch = format!("{}-{number}", std::process::id());
            let mut steps: Vec<_> = (0..BATCH).map(|_| created(&batch)).collect();
            for step in steps.iter_mut().skip(BATCH / 2) {
                step.apply(Command::Claim { node: NodeId::new("n") }, SystemClock.now()).unwrap();
                step.apply(Command::Complete { output: Payload::null() }, SystemClock.now()).unwrap();
            }
            let writes: Vec<_> = steps
                .into_iter()
                .map(|step| TaskWrite::Insert {
                    task: Arc::new(step.task),
                    events: step.events,
                    key: None,
                    journal: None,
                })
                .collect();
            let outcomes = store.write(&writes).await.unwrap();
            assert_eq!(outcomes, vec![WriteOutcome::Applied; BATCH]);
            writeln!(out, "batch {batch}").unwrap();
            out.flush().unwrap();
            let rule = QueueRule { agent: "echo".into(), concurrency: None, rate: None };
            let policy = ClaimPolicy { queues: [("echo@1".into(), rule)].into(), ..ClaimPolicy::default() };
            let claim = Claim { node: NodeId::new("n"), policy, now: SystemClock.now(), limit: 2 };
            for task in store.claim(&claim).await.unwrap().tasks {
                writeln!(out, "held {}", task.id).unwrap();
            }
            out.flush().unwrap();
        }
    });
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let (mut batches, mut held) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..ROUNDS {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_process", "--ignored", "--nocapture"])
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = 5 + fastrand::usize(..60) * (round + 1);
        for line in lines.map_while(Result::ok) {
            if let Some((_, batch)) = line.split_once("batch ") {
                batches.insert(batch.to_owned());
            } else if let Some(id) = line.strip_prefix("held ") {
                held.insert(id.parse::<TaskId>().unwrap());
            }
            left = left.saturating_sub(1);
            if left == 0 {
                child.kill().unwrap(); // SIGKILL; lines that are already in the pipe are read all the same
            }
        }
        child.wait().unwrap();
    }
    assert!(batches.len() >= ROUNDS && !held.is_empty());

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(&path).await.unwrap();
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        let mut query = TaskQuery { limit: 200, ..TaskQuery::default() };
        loop {
            let page = store.list(&query).await.unwrap();
            for task in &page.items {
                *found.entry(task.labels["batch"].clone()).or_default() += 1;
                let events = store.events(task.id, 0, 100).await.unwrap();
                let numbers: Vec<_> = events.iter().map(|event| event.seq).collect();
                assert_eq!(numbers, (1..=task.revision.seq).collect::<Vec<_>>(), "a task and its events are one");
            }
            query.before = page.items.last().map(|task| task.id);
            if !page.more {
                break;
            }
        }
        for batch in &batches {
            assert_eq!(found.get(batch), Some(&BATCH), "batch {batch} was acknowledged");
        }
        assert!(found.values().all(|number| *number == BATCH), "no batch is stored in part");
        let ids: Vec<_> = held.into_iter().collect();
        for task in store.load(&ids).await.unwrap() {
            assert_eq!(task.map(|task| task.state), Some(TaskState::Running), "a grant that was told is kept");
        }
        store.close().await.unwrap();
    });
}
