//! What does a server cost: memory, and time from exec to `/ready`? Idle, everything is loaded but the models, which wait for their first call: medians over
//! several starts. Then the memory of one that holds a million queued tasks, or 100,000 that wait. Without a release build of the server nothing is measured.

use std::{
    error::Error,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;
use sutazai_benches::{
    cases::wanted,
    disk,
    figures::Figure,
    notes::note,
    server::{Server, binary},
    stats::median,
    tasks::input,
};

type Fallible<T> = Result<T, Box<dyn Error>>;

const BENCH: &str = "footprint";
const ROUNDS: usize = 7;
/// Tasks of a request: as many as one may hold.
const BATCH: usize = 1_000;
const QUEUED: usize = 1_000_000;
const WAITING: usize = 100_000;
/// How long the server may take to let all of them wait.
const PATIENCE: Duration = Duration::from_secs(600);
/// What the tasks may take on the disk.
const ROOM: u64 = 5_000_000_000;

#[tokio::main]
async fn main() -> Fallible<()> {
    let binary = match binary() {
        Ok(binary) => binary,
        Err(reason) => {
            note(BENCH, format_args!("left out: {reason}"));
            return Ok(());
        }
    };
    if wanted("idle_rss") || wanted("ready") {
        idle(&binary).await?;
    }
    for (case, holding) in [("queued_1m", Holding::Queued), ("waiting_100k", Holding::Waiting)] {
        if wanted(case) {
            match holding.measure(&binary).await {
                Ok(resident) => Figure::new(BENCH, case, resident, "MB").print(),
                Err(reason) => note(BENCH, format_args!("{case} is left out: {reason}")),
            }
        }
    }
    Ok(())
}

async fn idle(binary: &Path) -> Fallible<()> {
    let (mut resident, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let server = Server::start(binary).await?;
        ready.push(server.ready().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_secs(1)).await;
        resident.push(megabytes(&server)?);
    }
    for (case, values, unit) in [("idle_rss", resident, "MB"), ("ready", ready, "ms")] {
        if wanted(case) {
            Figure::new(BENCH, case, median(values), unit).print();
        }
    }
    Ok(())
}

fn megabytes(server: &Server) -> Fallible<f64> {
    Ok(server.resident()? as f64 / 1e6)
}

/// What a server holds.
#[derive(Clone, Copy)]
enum Holding {
    /// Tasks that none has begun: one that sleeps has the only place.
    Queued,
    /// Tasks that have begun and wait for a signal that does not come.
    Waiting,
}

impl Holding {
    /// Megabytes of a server that has taken in the tasks through HTTP and come to rest.
    async fn measure(self, binary: &Path) -> Fallible<f64> {
        let free = disk::free(&disk::base()?)?;
        if free < ROOM {
            return Err(format!("{} MB are free on the disk, {} are needed", free / 1_000_000, ROOM / 1_000_000).into());
        }
        let (agent, task, many, variables) = match self {
            Self::Queued => {
                let task = format!("{{\"agent\":\"dev.echo\",\"input\":{}}}", input());
                ("dev.echo", task, QUEUED, &[("SUTAZAI_MAX_RUNNING", "1"), ("SUTAZAI_QUEUE_MAX", "2000000")][..])
            }
            Self::Waiting => {
                let task = json!({ "agent": "dev.wait", "input": { "signal": "go", "ms": 86_400_000 } });
                ("dev.wait", task.to_string(), WAITING, &[][..])
            }
        };
        let server = Server::start_with(binary, &[], variables).await?;
        let running = match self {
            Self::Queued => {
                submit(&server, r#"{"agent":"dev.sleep","input":{"ms":86400000}}"#, 1).await?;
                until(&server, ("tasks_running", &[]), 1).await?;
                1
            }
            Self::Waiting => 0,
        };
        for _ in 0..many / BATCH {
            submit(&server, &task, BATCH).await?;
        }
        until(&server, ("agents_queue_depth", &[("agent", agent)]), many).await?;
        until(&server, ("tasks_running", &[]), running).await?;
        let created = match self {
            Self::Queued => many,
            Self::Waiting => 0,
        };
        until(&server, ("tasks_queued", &[]), created).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        megabytes(&server)
    }
}

/// Submits a task so many times in one request.
async fn submit(server: &Server, task: &str, times: usize) -> Fallible<()> {
    let body = format!("{{\"tasks\":[{}]}}", vec![task; times].join(","));
    let (status, answer) = server.post("/api/v1/tasks/batch", &body).await?;
    let accepted = answer.matches("\"created_at\"").count();
    if status != 202 || accepted != times {
        return Err(format!("a batch was answered {status}, and {accepted} of {times} accepted: {answer:.300}").into());
    }
    Ok(())
}

/// Waits until a metric of the server is this.
async fn until(server: &Server, (name, labels): (&str, &[(&str, &str)]), value: usize) -> Fallible<()> {
    let began = Instant::now();
    loop {
        let found = server.metric(name, labels).await?;
        if found.is_some_and(|found| (found - value as f64).abs() < 0.5) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{name} is {found:?} after {PATIENCE:?}, not {value}").into());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
