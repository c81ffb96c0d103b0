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
    let output = Command::new(program).arg(argument).kill_on_drop(true).output();
    let output = timeout(PATIENCE, output).await.map_err(|_| format!("it took more than {PATIENCE:?}"))?;
    let output = output.map_err(|error| format!("it cannot be started: {error}"))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("it failed ({error}): {}", String::from_utf8_lossy(&output.stderr)))
}
