//! The SQLite store against the suite of every task store, and against what only files can suffer.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what it finds by panicking")]
#![cfg(feature = "sqlite")]

mod budget;

use std::{
    future::{Future, poll_fn},
    ops::Deref,
    path::Path,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};
use sutazai_core::{
    ErrorKind, Payload,
    clock::Timestamp,
    conformance,
    engine::{self, ClaimPolicy, Command, QueueRule, Transition},
    store::{
        Account, Amounts, BudgetStore, Claim, Day, Draw, Drawn, Limits, TaskQuery, TaskStore, TaskWrite, WriteOutcome,
    },
    task::{IdempotencyKey, NodeId, Revision, TaskId, TaskRequest},
};
use sutazai_store::{SqliteConfig, SqliteStore, Synchronous};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_millis(1_796_083_200_000);

/// A store with the folder it lives in.
struct Temporary {
    store: SqliteStore,
    folder: TempDir,
}

impl Temporary {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { store: SqliteStore::open(folder.path().join("tasks.db")).await.unwrap(), folder }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("tasks.db")
    }
}

impl Deref for Temporary {
    type Target = SqliteStore;

    fn deref(&self) -> &SqliteStore {
        &self.store
    }
}

sutazai_core::task_store_conformance!(Temporary::new().await);

sutazai_core::budget_conformance!(Temporary::new().await);

/// A connection of somebody else.
async fn stranger(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap()
}

fn created(input: &Payload) -> Transition {
    // Older than the story whatever the date: ids begin with their time, and what is forgotten goes by it.
    let before = uuid::Timestamp::from_unix(uuid::NoContext, NOW.as_millis().unsigned_abs() / 1_000 - 86_400, 0);
    let id = TaskId::from_bytes(uuid::Uuid::new_v7(before).into_bytes());
    engine::create(id, "echo".into(), "1.0.0".into(), TaskRequest::new("echo", input.clone()), NOW)
}

fn insert(step: Transition) -> TaskWrite {
    TaskWrite::Insert { task: Arc::new(step.task), events: step.events, key: None, journal: None }
}

fn finished(mut step: Transition) -> Transition {
    step.apply(Command::Claim { node: NodeId::new("n") }, NOW).unwrap();
    step.apply(Command::Complete { output: Payload::null() }, NOW).unwrap();
    step
}

fn claim(limit: usize) -> Claim {
    let rule = QueueRule { agent: "echo".into(), concurrency: None, rate: None };
    let policy = ClaimPolicy { queues: [("echo@1".into(), rule)].into(), ..ClaimPolicy::default() };
    Claim { node: NodeId::new("n"), policy, now: NOW, limit }
}

#[tokio::test]
async fn what_was_acknowledged_survives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/new/folder/tasks.db");
    conformance::task::acknowledged_writes_survive(async || SqliteStore::open(&path).await.unwrap()).await.unwrap();
    let log = path.with_file_name("tasks.db-wal");
    assert!(std::fs::metadata(log).map_or(0, |log| log.len()) == 0, "a closed store leaves no log behind");
}

#[tokio::test]
async fn it_says_what_survives() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = SqliteConfig::new(folder.path().join("tasks.db"));
    let store = SqliteStore::connect(config.clone()).await.unwrap();
    assert!(store.info().durable);
    drop(store);
    config.synchronous = Synchronous::Normal;
    assert!(!SqliteStore::connect(config).await.unwrap().info().durable, "not the loss of power");
}

async fn refusal(path: &Path) -> sutazai_core::Error {
    match SqliteStore::open(path).await {
        Ok(_) => panic!("{} opens", path.display()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_file_that_needs_a_newer_version_is_refused() {
    let store = Temporary::new().await;
    store.close().await.unwrap();
    let path = store.path();
    let mut file = stranger(&path).await;
    // A newer version was here, and admits this one.
    file.execute("UPDATE meta SET value = 7 WHERE key = 'schema_version'").await.unwrap();
    let admitted = SqliteStore::open(&path).await.unwrap();
    assert_eq!(admitted.write(&[insert(created(&Payload::null()))]).await.unwrap(), [WriteOutcome::Applied]);
    admitted.close().await.unwrap();
    file.execute("UPDATE meta SET value = 7 WHERE key = 'min_reader'").await.unwrap();
    file.close().await.unwrap();
    let error = refusal(&path).await;
    assert_eq!((error.kind(), error.code()), (ErrorKind::Corrupt, "store_version"), "{error:?}");
    assert!(error.to_string().contains("schema 7") && error.to_string().contains("tasks.db"), "{error}");
}

#[tokio::test]
async fn a_schema_that_was_tampered_with_is_refused() {
    let store = Temporary::new().await;
    store.close().await.unwrap();
    let path = store.path();
    let mut file = stranger(&path).await;
    file.execute(
        "UPDATE meta SET value = 0 WHERE key = 'schema_version'; UPDATE _sqlx_migrations SET checksum = x'00'",
    )
    .await
    .unwrap();
    file.close().await.unwrap();
    let error = refusal(&path).await;
    assert_eq!((error.kind(), error.code()), (ErrorKind::Corrupt, "store_version"), "{error:?}");
}

#[tokio::test]
async fn what_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "dear diary ".repeat(1_000)).unwrap();
    let other = folder.path().join("other.db");
    let mut file = stranger(&other).await;
    file.execute("CREATE TABLE tasks (id INTEGER)").await.unwrap();
    file.close().await.unwrap();
    for path in [text, other] {
        let before = std::fs::read(&path).unwrap();
        let error = refusal(&path).await;
        assert_eq!((error.kind(), error.code()), (ErrorKind::Corrupt, "store_damaged"), "{error:?}");
        assert!(!error.is_temporary());
        assert!(std::fs::read(&path).unwrap() == before, "{} was changed", path.display());
    }
}

#[tokio::test]
async fn a_damaged_file_is_no_reason_to_panic() {
    let store = Temporary::new().await;
    let payload = Payload::of(&"x".repeat(10_000)).unwrap();
    let batch: Vec<_> = (0..200).map(|_| insert(created(&payload))).collect();
    store.write(&batch).await.unwrap();
    store.close().await.unwrap();
    let mut bytes = std::fs::read(store.path()).unwrap();
    bytes[4_096..].fill(0xa5);
    std::fs::write(store.path(), bytes).unwrap();
    let error = match SqliteStore::open(store.path()).await {
        Err(error) => error,
        Ok(damaged) => damaged.list(&TaskQuery { limit: 500, ..TaskQuery::default() }).await.err().unwrap(),
    };
    assert_eq!((error.kind(), error.code()), (ErrorKind::Corrupt, "store_damaged"), "{error:?}");
}

#[tokio::test]
async fn a_start_that_was_cut_short_is_no_foreign_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let mut file = stranger(&path).await;
    // The migrator's first statement, as it stood alone in the file after a crash.
    file.execute(
        "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
         installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL, \
         execution_time BIGINT NOT NULL)",
    )
    .await
    .unwrap();
    file.close().await.unwrap();
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(store.write(&[insert(created(&Payload::null()))]).await.unwrap(), [WriteOutcome::Applied]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_open_a_new_file_together() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let mut config = SqliteConfig::new(folder.path().join("tasks.db"));
        config.shared = true;
        let opening: Vec<_> = (0..4).map(|_| tokio::spawn(SqliteStore::connect(config.clone()))).collect();
        for store in opening {
            let store = store.await.unwrap().unwrap();
            assert_eq!(store.write(&[insert(created(&Payload::null()))]).await.unwrap(), [WriteOutcome::Applied]);
        }
    }
}

#[tokio::test]
async fn a_second_store_on_a_file_is_refused() {
    let first = Temporary::new().await;
    let mut shared = SqliteConfig::new(first.path());
    shared.shared = true;
    for config in [SqliteConfig::new(first.path()), shared.clone()] {
        let error = SqliteStore::connect(config).await.err().unwrap();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "store_in_use"), "{error:?}");
        assert!(error.to_string().contains("tasks.db"), "{error}");
    }
    first.close().await.unwrap();
    let second = SqliteStore::connect(shared).await.unwrap();
    assert_eq!(refusal(&first.path()).await.code(), "store_in_use", "shared is shared by all or by none");
    drop(second);
    SqliteStore::open(first.path()).await.unwrap();
}

#[tokio::test]
async fn a_database_in_memory_is_refused() {
    for path in ["", ":memory:", "file::memory:", "file:tasks.db?mode=memory"] {
        let error = refusal(path.as_ref()).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{path}: {error:?}");
    }
}

#[tokio::test]
async fn a_folder_is_not_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("folder");
    std::fs::create_dir(&path).unwrap();
    let error = refusal(&path).await;
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "store_unavailable"), "{error:?}");
}

#[tokio::test]
async fn a_full_disk_is_temporary_and_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = SqliteConfig::new(folder.path().join("tasks.db"));
    config.max_bytes = Some(1 << 20);
    let store = SqliteStore::connect(config).await.unwrap();
    let payload = Payload::of(&"x".repeat(50_000)).unwrap();
    let mut stored = Vec::new();
    let error = loop {
        let write = insert(finished(created(&payload)));
        match store.write(std::slice::from_ref(&write)).await {
            Ok(outcomes) => {
                assert_eq!(outcomes, [WriteOutcome::Applied]);
                stored.push(write.id());
            }
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), error.code()), (ErrorKind::Full, "store_full"), "{error:?}");
    assert!(error.is_temporary() && stored.len() > 5);
    for _ in 0..3 {
        let error = store.write(&[insert(created(&payload))]).await.unwrap_err();
        assert_eq!(error.code(), "store_full", "the same fault again, not one of its own making: {error:?}");
    }
    let found = store.load(&stored).await.unwrap();
    assert!(found.iter().all(Option::is_some), "what was stored stays");
    // Somebody makes room; the same store goes on.
    let mut cleaner = stranger(&folder.path().join("tasks.db")).await;
    cleaner.execute("DELETE FROM tasks").await.unwrap();
    cleaner.close().await.unwrap();
    assert_eq!(store.write(&[insert(created(&payload))]).await.unwrap(), [WriteOutcome::Applied]);
    assert_eq!(store.claim(&claim(10)).await.unwrap().tasks.len(), 1);
    store.close().await.unwrap();
}

/// Polls `future` at most `times` times, then drops it.
async fn abandon<F: Future>(future: F, times: usize) {
    let mut future = std::pin::pin!(future);
    for _ in 0..times {
        if poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await {
            return;
        }
        tokio::time::sleep(Duration::from_micros(30)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_leaves_no_transaction() {
    let store = Temporary::new().await;
    let payload = Payload::of(&"x".repeat(20_000)).unwrap();
    let taken = insert(created(&payload));
    store.write(std::slice::from_ref(&taken)).await.unwrap();
    for round in 0..60 {
        let mut batch: Vec<_> = (0..20).map(|_| insert(created(&payload))).collect();
        if round % 3 == 0 {
            batch.push(taken.clone()); // makes the batch take the long way
        }
        abandon(store.write(&batch), round % 20).await;
        if round % 5 == 0 {
            abandon(store.claim(&claim(5)), round % 7).await;
        }
        let next = insert(created(&payload));
        assert_eq!(store.write(std::slice::from_ref(&next)).await.unwrap(), [WriteOutcome::Applied]);
        let ids: Vec<_> = batch.iter().take(20).map(|write| write.id()).collect();
        let found = store.load(&ids).await.unwrap().into_iter().flatten().count();
        assert!(found == 0 || found == 20, "a batch is stored as a whole or not at all: {found}");
        // Nobody holds the file, so that others can write.
        let mut other = stranger(&store.path()).await;
        other.execute("BEGIN IMMEDIATE; ROLLBACK").await.unwrap();
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn two_stores_on_one_file_share_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = SqliteConfig::new(folder.path().join("tasks.db"));
    config.shared = true;
    let first = SqliteStore::connect(config.clone()).await.unwrap();
    let second = SqliteStore::connect(config).await.unwrap();
    let batch: Vec<_> = (0..100).map(|_| insert(created(&Payload::null()))).collect();
    first.write(&batch).await.unwrap();
    let mut granted = std::collections::BTreeSet::new();
    loop {
        let (claim, other) = (claim(3), Claim { node: NodeId::new("m"), ..claim(4) });
        let (a, b) = tokio::join!(first.claim(&claim), second.claim(&other));
        let tasks: Vec<_> = a.unwrap().tasks.into_iter().chain(b.unwrap().tasks).collect();
        if tasks.is_empty() {
            break;
        }
        assert!(tasks.iter().all(|task| granted.insert(task.id)), "granted twice");
    }
    assert_eq!(granted.len(), 100);
    let key = IdempotencyKey { tenant: "default".into(), key: "k".into(), fingerprint: [1; 32] };
    let keyed = || {
        let step = created(&Payload::null());
        [TaskWrite::Insert { task: Arc::new(step.task), events: step.events, key: Some(key.clone()), journal: None }]
    };
    let (ours, theirs) = (keyed(), keyed());
    let (a, b) = tokio::join!(first.write(&ours), second.write(&theirs));
    let applied = [a.unwrap(), b.unwrap()].iter().filter(|outcomes| **outcomes == [WriteOutcome::Applied]).count();
    assert_eq!(applied, 1, "a key is one task across processes");
}

#[tokio::test]
async fn the_log_moves_into_the_file_while_the_store_is_open() {
    let store = Temporary::new().await;
    let payload = Payload::of(&"x".repeat(1 << 20)).unwrap();
    for _ in 0..100 {
        store.write(&[insert(finished(created(&payload)))]).await.unwrap();
    }
    let size =
        |ending: &str| std::fs::metadata(format!("{}{ending}", store.path().display())).map_or(0, |file| file.len());
    // The upkeep runs beside; a minute is for a machine that is very busy.
    for _ in 0..600 {
        if size("") > 32 << 20 {
            break;
        }
        store.write(&[insert(created(&Payload::null()))]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(size("") > 32 << 20, "the file has {} bytes, the log {}", size(""), size("-wal"));
    store.close().await.unwrap();
    assert_eq!(size("-wal"), 0);
}

#[tokio::test]
async fn keys_are_forgotten_a_day_after_the_end() {
    let store = Temporary::new().await;
    let day = Duration::from_secs(24 * 60 * 60);
    let keyed = |key: &str, done: bool| {
        let mut bytes = [0_u8; 16];
        bytes[..6].copy_from_slice(&NOW.as_millis().to_be_bytes()[2..]);
        bytes[15] = key.as_bytes()[0];
        let request = TaskRequest::new("echo", Payload::null());
        let step = engine::create(TaskId::from_bytes(bytes), "echo".into(), "1.0.0".into(), request, NOW);
        let step = if done { finished(step) } else { step };
        let key = IdempotencyKey { tenant: "default".into(), key: key.into(), fingerprint: [1; 32] };
        TaskWrite::Insert { task: Arc::new(step.task), events: step.events, key: Some(key), journal: None }
    };
    let (ended, living) = (keyed("a", true), keyed("b", false));
    store.write(&[ended.clone(), living.clone()]).await.unwrap();
    assert_eq!(store.forget_keys(NOW.plus(day - Duration::from_millis(1))).await.unwrap(), 0);
    let replayed = store.write(std::slice::from_ref(&ended)).await.unwrap();
    assert!(matches!(replayed[..], [WriteOutcome::Replayed(_)]));
    assert_eq!(store.forget_keys(NOW.plus(day + Duration::from_millis(1))).await.unwrap(), 1);
    assert_eq!(store.write(&[ended]).await.unwrap(), [WriteOutcome::Stale], "the key is free, the task still there");
    let replayed = store.write(&[living]).await.unwrap();
    assert!(matches!(replayed[..], [WriteOutcome::Replayed(_)]), "a task that has not ended keeps its key");
}

#[tokio::test]
async fn many_keys_are_looked_up_and_forgotten() {
    let store = Temporary::new().await;
    let keyed = |number: usize, done: bool| {
        let step = created(&Payload::null());
        let step = if done { finished(step) } else { step };
        let key = IdempotencyKey { tenant: "t".into(), key: format!("k{number}").into(), fingerprint: [1; 32] };
        TaskWrite::Insert { task: Arc::new(step.task), events: step.events, key: Some(key), journal: None }
    };
    // More than one statement takes, and more than one transaction forgets, with the living among them.
    let first: Vec<_> = (0..1_500).map(|number| keyed(number, number % 2 == 0)).collect();
    let outcomes = store.write(&first).await.unwrap();
    assert_eq!(outcomes, vec![WriteOutcome::Applied; 1_500]);
    let again: Vec<_> = (0..1_501).map(|number| keyed(number, false)).collect();
    let outcomes = store.write(&again).await.unwrap();
    for (outcome, first) in outcomes.iter().zip(&first) {
        assert!(matches!(outcome, WriteOutcome::Replayed(task) if task.id == first.id()), "{outcome:?}");
    }
    assert_eq!(outcomes[1_500], WriteOutcome::Applied);
    let later = Timestamp::from_millis(NOW.as_millis() + 2 * 24 * 60 * 60 * 1_000);
    assert_eq!(store.forget_keys(later).await.unwrap(), 750);
    assert_eq!(store.forget_keys(later).await.unwrap(), 0);
}

#[tokio::test]
async fn the_same_write_twice_is_not_two_histories() {
    // After a commit whose outcome got lost, an update may come again, grouped in another way.
    let store = Temporary::new().await;
    let step = created(&Payload::null());
    let before = step.task.revision;
    let mut claimed = Transition { task: step.task.clone(), events: Vec::new() };
    claimed.apply(Command::Claim { node: NodeId::new("n") }, NOW).unwrap();
    let mut done = Transition { task: claimed.task.clone(), events: Vec::new() };
    done.apply(Command::Complete { output: Payload::null() }, NOW).unwrap();
    let update = |step: &Transition, expected: Revision| TaskWrite::Update {
        task: Arc::new(step.task.clone()),
        expected,
        events: step.events.clone(),
        entries: Vec::new(),
        key: None,
    };
    let id = step.task.id;
    let batch = [insert(step), update(&claimed, before), update(&done, claimed.task.revision)];
    store.write(&batch).await.unwrap();
    assert_eq!(store.write(&batch[2..]).await.unwrap(), [WriteOutcome::Stale]);
    assert_eq!(store.write(&batch).await.unwrap(), vec![WriteOutcome::Stale; 3]);
    let numbers: Vec<_> = store.events(id, 0, 100).await.unwrap().iter().map(|event| event.seq).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
}
