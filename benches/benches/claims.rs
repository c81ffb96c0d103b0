//! Does a claim stay as quick while history grows? One task is runnable, and so many that have ended lie around it.
//!
//! The history is built once and grows from case to case. Rows are written through the store, with all their events, as the engine would.

use std::{error::Error, fs, path::Path, sync::Arc, time::Instant};

use sutazai_benches::{
    cases::wanted,
    disk::{self, directory},
    figures::Figure,
    notes::note,
    postgres,
    stats::median,
    tasks::{BATCH, Maker, apply_all, insert, now, unexpected},
};
use sutazai_core::{
    Result,
    clock::Timestamp,
    engine::{ClaimPolicy, Command, QueueRule, apply},
    store::{Claim, TaskStore, TaskWrite},
    task::{DEFAULT_TENANT, NodeId},
};
use sutazai_store::{PostgresStore, SqliteStore};

type Fallible<T> = std::result::Result<T, Box<dyn Error>>;

const BENCH: &str = "claims";
const SQLITE: Cases = [("sqlite_1k", 1_000), ("sqlite_100k", 100_000), ("sqlite_10m", 10_000_000)];
const POSTGRES: Cases = [("postgres_1k", 1_000), ("postgres_100k", 100_000), ("postgres_10m", 10_000_000)];
/// Claims that are measured, after some that are not.
const CLAIMS: usize = 500;
const WARM_UP: usize = 50;
/// How often progress is told, in rows; more than that may be more than the disk holds.
const TOLD: u64 = 1_000_000;
/// Room for logs and for others, beside the rows.
const SPARE: u64 = 6_000_000_000;

/// How many rows of history each has, growing.
type Cases = [(&'static str, u64); 3];

#[tokio::main]
async fn main() -> Fallible<()> {
    if SQLITE.iter().any(|(case, _)| wanted(case)) {
        let disk = directory()?;
        let file = disk.path().join("tasks.db");
        let store = SqliteStore::open(&file).await?;
        let size = || Ok(["db", "db-wal"].iter().filter_map(|end| length(&file.with_extension(end))).sum());
        measure(SQLITE, Arc::new(store), disk.path(), size, || Ok(())).await?;
    }
    if POSTGRES.iter().any(|(case, _)| wanted(case)) {
        match postgres::start().await {
            Ok(server) => {
                let database = server.database();
                let store = PostgresStore::open(database.url()).await?;
                let size = || Ok(database.query("select pg_database_size(current_database())").parse()?);
                // What autovacuum would do some time later, while claims are measured.
                let settle = || {
                    ["vacuum (analyze)", "checkpoint"].into_iter().for_each(|sql| drop(database.query(sql)));
                    Ok(())
                };
                measure(POSTGRES, Arc::new(store), &disk::base()?, size, settle).await?;
            }
            Err(reason) => note(BENCH, format_args!("the cases of PostgreSQL are left out: {reason}")),
        }
    }
    Ok(())
}

fn length(file: &Path) -> Option<u64> {
    Some(fs::metadata(file).ok()?.len())
}

async fn measure(
    cases: Cases,
    store: Arc<dyn TaskStore>,
    place: &Path,
    size: impl Fn() -> Fallible<u64>,
    settle: impl Fn() -> Fallible<()>,
) -> Fallible<()> {
    let mut history = History::new()?;
    let mut first = None;
    let last = cases.iter().rposition(|(case, _)| wanted(case)).unwrap_or(0);
    for (case, rows) in cases.into_iter().take(last + 1) {
        if rows > TOLD {
            // As many bytes a row as those that are there.
            let more = (size()? / history.rows.max(1)).saturating_mul(rows);
            let (needed, free) = (more + more / 5 + SPARE, disk::free(place)?);
            if free < needed {
                let room = |bytes: u64| bytes as f64 / 1e9;
                let reason =
                    format!("it needs {:.1} GB in {}, {:.1} are free", room(needed), place.display(), room(free));
                note(BENCH, format_args!("{case} is left out: {reason}"));
                break;
            }
        }
        history.grow(&*store, rows, case).await?;
        // The first is measured always: the others are compared with it.
        if first.is_none() || wanted(case) {
            settle()?;
            let shared = Arc::clone(&store);
            // As in a server: from a worker of the runtime.
            let (latency, returned) = tokio::spawn(async move { claims(&*shared, history).await }).await??;
            history = returned;
            let base = *first.get_or_insert(latency);
            if wanted(case) {
                let figure = Figure::new(BENCH, case, latency, "ms").against("1k", Some(base));
                figure.against("ratio_to_1k", Some(latency / base)).print();
            }
        }
    }
    store.close().await?;
    Ok(())
}

/// Finished tasks in a store.
struct History {
    maker: Maker,
    rows: u64,
    /// When the next was submitted: a millisecond after the one before.
    at: i64,
}

impl History {
    fn new() -> Result<Self> {
        Ok(Self { maker: Maker::new("noop", "1.0.0")?, rows: 0, at: now().as_millis() - 12 * 3_600_000 })
    }

    /// Adds to it until it has so many rows.
    async fn grow(&mut self, store: &dyn TaskStore, rows: u64, case: &str) -> Result<()> {
        let began = Instant::now();
        while self.rows < rows {
            let many = (rows - self.rows).min(BATCH as u64);
            let mut batch = Vec::with_capacity(BATCH);
            for _ in 0..many {
                self.at += 1;
                batch.push(insert(self.maker.finished(DEFAULT_TENANT, Timestamp::from_millis(self.at))?));
            }
            apply_all(store, &batch).await?;
            self.rows += many;
            if self.rows.is_multiple_of(TOLD) {
                note(BENCH, format_args!("{case}: {} of {rows} rows after {:.0?}", self.rows, began.elapsed()));
            }
        }
        Ok(())
    }
}

/// Milliseconds of one claim that finds the one runnable task: the median. Each then joins the history.
async fn claims(store: &dyn TaskStore, mut history: History) -> Result<(f64, History)> {
    let mut times = Vec::with_capacity(CLAIMS);
    let mut maker = Maker::new("noop", "1.0.0")?;
    for round in 0..WARM_UP + CLAIMS {
        let step = maker.created(DEFAULT_TENANT, now());
        let rule = QueueRule { agent: step.task.agent.clone(), concurrency: None, rate: None };
        let queues = [(step.task.queue().into(), rule)].into();
        let policy = ClaimPolicy { queues, ..ClaimPolicy::default() };
        apply_all(store, &[insert(step)]).await?;
        let claim = Claim { node: NodeId::new("bench/0"), policy, now: now(), limit: 1 };
        let began = Instant::now();
        let granted = store.claim(&claim).await?;
        if round >= WARM_UP {
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let [task] = &granted.tasks[..] else {
            return Err(unexpected(format!("{} tasks were granted, not one", granted.tasks.len())));
        };
        let done = apply(task, Command::Complete { output: task.input.clone() }, now());
        let done = done.map_err(|refused| unexpected(format!("the end was refused: {refused:?}")))?;
        let (expected, entries) = (task.revision, Vec::new());
        let update = TaskWrite::Update { task: Arc::new(done.task), expected, events: done.events, entries, key: None };
        apply_all(store, &[update]).await?;
        history.rows += 1;
    }
    Ok((median(times), history))
}
