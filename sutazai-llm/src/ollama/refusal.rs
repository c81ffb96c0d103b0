//! What an Ollama means when it does not answer.
//!
//! It has no codes: beside the status there are only its words, and those of the program that runs a model for it.

use std::time::Duration;

use serde_json::Value;
use sutazai_core::{Error, ErrorKind};

use crate::http::Refusal;

/// A prompt beyond the context.
const BEYOND: [&str; 5] = [
    "exceeds the context length",         // the runner, for chats and embeddings
    "longer than the context length",     // the server, which counts before it asks
    "exceeds maximum context length",     // the server, for embeddings
    "exceeds the available context size", // llama.cpp
    "context size has been exceeded",     // llama.cpp, in the middle of an answer
];

/// A model that does not fit into memory, or an answer that did not. Each is only a part of what is said, in lower case.
const NO_MEMORY: [&str; 15] = [
    "requires more system memory",
    "memory layout cannot be allocated",
    "allocate memory for model",
    "commit memory for model",
    "unable to load full model on gpu",
    "out of memory",
    "out of device memory",
    "cudamalloc failed",
    "hipmalloc failed",
    "unable to allocate",
    "failed to allocate",
    "not enough memory",
    "insufficient memory",
    "out_of_device_memory",
    "erroroutofmemory",
];

/// Too much to do, or not yet ready for it.
const BUSY: [&str; 4] =
    ["server busy", "maximum pending requests exceeded", "no slots available", "server loading model"];

/// The end of the program that runs the model. The server starts it anew for the next request.
const DIED: [&str; 4] = [
    "runner has unexpectedly stopped",
    "runner process",
    "llama-server process",
    "an error was encountered while running the model",
];

/// A schema that cannot be made a grammar.
const FORMAT: [&str; 2] = ["invalid json schema in format", "invalid format"];

/// Characters of a server's own words that are passed on.
const WORDS: usize = 500;

/// What an answer that is not 200 means.
pub(super) fn refused(refusal: &Refusal, model: Option<&str>) -> Error {
    let body: Value = serde_json::from_slice(&refusal.body).unwrap_or_default();
    meaning(refusal.status, refusal.wait, body.get("error").filter(|error| !error.is_null()), model)
}

/// What an error means that comes in place of a line, when the status has long been sent.
pub(super) fn broken(error: &Value, model: &str) -> Error {
    meaning(500, None, Some(error), Some(model))
}

fn meaning(status: u16, wait: Option<Duration>, error: Option<&Value>, model: Option<&str>) -> Error {
    let text = error.map(said).unwrap_or_default();
    let lower = text.to_lowercase();
    let says = |signs: &[&str]| signs.iter().any(|sign| lower.contains(sign));
    let meant = match (status, model) {
        _ if says(&BEYOND) || error.is_some_and(|error| exceeds_context(error, 4)) => {
            Error::new(ErrorKind::Invalid, "the prompt leaves no room for an answer in the model's context")
                .with_code("context_length_exceeded")
        }
        (401 | 403, _) => Error::new(
            ErrorKind::Invalid,
            "access is refused: a cloud model needs `ollama signin` on the server, a proxy credentials in the address",
        )
        .with_code("model_unauthorised"),
        // Not temporary: asked again, the same server would load the same model into the same memory.
        _ if says(&NO_MEMORY) => Error::new(
            ErrorKind::Failed,
            "Ollama has not enough memory for this model; ask a smaller one, or with less context",
        )
        .with_code("out_of_memory"),
        (429 | 503, _) => busy(wait),
        _ if says(&BUSY) => busy(wait),
        _ if says(&DIED) => unavailable("the program that runs the model for Ollama has ended"),
        _ if says(&["pull model manifest: file does not exist"]) => {
            Error::new(ErrorKind::NotFound, "there is no model of this name to pull").with_code("model_not_found")
        }
        _ if says(&["no space left on device"]) => Error::new(ErrorKind::Full, "the disk of the Ollama is full"),
        (404, Some(model)) if error.is_some() => missing(model),
        (_, Some(model)) if lower.starts_with("model ") && says(&["not found"]) => missing(model),
        _ if says(&FORMAT) => Error::new(ErrorKind::Invalid, "the model cannot be bound to this JSON schema")
            .with_code("schema_unsupported"),
        (408 | 504, _) => silent("Ollama did not answer in time"),
        (501, _) => Error::new(ErrorKind::Unsupported, "this model cannot do that"),
        (500.., _) => match wait {
            Some(wait) => unavailable("Ollama cannot serve now").retry_after(wait),
            None => unavailable("Ollama cannot serve now"),
        },
        (400 | 413 | 422, _) => Error::new(ErrorKind::Invalid, "Ollama refuses the request"),
        _ => Error::new(ErrorKind::Unsupported, format!("what answers with status {status} is no Ollama"))
            .with_code("model_unavailable"),
    };
    let words: String = text.chars().take(WORDS).collect();
    if words.is_empty() { meant } else { meant.because(words) }
}

fn missing(model: &str) -> Error {
    let message = format!("Ollama does not hold this model; get it with `ollama pull {model}`");
    Error::new(ErrorKind::NotFound, message).with_code("model_not_found")
}

fn busy(wait: Option<Duration>) -> Error {
    Error::new(ErrorKind::Full, "Ollama has too much to do; try again later")
        .with_code("queue_full")
        .retry_after(wait.unwrap_or(Duration::from_secs(1)))
}

/// What an error says: its text, or the message in it.
fn said(error: &Value) -> String {
    match error.as_str().or_else(|| error.get("message")?.as_str()) {
        Some(text) => text.to_owned(),
        None => error.to_string(),
    }
}

/// Whether an error is of llama.cpp's type for prompts beyond the context. Ollama passes on what its runner says, as an object or as JSON in a text.
fn exceeds_context(error: &Value, depth: u32) -> bool {
    let inside = |inner: &Value| depth > 0 && exceeds_context(inner, depth - 1);
    match error {
        Value::Object(fields) => {
            fields.get("type").is_some_and(|kind| kind == "exceed_context_size_error")
                || fields.get("error").is_some_and(inside)
        }
        Value::String(text) => text.starts_with('{') && serde_json::from_str(text).is_ok_and(|inner| inside(&inner)),
        _ => false,
    }
}

/// A temporary failure.
pub(super) fn unavailable(message: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, message).with_code("model_unavailable")
}

/// Time ran out.
pub(super) fn silent(message: &'static str) -> Error {
    Error::new(ErrorKind::Timeout, message).with_code("model_timeout")
}

/// An answer that is not of the format.
pub(super) fn unreadable() -> Error {
    unavailable("Ollama sent what cannot be read")
}

#[cfg(test)]
mod tests;
