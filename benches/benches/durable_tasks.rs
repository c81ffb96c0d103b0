//! How many durable no-op tasks a second, and how long does one alone take? 200 bytes of JSON in and out.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use sutazai_benches::{
    cases::wanted,
    disk::{directory, fsync},
    figures::Figure,
    notes::note,
    peers, postgres,
    server::{Server, binary},
    stats::median,
    tasks::input,
    wrk::Wrk,
};
use sutazai_core::{memory::MemoryTaskStore, prelude::*, store::TaskStore};
use sutazai_store::{PostgresStore, SqliteStore};

type Fallible<T> = Result<T, Box<dyn Error>>;

const BENCH: &str = "durable_tasks";
const CALLERS: usize = 64;
const BATCH: usize = 100;
const WARM_UP: Duration = Duration::from_secs(1);
const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 5;
/// Tasks one after the other, after a tenth of as many that warm up.
const ALONE: usize = 2_000;
/// How long a server may take to end what it has accepted.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Fallible<()> {
    if wanted("memory_64") {
        let rate = throughput(MemoryTaskStore::new(), Effects::None).await?;
        figure("memory_64", rate, "tasks/s").print();
    }
    sqlite().await?;
    postgres().await?;
    for (case, path, size) in [("http_64", "/api/v1/tasks", 1), ("http_64_batch100", "/api/v1/tasks/batch", BATCH)] {
        if wanted(case) {
            match http(path, size).await {
                Ok(rate) => figure(case, rate, "tasks/s").print(),
                Err(reason) => note(BENCH, format_args!("{case} is left out: {reason}")),
            }
        }
    }
    Ok(())
}

fn figure(case: &'static str, value: f64, unit: &'static str) -> Figure {
    Figure::new(BENCH, case, value, unit)
}

async fn sqlite() -> Fallible<()> {
    let (cases, alone_case) =
        ([("sqlite_64", Effects::None), ("sqlite_64_effects", Effects::Idempotent)], "sqlite_alone_p50");
    if !cases.iter().any(|(case, _)| wanted(case)) && !wanted(alone_case) {
        return Ok(());
    }
    let place = directory()?;
    let mut peers = Peers::new();
    for name in ["apalis", "duroxide"] {
        peers.push((name, peers::figures(BENCH, name, place.path().join(name)).await));
    }
    for (case, effects) in cases {
        if wanted(case) {
            let disk = directory()?;
            let rate = throughput(SqliteStore::open(disk.path().join("tasks.db")).await?, effects).await?;
            beside(figure(case, rate, "tasks/s"), &peers, "tasks_per_s").print();
        }
    }
    if wanted(alone_case) {
        let disk = directory()?;
        let fsync = fsync(disk.path())?;
        let alone = alone(SqliteStore::open(disk.path().join("tasks.db")).await?).await?;
        let figure = figure(alone_case, alone, "ms").against("fsync", Some(fsync));
        beside(figure, &peers, "p50_ms").print();
    }
    Ok(())
}

async fn postgres() -> Fallible<()> {
    let cases = [("postgres_64", Effects::None), ("postgres_64_effects", Effects::Idempotent)];
    let alone_case = "postgres_alone_p50";
    if !cases.iter().any(|(case, _)| wanted(case)) && !wanted(alone_case) {
        return Ok(());
    }
    let server = match postgres::start().await {
        Ok(server) => server,
        Err(reason) => {
            note(BENCH, format_args!("the cases of PostgreSQL are left out: {reason}"));
            return Ok(());
        }
    };
    let peers = {
        let database = server.database();
        vec![("apalis", peers::figures(BENCH, "apalis", database.url()).await)]
    };
    for (case, effects) in cases {
        if wanted(case) {
            let database = server.database();
            let rate = throughput(PostgresStore::open(database.url()).await?, effects).await?;
            beside(figure(case, rate, "tasks/s"), &peers, "tasks_per_s").print();
        }
    }
    if wanted(alone_case) {
        let (disk, database) = (directory()?, server.database());
        let fsync = fsync(disk.path())?;
        let alone = alone(PostgresStore::open(database.url()).await?).await?;
        let figure = figure(alone_case, alone, "ms").against("fsync", Some(fsync));
        beside(figure, &peers, "p50_ms").print();
    }
    Ok(())
}

/// What peers that ran have printed, by name.
type Peers = Vec<(&'static str, Option<Value>)>;

/// The figure beside one of each peer's.
fn beside(figure: Figure, peers: &Peers, field: &str) -> Figure {
    peers
        .iter()
        .fold(figure, |figure, (name, said)| figure.against(name, said.as_ref().and_then(|said| said[field].as_f64())))
}

async fn engine(store: impl TaskStore, effects: Effects) -> Result<Orchestrator> {
    let noop = agent_fn("noop", |_context, input: Payload| async move { Ok(input) });
    Orchestrator::builder().agent(noop.describe(|agent| agent.effects(effects))).store(store).start().await
}

/// Tasks a second, submitted and waited for by 64 callers: the median of the rounds.
async fn throughput(store: impl TaskStore, effects: Effects) -> Fallible<f64> {
    let engine = engine(store, effects).await?;
    let input = Payload::from_text(input())?;
    let done = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (engine, input, done, over) = (engine.clone(), input.clone(), Arc::clone(&done), Arc::clone(&over));
        callers.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let task = engine.submit("noop", &input).await?.result().await?;
                debug_assert_eq!(task.state, TaskState::Completed);
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, sutazai_core::Error>(())
        });
    }
    tokio::time::sleep(WARM_UP).await;
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let (before, began) = (done.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(ROUND).await;
        let tasks = done.load(Ordering::Relaxed) - before;
        rates.push(tasks as f64 / began.elapsed().as_secs_f64());
    }
    over.store(true, Ordering::Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    engine.shutdown(Duration::from_secs(10)).await?;
    Ok(median(rates))
}

/// Milliseconds from submit to the end of a task with nothing else going on: the median.
async fn alone(store: impl TaskStore) -> Fallible<f64> {
    let engine = engine(store, Effects::None).await?;
    let input = Payload::from_text(input())?;
    let measure = async move {
        let mut times = Vec::with_capacity(ALONE);
        for round in 0..ALONE + ALONE / 10 {
            let began = Instant::now();
            engine.submit("noop", &input).await?.result().await?;
            if round >= ALONE / 10 {
                times.push(began.elapsed().as_secs_f64() * 1e3);
            }
        }
        engine.shutdown(Duration::from_secs(10)).await?;
        Ok::<_, sutazai_core::Error>(median(times))
    };
    Ok(tokio::spawn(measure).await??)
}

/// Acknowledged tasks a second through HTTP, sent by `wrk` over 64 kept-alive connections: the median of the rounds, after one that warms up.
async fn http(path: &str, size: usize) -> Fallible<f64> {
    let server = Server::start(&binary()?).await?;
    let task = format!("{{\"agent\":\"dev.echo\",\"input\":{}}}", input());
    let body = if size == 1 { task } else { format!("{{\"tasks\":[{}]}}", vec![task; size].join(",")) };
    let (status, answer) = server.post(path, &body).await?;
    let accepted = answer.matches("\"created_at\"").count();
    if status != 202 || accepted != size {
        return Err(format!("{path} answered {status} and accepted {accepted} of {size}: {answer:.300}").into());
    }
    let wrk = Wrk::new(format!("http://{}{path}", server.address()), &body)?;
    let mut rates = Vec::new();
    for round in 0..=ROUNDS {
        let before = completed(&server).await?;
        let (requests, seconds) = wrk.run(if round == 0 { WARM_UP } else { ROUND }).await?;
        // An answered batch may hold refused items: each counts only as a task that the server has ended.
        let (tasks, began) = (requests * size as f64, Instant::now());
        let mut ended = 0.0;
        while ended < tasks && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(50)).await;
            ended = completed(&server).await? - before;
        }
        if ended < tasks {
            return Err(format!("of {tasks} tasks that were answered {ended} were completed").into());
        }
        if round > 0 {
            rates.push(tasks / seconds);
        }
    }
    Ok(median(rates))
}

/// Tasks that the server says it has completed.
async fn completed(server: &Server) -> Fallible<f64> {
    Ok(server.metric("agents_tasks_total", &[("agent", "dev.echo"), ("status", "completed")]).await?.unwrap_or(0.0))
}
