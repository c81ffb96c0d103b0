//! The real binary as a child process: starts it, speaks to it, and ends it with the test.

#![allow(dead_code, unused_imports, reason = "each test program uses its own part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test says what went wrong by failing"
)]
#![allow(clippy::disallowed_methods, reason = "a test waits for another process on its own thread")]

mod disk;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

pub(crate) use disk::SmallDisk;
use serde_json::Value;

/// Long enough for a loaded machine; a test that waits longer has found a fault.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where the binary is. Cargo says so while it runs a test; a wrapper around the compiler may swallow what it says while it builds one.
pub(crate) fn path() -> String {
    const NAME: &str = "CARGO_BIN_EXE_sutazai-server";
    let built = option_env!("CARGO_BIN_EXE_sutazai-server").map(str::to_owned);
    std::env::var(NAME).ok().or(built).expect("run by cargo")
}

/// The binary with `arguments` and an environment in which no setting is given.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(path());
    let theirs = [
        "AGENT_",
        "OLLAMA_",
        "MODEL_ID",
        "TEMPERATURE",
        "MAX_TOKENS",
        "REDIS_URL",
        "PG_DSN",
        "NEO4J_URI",
        "VECTOR_PROVIDER",
        "PROMETHEUS_NAMESPACE",
        "LOG_LEVEL",
    ];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = text.starts_with("SUTAZAI_") && text != "SUTAZAI_MODELS_DIR";
        if ours || theirs.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// What it wrote to stderr.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The JSON it wrote to stdout.
pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "stdout is not one JSON document ({error}): {:?}; stderr: {}",
            String::from_utf8_lossy(&output.stdout),
            stderr(output)
        )
    })
}

/// A running `serve`.
pub(crate) struct Server {
    child: Child,
    address: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts a server over `data` on a free port and waits for its ready line.
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    /// The same with more arguments.
    pub(crate) fn start_with(data: &Path, more: &[&str]) -> Self {
        let data = data.to_str().unwrap();
        let mut arguments = vec!["serve", "--data-dir", data, "--listen", "127.0.0.1:0", "--dev-agents"];
        arguments.extend(more);
        let mut child = command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (ready, address) = std::sync::mpsc::channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let lines = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let entry: Value = serde_json::from_str(&line).unwrap_or_default();
                if entry["message"] == "listening" {
                    let _ = ready.send(entry["address"].as_str().unwrap().to_owned());
                }
                lines.lock().unwrap().push(line);
            }
        });
        let lines = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(err).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let address = address.recv_timeout(PATIENCE);
        let server = Self { child, address: address.clone().unwrap_or_default(), log };
        assert!(address.is_ok(), "the server did not get ready: {}", server.log());
        server
    }

    /// `http://HOST:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its port.
    pub(crate) fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap()
    }

    /// Everything it has written.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Fails if anything in it has panicked.
    pub(crate) fn assert_sound(&self) {
        let log = self.log();
        assert!(!log.contains("panicked"), "{log}");
    }

    /// Runs another command of the binary against this server.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        let url = self.url();
        run(&[arguments, &["--server", &url]].concat())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the server did not end: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the server's log\n{}", self.log());
        }
    }
}

/// The folder where models are looked for by default, if the embedded ones are there.
pub(crate) fn models() -> Option<PathBuf> {
    let listed = json(&run(&["models", "list", "--json"]));
    let ready = |name: &str| {
        let found = listed["items"].as_array()?.iter().find(|model| model["name"] == name)?;
        (found["state"]["is"] == "ready").then(|| PathBuf::from(found["directory"].as_str().unwrap()))
    };
    ready("all-minilm").and(ready("smollm2:135m"))?.parent().map(Path::to_owned)
}

/// An HTTP client for tests.
pub(crate) fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}
