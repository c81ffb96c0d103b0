//! Programs of `benches/peers` that measure somebody else's work.

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use serde_json::Value;
use tokio::{process::Command, time::timeout};

use crate::notes::peer;

/// How long a peer may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a peer printed: one JSON object of figures. One that is missing or fails is told and left out.
pub async fn figures(bench: &str, name: &str, argument: impl AsRef<OsStr>) -> Option<Value> {
    peer(bench, name, run(name, argument.as_ref()).await)
}

async fn run(name: &str, argument: &OsStr) -> Result<Value, String> {
    let program: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "peers", name, "bin", &format!("{name}-bench")].iter().collect();
    if !program.is_file() {
        return Err(format!("it is not installed; benches/peers/{name}/install does"));
    }
    // Those that log do so on stdout, at a cost, unless told not to.
    let output = Command::new(program).arg(argument).env("RUST_LOG", "off").kill_on_drop(true).output();
    let output = timeout(PATIENCE, output).await.map_err(|_| format!("it took more than {PATIENCE:?}"))?;
    let output = output.map_err(|error| format!("it cannot be started: {error}"))?;
    figures_in(&output.stdout).map_err(|error| {
        format!("it ended with {} ({error}): {}", output.status, String::from_utf8_lossy(&output.stderr))
    })
}

/// The last line: what a peer's library logs stands before it.
fn figures_in(stdout: &[u8]) -> serde_json::Result<Value> {
    let mut lines = stdout.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    serde_json::from_slice(lines.next_back().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::figures_in;

    #[test]
    fn a_log_before_the_figures_is_passed_over() {
        let figures = figures_in(b"\x1b[2m2026-11-29 WARN slow\x1b[0m\n{\"tasks_per_s\": 5.0}\n").unwrap();
        assert_eq!(figures["tasks_per_s"], 5.0);
        assert!(figures_in(b"").is_err() && figures_in(b"it failed\n").is_err());
    }
}
