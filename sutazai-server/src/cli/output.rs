//! What people see: tables and colour on a terminal, plain columns elsewhere, JSON on demand.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::{config::one_line, process::Failure};

/// Where and how a command answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
    terminal: bool,
}

impl Output {
    /// JSON if `json`, else for people.
    #[must_use]
    pub(super) fn new(json: bool) -> Self {
        Self { json, terminal: io::stdout().is_terminal() }
    }

    /// Whether the answer is JSON.
    #[must_use]
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// Prints `document` as JSON if that was asked for, else what `people` prints.
    pub(super) fn answer<T: Serialize + ?Sized>(
        self,
        document: &T,
        people: impl FnOnce(&T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.json { self.document(document) } else { people(document) }
    }

    /// Prints one JSON document: a line, or indented where a person reads it.
    pub(super) fn document<T: Serialize + ?Sized>(self, document: &T) -> Result<(), Failure> {
        let text = if self.terminal { serde_json::to_string_pretty(document) } else { serde_json::to_string(document) };
        self.line(&text.map_err(io::Error::other)?)
    }

    /// Prints a line.
    pub(super) fn line(self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    }

    /// Prints rows under a head: a table on a terminal, columns between tabs elsewhere.
    pub(super) fn table(self, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<(), Failure> {
        if !self.terminal {
            let clean = |row: Vec<String>| row.iter().map(|cell| one_line(cell)).collect::<Vec<_>>().join("\t");
            return rows.into_iter().try_for_each(|row| self.line(&clean(row)));
        }
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(head.to_vec());
        let colour = std::env::var_os("NO_COLOR").is_none();
        for row in rows {
            table.add_row(row.into_iter().map(|text| match colour_of(&text).filter(|_| colour) {
                Some(colour) => Cell::new(text).fg(colour),
                None => Cell::new(text),
            }));
        }
        self.line(&table.to_string())
    }
}

/// The colour of a word that says how something stands.
fn colour_of(word: &str) -> Option<Color> {
    match word {
        "completed" | "ready" | "here" | "live" => Some(Color::Green),
        "failed" | "dead" => Some(Color::Red),
        "cancelled" => Some(Color::DarkGrey),
        "running" | "assigned" => Some(Color::Cyan),
        "waiting" => Some(Color::Yellow),
        _ => None,
    }
}

/// A line for people beside the result.
pub(super) fn say(text: &str) {
    // Nobody can be told that stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
