//! `config …`: what the settings are, and whether they are right.

use serde_json::{Value, json};

use super::{
    grammar::Config,
    output::{Output, say},
};
use crate::{
    config::{Configuration, Note},
    process::{Exit, Failure},
};

/// Runs `config …`.
pub(super) fn run(command: &Config, configuration: &Configuration, out: Output) -> Result<Exit, Failure> {
    let notes: Vec<String> = configuration.notes.iter().map(ToString::to_string).collect();
    let unknown = configuration.notes.iter().any(|note| matches!(note, Note::Unknown { .. }));
    match command {
        Config::Print => {
            let entries = &configuration.entries;
            let settings: serde_json::Map<String, Value> = entries
                .iter()
                .map(|entry| (entry.key.name.to_owned(), json!({ "value": entry.shown, "origin": entry.origin })))
                .collect();
            out.answer(&json!({ "settings": settings, "notes": notes }), |_| {
                let row = |entry: &crate::config::Entry| {
                    vec![entry.key.name.into(), entry.shown.clone(), entry.origin.clone()]
                };
                out.table(&["setting", "value", "origin"], entries.iter().map(row))?;
                notes.iter().for_each(|note| say(&format!("note: {note}")));
                Ok(())
            })?;
            Ok(Exit::Done)
        }
        Config::Check => {
            out.answer(&json!({ "ok": !unknown, "notes": notes }), |_| {
                notes.iter().for_each(|note| say(&format!("note: {note}")));
                out.line(if unknown { "unknown names were given" } else { "the settings are right" })
            })?;
            Ok(if unknown { Exit::Usage } else { Exit::Done })
        }
    }
}
