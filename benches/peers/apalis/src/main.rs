//! apalis on SQLite with our settings (WAL, `synchronous=FULL`), or on PostgreSQL, pushed to one by one: by 64 callers at once, then by one alone.
//! Prints `{"tasks_per_s", "p50_ms"}`. The argument is the path of the database to make, or the URL of an empty one.

use std::{
    collections::HashMap,
    error::Error,
    future::Future,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use apalis::prelude::*;
use apalis_postgres::{PgPool, PostgresStorage, Pubsub};
use apalis_sqlite::{SqliteConnectOptions, SqlitePool, SqliteStorage};
use futures::StreamExt;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use tokio::sync::oneshot;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const CALLERS: usize = 64;
const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(8);
const ALONE: usize = 300;
const QUEUE: &str = "bench";
/// Covers wake-ups that come before their commit.
const POLL: Duration = Duration::from_millis(20);

/// Who waits for which task. It is answered when the task's code has run, before apalis stores that: to its advantage.
static WAITING: LazyLock<Mutex<HashMap<u64, oneshot::Sender<()>>>> = LazyLock::new(Mutex::default);
static NEXT: AtomicU64 = AtomicU64::new(0);

#[tokio::main]
async fn main() -> Fallible<()> {
    let place = std::env::args().nth(1).ok_or("give the path of the database to make, or the URL of an empty one")?;
    if place.starts_with("postgres") { postgres(&place).await } else { sqlite(&place).await }
}

async fn sqlite(path: &str) -> Fallible<()> {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
    let pool = SqlitePool::connect_with(options).await?;
    // Not `setup`: it would turn `synchronous` off.
    SqliteStorage::migrations().run(&pool).await?;
    pool.close().await;

    // Woken by inserts, which is apalis' quickest way.
    let (pool, inserts) = SqliteStorage::connect_with_callback(path)?;
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&pool).await?;
    assert_eq!(synchronous, 2, "2 is FULL");
    let config = apalis_sqlite::Config::default().queue(QUEUE).batch_size(CALLERS);
    let storage = SqliteStorage::<Value>::new(&pool).with_config(config);
    let strategy = Strategy::new().stream(inserts.ready_chunks(CALLERS)).interval(POLL);
    let worker = WorkerBuilder::new("worker").backend(storage.clone().poll_with_strategy(strategy));
    tokio::spawn(worker.concurrency(CALLERS).build(noop).run());
    measure(storage).await
}

async fn postgres(url: &str) -> Fallible<()> {
    let pool = PgPool::connect(url).await?;
    for setting in ["fsync", "synchronous_commit"] {
        let value: String = sqlx::query_scalar("SELECT current_setting($1)").bind(setting).fetch_one(&pool).await?;
        assert_eq!(value, "on", "{setting}");
    }
    PostgresStorage::setup(&pool).await?;
    let config = apalis_postgres::Config::default().queue(QUEUE).batch_size(CALLERS);
    let storage = PostgresStorage::<Value>::new(&pool).with_config(config);
    // Woken by NOTIFY of each insert.
    let inserts = Pubsub::new(pool.clone(), QUEUE.to_owned());
    let strategy = Strategy::new().stream(inserts.ready_chunks(CALLERS)).interval(POLL);
    let worker = WorkerBuilder::new("worker").backend(storage.clone().poll_with_strategy(strategy));
    tokio::spawn(worker.concurrency(CALLERS).build(noop).run());
    measure(storage).await
}

async fn measure(storage: impl Queue) -> Fallible<()> {
    // Each caller is a task of the runtime, as in our own bench.
    let done = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (mut storage, done, over) = (storage.clone(), Arc::clone(&done), Arc::clone(&over));
        callers.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                submit_and_wait(&mut storage).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        });
    }
    tokio::time::sleep(WARM_UP).await;
    let (before, began) = (done.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(MEASURED).await;
    let tasks_per_s = (done.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller??;
    }

    let mut storage = storage.clone();
    let mut times = Vec::with_capacity(ALONE);
    for _ in 0..ALONE {
        let began = Instant::now();
        submit_and_wait(&mut storage).await?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("{}", json!({ "tasks_per_s": tasks_per_s, "p50_ms": (times[ALONE / 2 - 1] + times[ALONE / 2]) / 2.0 }));
    Ok(())
}

/// 200 bytes of JSON in and out.
async fn noop(input: Value) -> Result<Value, BoxDynError> {
    let number = input["number"].as_u64().ok_or("no number")?;
    if let Some(waiting) = waiting().remove(&number) {
        let _ = waiting.send(());
    }
    Ok(input)
}

/// Where tasks are pushed to.
trait Queue: Clone + Send + 'static {
    fn submit(&mut self, input: Value) -> impl Future<Output = Fallible<()>> + Send;
}

impl Queue for SqliteStorage<Value> {
    async fn submit(&mut self, input: Value) -> Fallible<()> {
        // With 64 callers on one file some are refused as `database is locked`: they try again.
        while let Err(error) = self.push(input.clone()).await {
            if !format!("{error:?}").contains("database is locked") {
                return Err(error.into());
            }
        }
        Ok(())
    }
}

impl Queue for PostgresStorage<Value> {
    async fn submit(&mut self, input: Value) -> Fallible<()> {
        Ok(self.push(input).await?)
    }
}

async fn submit_and_wait(storage: &mut impl Queue) -> Fallible<()> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let (sender, ran) = oneshot::channel();
    waiting().insert(number, sender);
    let input = json!({ "number": number, "text": "x".repeat(174) });
    storage.submit(input).await?;
    Ok(ran.await?)
}

fn waiting() -> std::sync::MutexGuard<'static, HashMap<u64, oneshot::Sender<()>>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}
