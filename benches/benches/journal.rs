//! How long does a recorded step take? No-op steps of one task, and of 20 tasks at once; wall time by steps, submit and end included.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use sutazai_benches::{
    cases::wanted,
    disk::{directory, fsync},
    figures::Figure,
    notes::note,
    postgres,
    stats::median,
};
use sutazai_core::{prelude::*, store::TaskStore};
use sutazai_store::{PostgresStore, SqliteStore};

type Fallible<T> = Result<T, Box<dyn Error>>;

const BENCH: &str = "journal";
const STEPS: u64 = 1_000;
/// Steps before the clock runs.
const WARM_UP: u64 = 200;
const TOGETHER: usize = 20;
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() -> Fallible<()> {
    for (case, tasks) in [("sqlite_alone", 1), ("sqlite_20", TOGETHER)] {
        if wanted(case) {
            let disk = directory()?;
            measure(case, SqliteStore::open(disk.path().join("tasks.db")).await?, tasks).await?;
        }
    }
    let cases: Vec<_> =
        [("postgres_alone", 1), ("postgres_20", TOGETHER)].into_iter().filter(|(case, _)| wanted(case)).collect();
    if cases.is_empty() {
        return Ok(());
    }
    match postgres::start().await {
        Ok(server) => {
            for (case, tasks) in cases {
                let database = server.database();
                measure(case, PostgresStore::open(database.url()).await?, tasks).await?;
            }
        }
        Err(reason) => note(BENCH, format_args!("the cases of PostgreSQL are left out: {reason}")),
    }
    Ok(())
}

async fn measure(case: &'static str, store: impl TaskStore, tasks: usize) -> Fallible<()> {
    let disk = directory()?;
    let fsync = fsync(disk.path())?;
    // As in a server: from a worker of the runtime.
    let step = tokio::spawn(step(store, tasks)).await??;
    Figure::new(BENCH, case, step, "ms").against("fsync", Some(fsync)).print();
    Ok(())
}

/// Milliseconds a step: the median of the rounds.
async fn step(store: impl TaskStore, tasks: usize) -> Result<f64> {
    let steps = agent_fn("steps", |context: Context, count: u64| async move {
        for _ in 0..count {
            context.step("noop", || async { Ok::<_, AgentError>(()) }).await?;
        }
        Ok::<_, AgentError>(count)
    });
    let steps = steps.describe(|agent| agent.effects(Effects::Idempotent));
    let engine = Orchestrator::builder().agent(steps).store(store).start().await?;
    run(&engine, tasks, WARM_UP).await?;
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        run(&engine, tasks, STEPS).await?;
        times.push(began.elapsed().as_secs_f64() * 1e3 / (STEPS as f64 * tasks as f64));
    }
    engine.shutdown(Duration::from_secs(10)).await?;
    Ok(median(times))
}

/// Runs that many tasks at once, each of that many steps.
async fn run(engine: &Orchestrator, tasks: usize, steps: u64) -> Result<()> {
    let mut handles = Vec::with_capacity(tasks);
    for _ in 0..tasks {
        handles.push(engine.submit("steps", &steps).await?);
    }
    for handle in handles {
        let task = handle.result().await?;
        assert_eq!(task.state, TaskState::Completed, "{:?}", task.error);
    }
    Ok(())
}
