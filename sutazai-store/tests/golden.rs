//! The stored format, as text: a change of it is a change that every file out there meets. `SUTAZAI_BLESS=1` writes it anew.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what it finds by panicking")]
#![cfg(feature = "sqlite")]

use std::{fmt::Write as _, sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, ConnectOptions, Row, sqlite::SqliteConnectOptions};
use sutazai_core::{
    Payload,
    clock::Timestamp,
    engine::{self, Command},
    store::{TaskStore, TaskWrite},
    task::{IdempotencyKey, NodeId, Progress, TaskError, TaskId, TaskRequest},
};
use sutazai_store::SqliteStore;

#[tokio::test]
async fn the_stored_format_is_the_one_that_was_released() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let at = |millis: i64| Timestamp::from_millis(1_796_083_200_000 + millis);
    let mut request = TaskRequest::new("echo", Payload::from_text(r#"{"text": "Grüße"}"#).unwrap())
        .label("team", "a")
        .deadline(at(60_000));
    request.parent_id = Some(TaskId::from_bytes([2; 16]));
    let mut step = engine::create(TaskId::from_bytes([1; 16]), "echo".into(), "1.2.3".into(), request, at(0));
    let node = NodeId::new("node-1");
    step.apply(Command::Claim { node: node.clone() }, at(1)).unwrap();
    step.apply(Command::Report(Progress { fraction: Some(0.25), message: "a quarter".into() }), at(2)).unwrap();
    step.apply(Command::Recover { journal: 0 }, at(3)).unwrap();
    step.apply(Command::Claim { node: node.clone() }, at(4)).unwrap();
    let error = TaskError::new("agent_failed", "not yet");
    step.apply(Command::Fail { error, retry: Some(Duration::from_millis(500)), random: 0 }, at(5)).unwrap();
    let key = IdempotencyKey { tenant: "default".into(), key: "order-1".into(), fingerprint: [3; 32] };
    let events = std::mem::take(&mut step.events);
    let expected = step.task.revision;
    let insert = TaskWrite::Insert { task: Arc::new(step.task.clone()), events, key: Some(key), journal: None };
    store.write(&[insert]).await.unwrap();
    step.apply(Command::Claim { node }, at(600)).unwrap();
    step.apply(Command::Complete { output: Payload::from_text("[1.0]").unwrap() }, at(601)).unwrap();
    store
        .write(&[TaskWrite::Update {
            task: Arc::new(step.task),
            expected,
            events: step.events,
            entries: Vec::new(),
            key: None,
        }])
        .await
        .unwrap();
    store.close().await.unwrap();

    let mut text = String::new();
    let mut file = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    let schema = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE '\\_sqlx%' ESCAPE '\\' AND sql IS NOT NULL ORDER BY type, name";
    for row in sqlx::query(schema).fetch_all(&mut file).await.unwrap() {
        writeln!(text, "{};\n", row.get::<String, _>("sql")).unwrap();
    }
    let pragmas =
        "SELECT application_id, encoding, page_size FROM pragma_application_id, pragma_encoding, pragma_page_size";
    let row = sqlx::query(pragmas).fetch_one(&mut file).await.unwrap();
    let (application, encoding, page): (i64, String, i64) = (row.get(0), row.get(1), row.get(2));
    writeln!(text, "application_id {application}, {encoding}, pages of {page} bytes").unwrap();
    for table in ["meta", "tasks", "task_events", "task_labels", "idempotency_keys"] {
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
