//! What cannot be seen from outside: which index serves a list, who waits for whom, and how the log is bounded.

use std::{sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row, query_with, sqlite::SqliteConnectOptions};
use sutazai_core::{
    Payload,
    clock::Timestamp,
    engine::{self, ClaimPolicy, Command, QueueRule},
    store::{Claim, TaskQuery, TaskStore, TaskWrite, WriteOutcome},
    task::{NodeId, TaskId, TaskRequest, TaskState},
};
use tempfile::TempDir;

use super::{
    SqliteConfig, SqliteStore,
    ahead::{Ahead, FRAME_BYTES},
    claim::{ASKED, HEADS},
    config::PAGE_BYTES,
    list::{listing, states},
    retention::ENDED_PARENTS,
    upkeep::{Bounds, Checkpoint, HARD_PAGES, checkpoint, log},
};

const NOW: Timestamp = Timestamp::from_millis(1_796_083_200_000);

async fn opened() -> (SqliteStore, SqliteConfig, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = SqliteConfig::new(folder.path().join("tasks.db"));
    (SqliteStore::connect(config.clone()).await.unwrap(), config, folder)
}

fn insert(input: &Payload) -> TaskWrite {
    let id = TaskId::from_bytes(uuid::Uuid::now_v7().into_bytes());
    let step = engine::create(id, "echo".into(), "1.0.0".into(), TaskRequest::new("echo", input.clone()), NOW);
    TaskWrite::Insert { task: Arc::new(step.task), events: step.events, key: None, journal: None }
}

fn policy(agents: &[&str]) -> ClaimPolicy {
    let rule = |agent: &&str| {
        (format!("{agent}@1").into(), QueueRule { agent: (*agent).into(), concurrency: None, rate: None })
    };
    ClaimPolicy { queues: agents.iter().map(rule).collect(), ..ClaimPolicy::default() }
}

#[tokio::test]
async fn lists_of_the_live_do_not_walk_the_history() {
    let (_store, config, _folder) = opened().await;
    let mut file = config.reader().connect().await.unwrap();
    let label = Some(("team".to_owned(), "a".to_owned()));
    let of_tenant = || TaskQuery { tenant: Some("t".into()), limit: 5, ..TaskQuery::default() };
    let running = Some(TaskState::Running);
    for (query, index) in [
        (TaskQuery { state: running, ..of_tenant() }, "tasks_state (state=?"),
        (TaskQuery { state: running, label: label.clone(), ..of_tenant() }, "tasks_state (state=?"),
        (TaskQuery { state: running, agent: Some("echo".into()), ..of_tenant() }, "tasks_state (state=?"),
        (TaskQuery { state: running, before: Some(TaskId::from_bytes([7; 16])), ..of_tenant() }, "(state=? AND id<?"),
        (
            TaskQuery { state: running, parent: Some(TaskId::from_bytes([7; 16])), limit: 5, ..TaskQuery::default() },
            "t ",
        ),
        (TaskQuery { label, limit: 5, ..TaskQuery::default() }, "SEARCH l USING PRIMARY KEY (key=? AND value=?"),
        (of_tenant(), "tasks_tenant (tenant=?"),
    ] {
        let (sql, arguments) = listing(&query, states(&query).as_deref()).unwrap();
        let rows = query_with(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")), arguments).fetch_all(&mut file).await;
        let plan: Vec<String> = rows.unwrap().iter().map(|row| row.get("detail")).collect();
        let plan = plan.join("\n");
        assert!(plan.contains(index) && !plan.contains("TEMP B-TREE") && !plan.contains("SCAN"), "{query:?}: {plan}");
    }
}

#[tokio::test]
async fn children_of_ended_tasks_are_found_among_the_living() {
    let (_store, config, _folder) = opened().await;
    let mut file = config.reader().connect().await.unwrap();
    let rows =
        sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {ENDED_PARENTS}"))).fetch_all(&mut file).await.unwrap();
    let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
    assert!(plan.iter().any(|step| step.contains("tasks_dependents")), "{plan:#?}");
    assert!(plan.iter().any(|step| step.contains("tasks_id (id=?)")), "{plan:#?}");
    assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:#?}");
}

#[tokio::test]
async fn claims_step_through_the_index() {
    let (_store, config, _folder) = opened().await;
    let mut file = config.reader().connect().await.unwrap();
    let next = "queue=? AND priority=? AND tenant=? AND (due_at,id)>(?,?) AND due_at<?";
    for (sql, steps) in [
        (
            &*HEADS,
            vec![
                "(queue=?)",
                "(queue=? AND (priority,tenant,due_at,id)>(?,?,?,?))",
                "queue=? AND priority=? AND tenant=? AND due_at<?",
            ],
        ),
        (&*ASKED, vec![next, next]),
    ] {
        let sql = format!("EXPLAIN QUERY PLAN {}", sql.trim_start_matches("BEGIN IMMEDIATE;"));
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut file).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        let found: Vec<_> = plan.iter().filter(|step| step.contains("tasks_runnable")).collect();
        assert_eq!(found.len(), steps.len(), "{plan:#?}");
        assert!(found.iter().zip(steps).all(|(found, step)| found.contains(step)), "{plan:#?}");
        assert!(!plan.iter().any(|step| step.contains("SCAN t") || step.contains("TEMP B-TREE")), "{plan:#?}");
    }
}

#[tokio::test]
async fn slow_lists_leave_the_engine_alone() {
    let (store, config, _folder) = opened().await;
    let write = insert(&Payload::null());
    store.write(std::slice::from_ref(&write)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..config.readers {
        held.push(store.readers.lists.acquire().await.unwrap());
    }
    let id = write.id();
    let patience = Duration::from_secs(20);
    let engine = async {
        assert!(store.load(&[id]).await.unwrap()[0].is_some());
        assert!(store.overdue(NOW, 5).await.unwrap().is_empty());
        assert!(store.held_by(&NodeId::new("n"), 5).await.unwrap().is_empty());
        store.next_due(NOW).await.unwrap();
        store.ping().await.unwrap();
    };
    tokio::time::timeout(patience, engine).await.expect("the engine waits for a list");
}

#[tokio::test]
async fn claims_take_the_best_of_their_agents_in_order() {
    let (store, _config, _folder) = opened().await;
    let task = |agent: &str, priority: u8, due: i64| {
        let id = TaskId::from_bytes(uuid::Uuid::now_v7().into_bytes());
        let step = engine::create(id, agent.into(), "1".into(), TaskRequest::new(agent, Payload::null()), NOW);
        let mut task = step.task;
        task.priority = sutazai_core::task::Priority::new(priority).unwrap();
        task.due_at = Timestamp::from_millis(NOW.as_millis() + due);
        TaskWrite::Insert { task: Arc::new(task), events: step.events, key: None, journal: None }
    };
    let mut random = fastrand::Rng::with_seed(3);
    let agents = ["a", "b", "c", "foreign", "another"];
    let batch: Vec<_> =
        (0..400).map(|_| task(agents[random.usize(..agents.len())], random.u8(..10), random.i64(-50..20))).collect();
    store.write(&batch).await.unwrap();
    let mut expected: Vec<_> = batch
        .iter()
        .filter_map(TaskWrite::image)
        .filter(|task| ["a", "b", "c"].contains(&&*task.agent) && task.due_at <= NOW)
        .map(|task| (std::cmp::Reverse(task.priority), task.due_at, task.id))
        .collect();
    expected.sort_unstable();
    let mut granted = Vec::new();
    for limit in [1, 2, 7, 30, 1_000, 1_000] {
        let claim = Claim { node: NodeId::new("n"), policy: policy(&["c", "a", "b", "idle"]), now: NOW, limit };
        let tasks = store.claim(&claim).await.unwrap().tasks;
        assert!(tasks.len() <= limit);
        granted.extend(tasks.into_iter().map(|task| task.id));
    }
    assert_eq!(granted, expected.into_iter().map(|(.., id)| id).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_commit_that_is_refused_harms_no_later_one() {
    let (store, config, _folder) = opened().await;
    let mut lease = store.writer.lease().await.unwrap();
    let mut left = 2;
    lease.connection().unwrap().lock_handle().await.unwrap().set_commit_hook(move || {
        left -= 1;
        left < 0
    });
    lease.roll_back().await;
    drop(lease);
    let writes = [insert(&Payload::null()), insert(&Payload::null()), insert(&Payload::null())];
    // The hopeful and the careful way of one batch are two commits.
    store.write(&writes[..1]).await.unwrap_err();
    for write in &writes {
        assert_eq!(store.write(std::slice::from_ref(write)).await.unwrap(), [WriteOutcome::Applied]);
    }
    let mut other = config.reader().connect().await.unwrap();
    let found: i64 = sqlx::query_scalar("SELECT count(*) FROM tasks").fetch_one(&mut other).await.unwrap();
    assert_eq!(found, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_starts_again_though_somebody_reads() {
    let (store, config, _folder) = opened().await;
    let payload = Payload::of(&"x".repeat(100_000)).unwrap();
    let bounds = Bounds { soft: 10, hard: 100 };
    let mut connection = None;
    // Long enough for a reader that leaves; none at all for one that stays.
    let [patient, hasty] = [60, 0].map(|seconds| config.checkpointer().busy_timeout(Duration::from_secs(seconds)));
    let mut reader = config.reader().connect().await.unwrap();
    for leaves in [false, true] {
        for _ in 0..10 {
            store.write(&[insert(&payload)]).await.unwrap();
        }
        reader.execute("BEGIN; SELECT count(*) FROM tasks").await.unwrap();
        if leaves {
            let leaving = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                reader.execute("COMMIT").await.unwrap();
            };
            let (done, ()) = tokio::join!(checkpoint(&mut connection, &patient, &store.writer, bounds), leaving);
            assert!(matches!(done, Ok(Checkpoint::Done { .. })), "{done:?}");
        } else {
            let done = checkpoint(&mut connection, &hasty, &store.writer, bounds).await.unwrap();
            assert_eq!(done, Checkpoint::Hindered);
            reader.execute("COMMIT").await.unwrap();
            connection = None;
        }
    }
    // A reader that comes now has the file and no longer the log.
    reader.execute("BEGIN; SELECT count(*) FROM tasks").await.unwrap();
    store.write(&[insert(&Payload::null())]).await.unwrap();
    let pages = log(connection.as_mut().unwrap(), "NOOP").await.unwrap().pages;
    assert!(pages < bounds.hard, "the log has {pages} pages");
    store.close().await.unwrap();
}

#[tokio::test]
async fn room_ahead_of_the_log_is_found_by_commits_and_is_no_part_of_it() {
    let (store, config, folder) = opened().await;
    let log_file = config.log().await.unwrap();
    let mut ahead = Ahead::of(log_file.clone());
    let mut checkpointer = config.checkpointer().connect().await.unwrap();
    let length = || std::fs::metadata(&log_file).unwrap().len();
    for count in 1..=3 {
        let payload = Payload::of(&"x".repeat(1 << 20)).unwrap();
        store.write(&[insert(&payload)]).await.unwrap();
        let pages = log(&mut checkpointer, "NOOP").await.unwrap().pages;
        ahead.keep(&store.writer, pages).await;
        let room = length() - pages * FRAME_BYTES;
        assert!(room > 1 << 21, "there is room for the next, {room} bytes");
        let found = length();
        store.write(&[insert(&payload)]).await.unwrap();
        assert_eq!(length(), found, "a commit lengthens nothing");
        // As a crash leaves it.
        let copy = folder.path().join(format!("copy-{count}.db"));
        for ending in ["", "-wal"] {
            let [from, to] = [&config.path, &copy].map(|path| format!("{}{ending}", path.display()));
            std::fs::copy(from, to).unwrap();
        }
        let mended = SqliteStore::open(&copy).await.unwrap();
        let tasks = mended.list(&TaskQuery { limit: 10, ..TaskQuery::default() }).await.unwrap().items;
        assert_eq!(tasks.len(), 2 * count);
        assert!(tasks.iter().all(|task| task.input == payload));
    }
    ahead.keep(&store.writer, HARD_PAGES).await;
    assert_eq!(length(), HARD_PAGES * PAGE_BYTES, "no longer than the log may be");
}

#[tokio::test]
async fn what_a_crash_left_in_the_middle_of_a_change_is_mended() {
    let (store, config, folder) = opened().await;
    store.write(&[insert(&Payload::of(&"x".repeat(100_000)).unwrap())]).await.unwrap();
    store.close().await.unwrap();
    let options = SqliteConnectOptions::new().filename(&config.path).pragma("cache_size", "1");
    let mut file = options.pragma("journal_mode", "DELETE").connect().await.unwrap();
    file.execute("BEGIN IMMEDIATE; UPDATE tasks SET input = input || 'y', tenant = 'changed'").await.unwrap();
    let copy = folder.path().join("copy.db");
    for ending in ["", "-journal"] {
        let [from, to] = [&config.path, &copy].map(|path| format!("{}{ending}", path.display()));
        std::fs::copy(from, to).unwrap();
    }
    assert!(std::fs::metadata(folder.path().join("copy.db-journal")).unwrap().len() > 0, "the journal is hot");
    let store = SqliteStore::open(&copy).await.unwrap();
    let tasks = store.list(&TaskQuery { limit: 5, ..TaskQuery::default() }).await.unwrap().items;
    assert_eq!((tasks.len(), &*tasks[0].tenant), (1, "default"), "half a change is no change");
    let step = engine::apply(&tasks[0], Command::Claim { node: NodeId::new("n") }, NOW).unwrap();
    let expected = tasks[0].revision;
    let update =
        TaskWrite::Update { task: Arc::new(step.task), expected, events: step.events, entries: Vec::new(), key: None };
    assert_eq!(store.write(&[update]).await.unwrap(), [WriteOutcome::Applied]);
}
