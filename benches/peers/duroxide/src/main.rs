//! duroxide on SQLite: an orchestration that calls one no-op activity with 200 bytes of JSON, by 64 callers at once, then by one alone.
//! Prints `{"tasks_per_s", "p50_ms"}`. The argument is the path of the database to make.
//!
//! Everything is to its advantage: it keeps its own `synchronous=NORMAL`, so that only checkpoints wait for the disk; its dispatchers look for work as
//! often as they can; both figures are the best that any of several numbers of workers reaches; and a caller goes on when the orchestration's code
//! has ended, before that is stored.

use std::{
    collections::HashMap,
    error::Error,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use duroxide::{
    ActivityContext, Client, OrchestrationContext, OrchestrationRegistry,
    providers::sqlite::SqliteProvider,
    runtime::{Runtime, RuntimeOptions, registry::ActivityRegistry},
};
use serde_json::json;
use tokio::sync::oneshot;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const CALLERS: usize = 64;
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(5);
const ALONE: usize = 200;
/// Workers of either kind; 2 is its default. With many more its writers lock one another out until it gives some tasks up.
const WORKERS: [usize; 3] = [2, 4, 8];
/// How long what is under way may take to end; after it the callers are let go.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who waits for which orchestration.
static WAITING: LazyLock<Mutex<HashMap<String, oneshot::Sender<()>>>> = LazyLock::new(Mutex::default);
static NEXT: AtomicU64 = AtomicU64::new(0);

#[tokio::main]
async fn main() -> Fallible<()> {
    let path = std::env::args().nth(1).ok_or("give the path of the database to make")?;
    let (mut tasks_per_s, mut p50_ms) = (0.0_f64, f64::INFINITY);
    for workers in WORKERS {
        let (rate, time) = measure(&format!("{path}-{workers}"), workers).await?;
        (tasks_per_s, p50_ms) = (tasks_per_s.max(rate), p50_ms.min(time));
    }
    println!("{}", json!({ "tasks_per_s": tasks_per_s, "p50_ms": p50_ms }));
    Ok(())
}

async fn measure(path: &str, workers: usize) -> Fallible<(f64, f64)> {
    std::fs::File::create(path)?;
    let store = Arc::new(SqliteProvider::new(&format!("sqlite:{path}"), None).await?);
    let activities = ActivityRegistry::builder()
        .register("noop", |_: ActivityContext, input: String| async move { Ok(input) })
        .build();
    let orchestrations = OrchestrationRegistry::builder().register("bench", bench).build();
    let options = RuntimeOptions {
        dispatcher_min_poll_interval: Duration::from_millis(1),
        orchestration_concurrency: workers,
        worker_concurrency: workers,
        ..RuntimeOptions::default()
    };
    let runtime = Runtime::start_with_options(store.clone(), activities, orchestrations, options).await;
    let client = Arc::new(Client::new(store));

    let done = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (client, done, over) = (Arc::clone(&client), Arc::clone(&done), Arc::clone(&over));
        callers.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                submit_and_wait(&client).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        });
    }
    tokio::time::sleep(WARM_UP).await;
    let (before, began) = (done.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(MEASURED).await;
    let rate = (done.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    while let Ok(Some(caller)) = tokio::time::timeout(PATIENCE, callers.join_next()).await {
        caller??;
    }
    callers.abort_all();

    let mut times = Vec::with_capacity(ALONE);
    for _ in 0..ALONE {
        let began = Instant::now();
        submit_and_wait(&client).await?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    runtime.shutdown(None).await;
    Ok((rate, (times[ALONE / 2 - 1] + times[ALONE / 2]) / 2.0))
}

/// 200 bytes of JSON in and out, through one activity.
async fn bench(context: OrchestrationContext, input: String) -> Result<String, String> {
    let instance = context.instance_id();
    let output = context.schedule_activity("noop", input).await;
    // Of a failed one the caller hears too: its sender is dropped.
    if let (Some(waiting), Ok(_)) = (waiting().remove(&instance), &output) {
        let _ = waiting.send(());
    }
    output
}

async fn submit_and_wait(client: &Client) -> Fallible<()> {
    let instance = format!("task-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let (sender, ran) = oneshot::channel();
    waiting().insert(instance.clone(), sender);
    let input = json!({ "text": "x".repeat(189) }).to_string();
    client.start_orchestration(instance, "bench", input).await?;
    Ok(ran.await?)
}

fn waiting() -> std::sync::MutexGuard<'static, HashMap<String, oneshot::Sender<()>>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}
