//! `config …`: what the settings are, and whether they are right.

use serde_json::{Value, json};

use super::{
    grammar::Config,
    output::{Output, say},
};
use crate::{
    config::{Configuration, Note, Refused},
    process::{Exit, Failure},
};

/// Runs `config …`.
pub(super) fn run(command: &Config, configuration: &Configuration, out: Output) -> Result<Exit, Failure> {
    let notes: Vec<String> = configuration.notes.iter().map(ToString::to_string).collect();
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
            let unknown = configuration.notes.iter().any(|note| matches!(note, Note::Unknown { .. }));
            let refused = configuration.settings.check().err();
            let faults = refused.as_ref().map_or(&[][..], Refused::faults);
            let ok = !unknown && faults.is_empty();
            out.answer(&json!({ "ok": ok, "faults": faults, "notes": notes }), |_| {
                notes.iter().for_each(|note| say(&format!("note: {note}")));
                match (ok, unknown) {
                    (true, _) => out.line("the settings are right"),
                    (false, true) => out.line("unknown names were given"),
                    (false, false) => Ok(()),
                }
            })?;
            match refused {
                Some(refused) => Err(refused.into()),
                None => Ok(if unknown { Exit::Usage } else { Exit::Done }),
            }
        }
    }
}

/// `config check` where the settings cannot even be read.
pub(super) fn unreadable(refused: Refused, out: Output) -> Failure {
    if out.is_json() {
        let document = json!({ "ok": false, "faults": refused.faults(), "notes": [] });
        if let Err(failure) = out.document(&document) {
            return failure;
        }
    }
    refused.into()
}
