//! `tasks replay`: a task's code against what it recorded.

use std::fs;

use serde_json::{Value, json};
use sutazai_core::engine::Cassette;

use super::{grammar::Replay, journal::address, output::Output, tasks::text};
use crate::{
    client::Client,
    compose,
    config::Settings,
    process::{Exit, Failure},
};

/// Runs `tasks replay`.
pub(super) async fn run(replay: Replay, settings: &Settings, out: Output) -> Result<Exit, Failure> {
    let found = match (replay.cassette, replay.id) {
        (Some(path), _) => {
            let unreadable = |error| Failure::usage(format!("--cassette {}: {error}", path.display()));
            alone(&fs::read_to_string(&path).map_err(unreadable)?, settings).await?
        }
        (None, Some(id)) => {
            let client = Client::new(&settings.server)?;
            if let Some(path) = replay.save {
                let cassette = client.get(&address(&id, "cassette"), &[]).await?;
                let unwritable = |error| Failure::new(Exit::Failed, format!("--save {}: {error}", path.display()));
                fs::write(&path, cassette.to_string() + "\n").map_err(unwritable)?;
            }
            client.post(&address(&id, "replay"), &json!({}), None).await?
        }
        (None, None) => return Ok(Exit::Usage), // the grammar takes no such line
    };
    let matches = found["matches"] == true;
    out.answer(&found, |found| {
        let entries = text(&found["entries"]);
        match found["divergence"].as_str() {
            Some(divergence) => out.line(&format!("the code does something else: {divergence}")),
            None => {
                out.line(&format!("the code does what was recorded in {entries} entries"))?;
                match found["beyond"].as_str() {
                    Some(beyond) => out.line(&format!("it has not come to an end there: {beyond}")),
                    None => Ok(()),
                }
            }
        }
    })?;
    Ok(if matches { Exit::Done } else { Exit::Failed })
}

/// Runs the agents of this binary against a recorded run.
async fn alone(cassette: &str, settings: &Settings) -> Result<Value, Failure> {
    let cassette = Cassette::from_json(cassette)?;
    let orchestrator = compose::replaying(settings).await?;
    let replayed = orchestrator.replay_cassette(cassette).await;
    orchestrator.shutdown(std::time::Duration::ZERO).await?;
    let unwritten = |error| Failure::new(Exit::Failed, format!("the report cannot be written: {error}"));
    serde_json::to_value(replayed?).map_err(unwritten)
}
