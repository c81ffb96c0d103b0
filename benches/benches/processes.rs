//! How many tasks a second do worker processes on one PostgreSQL get done, and how evenly are they shared out?
//!
//! The workers are real servers (`serve --role worker`). Rounds: tasks of two tenants, one with twice as many as the other, are stored before they are
//! due, and then are all due at once. Who took what, and when, is what the events say.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    path::Path,
    time::{Duration, Instant},
};

use sutazai_benches::{
    cases::wanted,
    figures::Figure,
    notes::note,
    postgres,
    server::{Server, binary},
    stats::median,
    tasks::{BATCH, Maker, apply_all, insert, now},
};
use sutazai_core::{
    agent::AgentDescriptor,
    clock::Timestamp,
    store::{TaskStore, TaskWrite},
    task::{EventKind, TaskId},
};
use sutazai_store::PostgresStore;
use sutazai_testing::Postgres;

type Fallible<T> = Result<T, Box<dyn Error>>;

const BENCH: &str = "processes";
/// Worker processes, with the names of throughput, share of workers and share of tenants.
const CASES: [(usize, [&str; 3]); 4] = [
    (1, ["postgres_1", "", "postgres_1_tenants"]),
    (2, ["postgres_2", "postgres_2_workers", "postgres_2_tenants"]),
    (4, ["postgres_4", "postgres_4_workers", "postgres_4_tenants"]),
    (8, ["postgres_8", "postgres_8_workers", "postgres_8_tenants"]),
];
const AGENT: &str = "dev.echo";
const TASKS: usize = 30_000;
const ROUNDS: usize = 3;
/// The time in which a round's tasks are stored before they are due.
const HEAD: Duration = Duration::from_secs(10);
/// How long the workers may take for a round.
const PATIENCE: Duration = Duration::from_secs(120);
/// Events of a page.
const PAGE: usize = 5_000;

#[tokio::main]
async fn main() -> Fallible<()> {
    let parts = async { Ok::<_, String>((binary()?, postgres::start().await?)) };
    let (binary, postgres) = match parts.await {
        Ok(parts) => parts,
        Err(reason) => {
            note(BENCH, format_args!("left out: {reason}"));
            return Ok(());
        }
    };
    for (workers, [throughput, among_workers, among_tenants]) in CASES {
        if !wanted(throughput) {
            continue;
        }
        match measure(&binary, &postgres, workers).await {
            Ok(rounds) => {
                let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
                Figure::new(BENCH, throughput, of(|round| round.rate), "tasks/s").print();
                if workers > 1 {
                    Figure::new(BENCH, among_workers, of(|round| round.workers), "ratio").print();
                }
                Figure::new(BENCH, among_tenants, of(|round| round.tenants), "ratio").print();
            }
            Err(reason) => note(BENCH, format_args!("{throughput} is left out: {reason}")),
        }
    }
    Ok(())
}

/// What a round came to.
struct Round {
    /// Tasks a second, from the first grant to the last end.
    rate: f64,
    /// The worker that took least beside the one that took most.
    workers: f64,
    /// The tenant that was granted less beside the one that was granted more, while both had tasks to give.
    tenants: f64,
}

async fn measure(binary: &Path, postgres: &Postgres, workers: usize) -> Fallible<Vec<Round>> {
    let database = postgres.database();
    let url = database.url();
    let store = PostgresStore::open(&url).await?;
    let mut servers = Vec::with_capacity(workers);
    for _ in 0..workers {
        servers.push(Server::start_with(binary, &["--role", "worker"], &[("SUTAZAI_STORE", &url)]).await?);
    }
    let mut maker = Maker::new(AGENT, &AgentDescriptor::new(AGENT).version)?;
    let mut seen = 0;
    let mut rounds = Vec::with_capacity(ROUNDS);
    // The first round warms up.
    for number in 0..=ROUNDS {
        let round = round(&store, &mut maker, &mut seen, workers).await?;
        if number > 0 {
            rounds.push(round);
        }
    }
    store.close().await?;
    Ok(rounds)
}

async fn round(store: &dyn TaskStore, maker: &mut Maker, seen: &mut u64, workers: usize) -> Fallible<Round> {
    let due = now().plus(HEAD);
    let mut few = BTreeSet::new();
    let mut writes = Vec::with_capacity(TASKS);
    for index in 0..TASKS {
        let tenant = if index < TASKS / 3 * 2 { "many" } else { "few" };
        let mut step = maker.created(tenant, now());
        step.task.due_at = due;
        if tenant == "few" {
            few.insert(step.task.id);
        }
        writes.push(insert(step));
    }
    for batch in writes.chunks(BATCH) {
        apply_all(store, batch).await?;
    }
    let left = now().until(due);
    if left.is_zero() {
        return Err(format!("storing {TASKS} tasks took more than {HEAD:?}").into());
    }
    tokio::time::sleep(left).await;
    // Nothing tells of tasks that become due unless they wait: one that comes now wakes the workers.
    apply_all(store, &[nudge(maker)]).await?;
    let began = Instant::now();
    while store.queued().await? > 0 {
        patient(began)?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut tally = Tally::default();
    while tally.completed < TASKS + 1 {
        patient(began)?;
        let page = store.feed(*seen, PAGE).await?;
        *seen = page.last().map_or(*seen, |event| event.number);
        if page.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        page.iter().for_each(|event| tally.add(event.event.task_id, event.event.at, &event.event.kind, &mut few));
    }
    Ok(tally.round(workers))
}

/// A task that is due at once.
fn nudge(maker: &mut Maker) -> TaskWrite {
    insert(maker.created("many", now()))
}

fn patient(since: Instant) -> Fallible<()> {
    if since.elapsed() > PATIENCE {
        Err(format!("the workers took more than {PATIENCE:?} for a round").into())
    } else {
        Ok(())
    }
}

/// Who was granted what.
#[derive(Default)]
struct Tally {
    by_node: BTreeMap<String, usize>,
    /// Grants to the tenant with few tasks and to the other, while the first still had some.
    few: usize,
    many: usize,
    completed: usize,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl Tally {
    /// Takes in an event, in the order of commits. `few` are the smaller tenant's tasks that were not granted yet.
    fn add(&mut self, task: TaskId, at: Timestamp, kind: &EventKind, few: &mut BTreeSet<TaskId>) {
        match kind {
            EventKind::Assigned { node, .. } => {
                *self.by_node.entry(node.to_string()).or_default() += 1;
                self.first = self.first.min(Some(at)).or(Some(at));
                let both = !few.is_empty();
                if few.remove(&task) {
                    self.few += 1;
                } else if both {
                    self.many += 1;
                }
            }
            EventKind::Completed {} => {
                self.completed += 1;
                self.last = self.last.max(Some(at));
            }
            _ => {}
        }
    }

    fn round(&self, workers: usize) -> Round {
        let seconds = self.first.zip(self.last).map_or(f64::NAN, |(first, last)| first.until(last).as_secs_f64());
        let least = if self.by_node.len() < workers { 0 } else { self.by_node.values().copied().min().unwrap_or(0) };
        let most = self.by_node.values().copied().max().unwrap_or(0);
        Round {
            rate: self.completed as f64 / seconds,
            workers: least as f64 / most as f64,
            tenants: self.few.min(self.many) as f64 / self.few.max(self.many) as f64,
        }
    }
}
