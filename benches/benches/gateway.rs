//! What does the gateway add to a request, and how many requests does it carry?
//!
//! A model server that answers at once (`upstream`) stands behind the server's binary, and behind LiteLLM's proxy where
//! `benches/peers/litellm/install` was run. `added_p50`, `added_p99`: an open loop of 200 requests a second, no two of them the same, goes to each of
//! them in turn, and from each quantile of what the answers take the same quantile without a gateway is subtracted. `max`: as many requests a second
//! as 64 connections of `wrk` get answered, none of them from a cache. Medians of the rounds.

use std::{
    error::Error,
    fs, io,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use sutazai_benches::{
    cases::wanted,
    figures::Figure,
    http,
    load::Load,
    notes::{note, peer},
    server::{Server, binary},
    stats::{median, quantile},
    upstream::{self, ANSWER, MODEL},
    wrk::{self, Wrk},
};
use sutazai_testing::Watch;
use tokio::time::timeout;

type Fallible<T> = Result<T, Box<dyn Error>>;

const BENCH: &str = "gateway";
const ADDED: [(&str, f64); 2] = [("added_p50", 0.5), ("added_p99", 0.99)];
const MAX: &str = "max";
const PEER: &str = "litellm";
const PATH: &str = "/v1/chat/completions";
const RATE: u32 = 200;
const ROUNDS: usize = 5;
const WARM_UP: Duration = Duration::from_secs(2);
/// A round of the open loop, and one of the closed loop.
const OPEN: Duration = Duration::from_secs(10);
const CLOSED: Duration = Duration::from_secs(3);
/// How long the peer has until it answers: it reads a great deal of Python first.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long one answer may take that is not measured.
const SOON: Duration = Duration::from_secs(30);

/// Who is asked: the server without a gateway first, then ours, then the peer if it is there.
struct Target {
    name: &'static str,
    address: String,
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let cases = ADDED.map(|(case, _)| wanted(case));
    if !cases.contains(&true) && !wanted(MAX) {
        return Ok(());
    }
    let binary = match binary() {
        Ok(binary) => binary,
        Err(reason) => {
            note(BENCH, format_args!("left out: {reason}"));
            return Ok(());
        }
    };
    let upstream = upstream::start()?.to_string();
    let url = format!("http://{upstream}/v1");
    let variables = [("SUTAZAI_OPENAI_BASE_URL", &*url), ("SUTAZAI_MODEL_PARALLEL", "10000")];
    let server = Server::start_with(&binary, &[], &variables).await?;
    let litellm = peer(BENCH, PEER, LiteLlm::start(&url).await);
    let mut targets = vec![
        Target { name: "upstream", address: upstream },
        Target { name: "sutazai", address: server.address().to_owned() },
    ];
    targets.extend(litellm.as_ref().map(|litellm| Target { name: PEER, address: litellm.address.clone() }));
    for target in &targets {
        probe(&target.address).await.map_err(|why| format!("{}: {why}", target.name))?;
    }
    if cases.contains(&true) {
        added(&targets).await?;
    }
    if wanted(MAX) {
        match wrk::installed().await {
            Ok(()) => max(&targets).await?.print(),
            Err(reason) => note(BENCH, format_args!("{MAX} is left out: {reason}")),
        }
    }
    Ok(())
}

/// A request that was never made before.
fn body() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let question = format!(
        "Question {number}: how many legs has a spider, and how many has a crab? Answer in one short sentence."
    );
    format!(
        r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"{question}"}}],"temperature":0,"max_tokens":16}}"#
    )
}

/// Fails unless one request is answered as it should be, and soon.
async fn probe(address: &str) -> Result<(), String> {
    match timeout(SOON, http::request(address, "POST", PATH, &body())).await {
        Ok(Ok((200, answer))) if answer.contains(ANSWER) => Ok(()),
        Ok(Ok((status, answer))) => Err(format!("{status}: {answer:.300}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {SOON:?}")),
    }
}

/// What each target reached in each round but the first, which warms up; they take turns. One that fails is asked no more.
async fn rounds<T>(
    targets: &[Target],
    round: Duration,
    measure: impl AsyncFn(&Target, Duration) -> Result<T, String>,
) -> Vec<Result<Vec<T>, String>> {
    let mut reached: Vec<_> = targets.iter().map(|_| Ok(Vec::new())).collect();
    for number in 0..=ROUNDS {
        let time = if number == 0 { WARM_UP } else { round };
        for (target, reached) in targets.iter().zip(&mut reached) {
            let Ok(before) = reached else { continue };
            match measure(target, time).await {
                Ok(value) if number > 0 => before.push(value),
                Ok(_) => {}
                Err(why) => *reached = Err(why),
            }
        }
    }
    reached
}

/// The values of the server alone, of ours, and of the peer, which alone may be missing.
fn sorted<T>(reached: Vec<Result<Vec<T>, String>>) -> Result<[Option<Vec<T>>; 3], String> {
    let mut reached = reached.into_iter();
    let mut next = || reached.next().transpose();
    let (direct, ours) = (next()?, next()?);
    Ok([direct, ours, reached.next().and_then(|rounds| peer(BENCH, PEER, rounds))])
}

async fn added(targets: &[Target]) -> Fallible<()> {
    let measure = async |target: &Target, time: Duration| -> Result<[f64; 2], String> {
        let (name, address, began) = (target.name, target.address.clone(), Instant::now());
        let ask = move || {
            let load = Load { address: &address, path: PATH, rate: RATE, time, expected: ANSWER };
            load.run(body).map(|times| (times, load.requests()))
        };
        let (times, of) = tokio::task::spawn_blocking(ask).await.map_err(|error| error.to_string())??;
        let took = began.elapsed();
        if took > time + Duration::from_secs(1) {
            note(
                BENCH,
                format_args!("{name} fell behind: {} of {of} requests in {took:.1?}, not {time:?}", times.len()),
            );
        }
        Ok(ADDED.map(|(_, of)| quantile(times.clone(), of)))
    };
    let [direct, ours, peer] = sorted(rounds(targets, OPEN, measure).await)?;
    let direct = direct.unwrap_or_default();
    for (place, (case, _)) in ADDED.into_iter().enumerate() {
        let added = |through: Vec<[f64; 2]>| {
            let pairs = through.into_iter().zip(&direct);
            median(pairs.map(|(through, direct)| through[place] - direct[place]).collect())
        };
        if wanted(case) {
            Figure::new(BENCH, case, added(ours.clone().unwrap_or_default()), "ms")
                .against(PEER, peer.clone().map(added))
                .against("upstream", Some(median(direct.iter().map(|direct| direct[place]).collect())))
                .print();
        }
    }
    Ok(())
}

/// Requests a second.
async fn max(targets: &[Target]) -> Result<Figure, String> {
    let measure = async |target: &Target, time: Duration| -> Result<f64, String> {
        let wrk = Wrk::new(format!("http://{}{PATH}", target.address), &body()).map_err(|error| error.to_string())?;
        let (requests, seconds) = wrk.header("cache-control: no-store").run(time).await?;
        Ok(requests / seconds)
    };
    let [direct, ours, peer] = sorted(rounds(targets, CLOSED, measure).await)?;
    let figure = Figure::new(BENCH, MAX, median(ours.unwrap_or_default()), "requests/s");
    Ok(figure.against(PEER, peer.map(median)).against("upstream", direct.map(median)))
}

/// LiteLLM's proxy before the same upstream, with a worker for each core. It ends when dropped, and when the bench ends in whatever way.
struct LiteLlm {
    child: Child,
    address: String,
    watch: Option<Watch>,
}

impl LiteLlm {
    /// One that answers, with the upstream whose API is at `url`; or why there is none.
    async fn start(url: &str) -> Result<Self, String> {
        let home: PathBuf = [env!("CARGO_MANIFEST_DIR"), "peers", PEER].iter().collect();
        if !home.join("venv/bin/litellm").is_file() {
            return Err(format!("it is not installed; benches/peers/{PEER}/install does"));
        }
        // Removed with the proxy.
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?.keep();
        let log = directory.join("log");
        let proxy = Self::launch(&home, &directory, &log, url);
        let mut proxy = proxy.map_err(|error| format!("it cannot be started: {error}"))?;
        let began = Instant::now();
        loop {
            let Err(why) = probe(&proxy.address).await else { return Ok(proxy) };
            let ended = proxy.child.try_wait().is_ok_and(|ended| ended.is_some());
            if ended || began.elapsed() > PATIENCE {
                let log = fs::read_to_string(&log).unwrap_or_default();
                let end = log.char_indices().rev().nth(300).map_or(0, |(at, _)| at);
                return Err(format!("it does not answer ({why}): {}", &log[end..]));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn launch(home: &Path, directory: &Path, log: &Path, url: &str) -> io::Result<Self> {
        let mut watch = Watch::over_group(directory);
        let log = fs::File::create(log)?;
        // Free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let workers = thread::available_parallelism().map_or(1, usize::from).to_string();
        let mut command = Command::new(home.join("venv/bin/litellm"));
        command.args(["--host", "127.0.0.1", "--port", &port, "--num_workers", &workers]);
        // A worker that is not up within five seconds is ended otherwise, and begun anew for ever.
        command.args(["--timeout_worker_healthcheck", "600", "--config"]).arg(home.join("config.yaml"));
        // What models cost is asked of the network otherwise, and every request is logged.
        command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True").env("LITELLM_LOG", "ERROR").env("UPSTREAM_URL", url);
        // Nothing stands between it and the upstream.
        command.env("NO_PROXY", "*").env("no_proxy", "*");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn()?;
        watch.server(Some(child.id()));
        Ok(Self { child, address: format!("127.0.0.1:{port}"), watch: Some(watch) })
    }
}

impl Drop for LiteLlm {
    fn drop(&mut self) {
        // It and its workers are ended by who watches over them.
        drop(self.watch.take());
        let _ = self.child.wait();
    }
}
