//! `wrk`: as many requests as 64 connections carry, each sent when the one before is answered.

use std::{
    io::{self, Write},
    path::Path,
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::process::Command;

/// Kept-alive connections.
const CONNECTIONS: &str = "64";

const PROGRAM: &str = "wrk";

/// Whether `wrk` is here; what to do if it is not.
pub async fn installed() -> Result<(), String> {
    let mut version = Command::new(PROGRAM);
    version.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // It says its version and ends with 1: that it could be started is enough.
    version.status().await.map(drop).map_err(missing)
}

fn missing(error: io::Error) -> String {
    format!("wrk cannot be started ({error}); install the package `wrk`")
}

/// One body that is posted to one address over and over.
pub struct Wrk {
    url: String,
    /// Where the script can read the body.
    body: NamedTempFile,
    header: Option<&'static str>,
}

impl Wrk {
    /// Posts `body`, which is JSON, to `url`.
    pub fn new(url: String, body: &str) -> io::Result<Self> {
        let mut file = NamedTempFile::new()?;
        file.write_all(body.as_bytes())?;
        Ok(Self { url, body: file, header: None })
    }

    /// The same with one more header, `NAME: VALUE`.
    #[must_use]
    pub fn header(self, header: &'static str) -> Self {
        Self { header: Some(header), ..self }
    }

    /// Goes on for whole seconds: requests that were answered, and the seconds they took. Any that is refused is an error.
    pub async fn run(&self, time: Duration) -> Result<(f64, f64), String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wrk.lua");
        let mut command = Command::new(PROGRAM);
        command.args(["--threads", "1", "--connections", CONNECTIONS, "--timeout", "30s", "--duration"]);
        command.arg(format!("{}s", time.as_secs())).arg("--script").arg(script);
        command.args(self.header.iter().flat_map(|header| ["--header", *header]));
        command.arg(&self.url).arg("--").arg(self.body.path()).kill_on_drop(true);
        let output = command.output().await.map_err(missing)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find_map(|line| line.strip_prefix("figure "));
        let line = line.ok_or_else(|| format!("wrk said: {text}"))?;
        let figure: Value = serde_json::from_str(line).map_err(|error| format!("wrk said {line}: {error}"))?;
        let number = |name: &str| figure[name].as_f64().unwrap_or_default();
        if number("refused") > 0.0 {
            return Err(format!("{} of {} requests were refused", number("refused"), number("requests")));
        }
        Ok((number("requests"), number("seconds")))
    }
}
