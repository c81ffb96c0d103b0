//! How a bench says what it measured: a line a figure, for a person or, with `-- --json`, for a script.

use std::{collections::BTreeMap, fmt, io::Write};

use serde::Serialize;

/// One measured figure, beside what peers reached in the same run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The bench, such as `vectors`.
    pub bench: &'static str,
    /// What was measured, such as `p50`.
    pub case: &'static str,
    /// How much.
    pub value: f64,
    /// Of what, such as `us`, `tasks/s` or `ratio`.
    pub unit: &'static str,
    /// The peers' values in the same unit; empty where none is installed.
    pub against: BTreeMap<String, f64>,
}

impl Figure {
    /// A figure without peers.
    #[must_use]
    pub fn new(bench: &'static str, case: &'static str, value: f64, unit: &'static str) -> Self {
        Self { bench, case, value, unit, against: BTreeMap::new() }
    }

    /// Adds what a peer reached, where it ran.
    #[must_use]
    pub fn against(mut self, peer: &str, value: Option<f64>) -> Self {
        self.against.extend(value.map(|value| (peer.to_owned(), value)));
        self
    }

    /// The figure as one line of JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Prints it to standard output in the form that the command line asks for.
    pub fn print(&self) {
        let line = if json_requested() { self.json() } else { self.to_string() };
        // A reader that went away (`| head`) is no fault of the bench.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
}

/// A row of a table: bench, case, value, unit, then each peer.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bench, case, value, unit, against } = self;
        write!(f, "{bench:<14} {case:<22} {:>12} {unit:<12}", number(*value))?;
        for (peer, value) in against {
            write!(f, " {peer} {}", number(*value))?;
        }
        Ok(())
    }
}

/// Whether the command line has `--json` (after cargo's `--`).
#[must_use]
pub fn json_requested() -> bool {
    std::env::args().any(|argument| argument == "--json")
}

/// Four digits that matter, and no fraction for what is large anyway.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_reads_one_object_a_line() {
        let figure = Figure::new("vectors", "p50", 190.5, "us").against("faiss", Some(280.0)).against("none", None);
        assert_eq!(
            figure.json(),
            r#"{"bench":"vectors","case":"p50","value":190.5,"unit":"us","against":{"faiss":280.0}}"#
        );
    }

    #[test]
    fn a_person_reads_a_row() {
        let row = Figure::new("vectors", "p50", 190.53, "us").against("faiss", Some(280.0)).to_string();
        assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["vectors", "p50", "190.5", "us", "faiss", "280.0"]);
    }
}
