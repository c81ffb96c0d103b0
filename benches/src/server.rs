//! A release server of our own, started for a bench on a free port with a data directory on a real disk.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{disk::directory, http, memory, notes::note};

/// What the server is made of.
const CRATES: [&str; 5] = ["sutazai-agents", "sutazai-core", "sutazai-llm", "sutazai-server", "sutazai-store"];

/// How long a server may take to serve.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that serves. It is killed when dropped.
pub struct Server {
    child: Child,
    address: String,
    ready: Duration,
    _data: TempDir,
}

/// Where the server's binary is: `SUTAZAI_BENCH_SERVER`, else beside the bench in `target/release`. What to do if there is none. Says which one is
/// measured, and whether the sources have changed since it was built.
pub fn binary() -> Result<PathBuf, String> {
    let beside = env::current_exe().ok().and_then(|here| Some(here.parent()?.parent()?.join("sutazai-server")));
    let path = env::var_os("SUTAZAI_BENCH_SERVER").map(PathBuf::from).or(beside).unwrap_or_default();
    if let Some(built) = modified(&path) {
        note("server", format_args!("measuring {}", path.display()));
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let newest = CRATES.iter().filter_map(|name| newest(&root.join(name))).max();
        if let Some((_, source)) = newest.filter(|(changed, _)| *changed > built) {
            note(
                "server",
                format_args!("it is older than {}: `cargo build --release` makes a new one", source.display()),
            );
        }
        return Ok(path);
    }
    Err(format!("no server at {}; `cargo build --release` makes one, SUTAZAI_BENCH_SERVER names one", path.display()))
}

fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).ok().filter(fs::Metadata::is_file)?.modified().ok()
}

/// The source that was changed last in a crate.
fn newest(folder: &Path) -> Option<(SystemTime, PathBuf)> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let of = |path: PathBuf| if path.is_dir() { newest(&path) } else { Some((modified(&path)?, path)) };
    // Tests, what they share, and documents are not in the binary.
    let beside = |path: &PathBuf| path.ends_with("tests") || path.ends_with("testing");
    let is_source = |path: &PathBuf| !beside(path) && path.extension().is_none_or(|end| end != "md");
    entries.filter(is_source).filter_map(of).max()
}

impl Server {
    /// Starts `binary` with the agents for load tests and waits until `/ready` answers 200.
    pub async fn start(binary: &Path) -> io::Result<Self> {
        Self::start_with(binary, &[], &[]).await
    }

    /// The same with more arguments of `serve` and with variables.
    pub async fn start_with(binary: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> io::Result<Self> {
        let data = directory()?;
        let mut command = Command::new(binary);
        command.args(["serve", "--dev-agents", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data.path());
        command.args(arguments).env("SUTAZAI_LOG_LEVEL", "info").envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let began = Instant::now();
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("the server has no output"))?;
        let mut lines = BufReader::new(stdout).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                let line: Value = serde_json::from_str(&line).unwrap_or_default();
                if line["message"] == "listening" {
                    return Ok(line["address"].as_str().unwrap_or_default().to_owned());
                }
            }
            Err(io::Error::other("the server ended before it was listening"))
        };
        let address = tokio::time::timeout(PATIENCE, listening).await??;
        // Its log must be read on, or the pipe fills up and the server stands still.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let mut server = Self { child, address, ready: Duration::ZERO, _data: data };
        while server.get("/ready").await?.0 != 200 {
            if began.elapsed() > PATIENCE {
                return Err(io::Error::other("the server does not get ready"));
            }
        }
        server.ready = began.elapsed();
        Ok(server)
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The time from exec to `/ready`.
    #[must_use]
    pub fn ready(&self) -> Duration {
        self.ready
    }

    /// Resident memory in bytes, as Linux counts it.
    pub fn resident(&self) -> io::Result<u64> {
        let id = self.child.id().ok_or_else(|| io::Error::other("the server has ended"))?;
        memory::resident(id)
    }

    /// A value of `/metrics`: of the first line with this name, whatever its namespace, and all of these labels. None if there is no such line.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> io::Result<Option<f64>> {
        let (_, text) = self.get("/metrics").await?;
        let is_it = |line: &&str| {
            let series = line.split(['{', ' ']).next().unwrap_or_default();
            let named = series.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('_'));
            named && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
        };
        let line = text.lines().filter(|line| !line.starts_with('#')).find(is_it);
        Ok(line.and_then(|line| line.rsplit(' ').next()?.parse().ok()))
    }

    /// `GET`: status and body.
    pub async fn get(&self, path: &str) -> io::Result<(u16, String)> {
        http::request(&self.address, "GET", path, "").await
    }

    /// `POST` of JSON: status and body.
    pub async fn post(&self, path: &str, json: &str) -> io::Result<(u16, String)> {
        http::request(&self.address, "POST", path, json).await
    }
}
