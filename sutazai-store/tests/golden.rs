//! The stored format, as text: a change of it is a change that every file out there meets. `SUTAZAI_BLESS=1` writes it anew.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what it finds by panicking")]
#![cfg(feature = "sqlite")]

#[path = "golden/story.rs"]
mod story;

use std::{fmt::Write as _, path::Path, sync::Arc};

use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use story::{at, json, key, store_a_family, store_a_task, store_budgets, update};
use sutazai_core::{
    engine::{self, ClaimPolicy, Command, QueueRule, Transition},
    store::{Claim, TaskQuery, TaskStore, TaskWrite, WriteOutcome},
    task::{NodeId, Summary, TaskId, TaskRequest, TaskState, Wait},
};
use sutazai_store::SqliteStore;

async fn file(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap()
}

#[tokio::test]
async fn the_stored_format_is_the_one_that_was_released() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let store = SqliteStore::open(&path).await.unwrap();
    store_a_task(&store).await;
    store_a_family(&store).await;
    store_budgets(&store).await;
    store.close().await.unwrap();

    let mut text = String::new();
    let mut file = file(&path).await;
    let schema = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE '\\_sqlx%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND sql IS NOT NULL ORDER BY type, name";
    for row in sqlx::query(schema).fetch_all(&mut file).await.unwrap() {
        writeln!(text, "{};\n", row.get::<String, _>("sql")).unwrap();
    }
    let pragmas =
        "SELECT application_id, encoding, page_size FROM pragma_application_id, pragma_encoding, pragma_page_size";
    let row = sqlx::query(pragmas).fetch_one(&mut file).await.unwrap();
    let (application, encoding, page): (i64, String, i64) = (row.get(0), row.get(1), row.get(2));
    writeln!(text, "application_id {application}, {encoding}, pages of {page} bytes").unwrap();
    let tables = [
        "meta",
        "tasks",
        "task_events",
        "task_labels",
        "idempotency_keys",
        "journal_entries",
        "signals",
        "schedules",
        "deliveries",
        "budgets",
    ];
    for table in tables {
        let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info(?) ORDER BY cid")
            .bind(table)
            .fetch_all(&mut file)
            .await
            .unwrap();
        let quoted: Vec<_> = columns.iter().map(|column| format!("quote({column})")).collect();
        let sql = format!("SELECT {} FROM {table}", quoted.join(", "));
        for row in sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut file).await.unwrap() {
            writeln!(text, "\n{table}").unwrap();
            for (place, column) in columns.iter().enumerate() {
                writeln!(text, "  {column}: {}", row.get::<String, _>(place)).unwrap();
            }
        }
    }
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sqlite.txt");
    if std::env::var_os("SUTAZAI_BLESS").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(golden).unwrap(), "the stored format has changed");
}

/// A file as the first version left it.
async fn first_schema(path: &Path) {
    let mut file = file(path).await;
    let all = sqlx::migrate!("src/task/sqlite/migrations");
    let first: Vec<_> = all.iter().filter(|migration| migration.version == 1).cloned().collect();
    sqlx::migrate::Migrator::with_migrations(first).run_direct(None, &mut file, false).await.unwrap();
    file.execute(include_str!("golden/sqlite-1.sql")).await.unwrap();
}

#[tokio::test]
async fn what_the_first_version_stored_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    first_schema(&path).await;
    SqliteStore::open(&path).await.unwrap().close().await.unwrap();
    let store = SqliteStore::open(&path).await.unwrap();

    let ids = [1, 3, 4, 5, 6].map(|n| TaskId::from_bytes([n; 16]));
    let tasks = store.load(&ids).await.unwrap();
    let mut number = 0;
    for (task, id) in tasks.iter().zip(ids) {
        let task = task.as_ref().unwrap();
        let events = store.events(id, 0, 100).await.unwrap();
        assert_eq!(Summary::of(&events).unwrap(), Summary::from(task), "{id}");
        assert_eq!((task.wakes, task.journal.era, task.detached, task.webhook.as_deref()), (0, 0, false, None));
        number += events.len();
    }
    let feed = store.feed(0, 100).await.unwrap();
    assert_eq!(feed.len(), number);
    assert!(feed.windows(2).all(|pair| pair[0].number < pair[1].number));
    assert_eq!(store.feed(feed[3].number, 2).await.unwrap(), feed[4..6]);

    let old = NodeId::new("node-1");
    assert_eq!(store.lapsed().await.unwrap(), std::slice::from_ref(&old), "its node is none of the list");
    let held = store.held_by(&old, 10).await.unwrap();
    assert_eq!(held.iter().map(|held| (held.task.id, held.journal)).collect::<Vec<_>>(), [(ids[2], 0)]);
    assert_eq!(store.next_due(at(0)).await.unwrap(), Some(at(505)));
    let labelled = TaskQuery { label: Some(("team".into(), "a".into())), limit: 5, ..TaskQuery::default() };
    assert_eq!(store.list(&labelled).await.unwrap().items.len(), 1);
    let dead = TaskQuery { dead_letters: true, limit: 5, ..TaskQuery::default() };
    assert_eq!(store.list(&dead).await.unwrap().items[0].id, ids[4]);

    let first = tasks[0].clone().unwrap();
    let again = engine::create(
        TaskId::from_bytes([99; 16]),
        "echo".into(),
        "1.2.3".into(),
        TaskRequest::new("echo", json("1")),
        at(0),
    );
    let again = TaskWrite::Insert {
        task: Arc::new(again.task),
        events: again.events,
        key: Some(key("order-1", 3)),
        journal: None,
    };
    assert_eq!(store.write(&[again]).await.unwrap(), [WriteOutcome::Replayed(Box::new(first))]);

    let rule = || QueueRule { agent: "echo".into(), concurrency: None, rate: None };
    let queues = [("echo@1".into(), rule()), ("echo@0.3".into(), rule())].into();
    let policy = ClaimPolicy { queues, ..ClaimPolicy::default() };
    let claim = Claim { node: NodeId::new("new/1"), policy, now: at(1_000), limit: 10 };
    let granted = store.claim(&claim).await.unwrap();
    assert_eq!(tasks[3].as_ref().unwrap().wait, Some(Wait::Retry));
    let attempts: Vec<_> = granted.tasks.iter().map(|task| (task.id, task.attempt, task.state)).collect();
    assert_eq!(attempts, [(ids[1], 1, TaskState::Running), (ids[3], 2, TaskState::Running)]);
    let mut letter = Transition { task: tasks[4].clone().unwrap(), events: Vec::new() };
    let requeue = update(
        &mut letter,
        |step| step.apply(Command::Requeue { input: None, deadline: None }, at(2_000)).unwrap(),
        Vec::new(),
    );
    assert_eq!(store.write(&[requeue]).await.unwrap(), [WriteOutcome::Applied]);
    assert_eq!(
        store.claim(&Claim { now: at(3_000), ..claim }).await.unwrap().tasks[0].id,
        ids[4],
        "a dead letter has a queue"
    );
    store.close().await.unwrap();
}
