//! What a bench says beside its figures, on standard error.

use std::fmt::Display;

/// Says something about a bench or one of its cases. Standard output is for figures.
#[allow(clippy::print_stderr, reason = "standard output is for figures")]
pub fn note(of: &str, text: impl Display) {
    eprintln!("{of}: {text}");
}

/// What a peer reached; one that is missing or fails is told and left out, for our own figures stand without it.
pub fn peer<T, E: Display>(bench: &str, name: &str, outcome: Result<T, E>) -> Option<T> {
    outcome.inspect_err(|error| note(bench, format_args!("{name} is left out: {error:.500}"))).ok()
}
