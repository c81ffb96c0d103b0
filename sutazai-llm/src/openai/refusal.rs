//! What a server means when it does not answer.

use std::time::Duration;

use serde_json::Value;
use sutazai_core::{Error, ErrorKind};

use crate::http::Refusal;

/// The words that mean a prompt beyond the context, where no code does.
const BEYOND: [&str; 6] = [
    "maximum context length",         // OpenAI, vLLM
    "exceed context window",          // llama-cpp-python
    "available context size",         // llama.cpp
    "max context size",               // llama.cpp, for embeddings
    "context size has been exceeded", // llama.cpp, in the middle of an answer
    "is too large to process",        // llama.cpp, for embeddings that do not fit its batch
];

/// Characters of a server's own words that are passed on: some repeat the whole request.
const WORDS: usize = 500;

/// What an answer that is not 200 means. `key` is hidden in the server's words.
pub(super) fn refused(refusal: &Refusal, model: Option<&str>, key: Option<&str>) -> Error {
    let body: Value = serde_json::from_slice(&refusal.body).unwrap_or_default();
    meaning(refusal.status, refusal.wait, told(&body), model, key)
}

/// What an event that carries an error means, in the middle of an answer. Some servers put a status in it.
pub(super) fn broken(event: &[u8], model: &str) -> Error {
    let event: Value = serde_json::from_slice(event).unwrap_or_default();
    let error = told(&event);
    let code = error.and_then(|error| error.get("code")?.as_u64());
    let status = code.and_then(|code| u16::try_from(code).ok()).filter(|status| (400..600).contains(status));
    meaning(status.unwrap_or(500), None, error, Some(model), None)
}

fn meaning(
    status: u16,
    wait: Option<Duration>,
    error: Option<&Value>,
    model: Option<&str>,
    key: Option<&str>,
) -> Error {
    if matches!(status, 401 | 403) {
        // Without the server's words: they tend to repeat a part of the key.
        return Error::new(ErrorKind::Invalid, "the API key is refused, or one is needed")
            .with_code("model_unauthorised");
    }
    let is = |what: &str| error.is_some_and(|error| names(error, what));
    let meant = match status {
        _ if error.is_some_and(exceeds_context) => {
            Error::new(ErrorKind::Invalid, "the prompt leaves no room for an answer in the model's context")
                .with_code("context_length_exceeded")
        }
        _ if status == 402 || is("insufficient_quota") => {
            Error::new(ErrorKind::Failed, "the account with the server has nothing left to spend")
        }
        _ if is("model_not_found") || (status == 404 && model.is_some() && error.is_some()) => {
            let message = "the server does not serve this model, or not at this address; see what it lists at `models`";
            Error::new(ErrorKind::NotFound, message).with_code("model_not_found")
        }
        // Behind an agent's answer stands a task, which was tried as often as it may be: asked again, the agent would begin another one.
        _ if is("task_failed") => {
            Error::new(ErrorKind::Failed, "the task behind the answer failed").with_code("task_failed")
        }
        _ if is("task_cancelled") => {
            Error::new(ErrorKind::Cancelled, "the task behind the answer was cancelled").with_code("task_cancelled")
        }
        408 | 504 => silent("the server did not answer in time"),
        429 => Error::new(ErrorKind::Full, "the server has too much to do; try again later")
            .with_code("queue_full")
            .retry_after(wait.unwrap_or(Duration::from_secs(1))),
        501 => Error::new(ErrorKind::Unsupported, "the server does not do what is asked, or was not started for it"),
        500.. => match wait {
            Some(wait) => unavailable("the server cannot serve now").retry_after(wait),
            None => unavailable("the server cannot serve now"),
        },
        400 | 413 | 422 => Error::new(ErrorKind::Invalid, "the server refuses the request"),
        _ => Error::new(
            ErrorKind::Unsupported,
            format!("what answers with status {status} is no API of OpenAI's format; most addresses end in /v1"),
        )
        .with_code("model_unavailable"),
    };
    match error {
        Some(error) => meant.because(words(error, key)),
        None => meant,
    }
}

/// The error in a body or an event: under its name, or all of it, as vLLM has it.
fn told(body: &Value) -> Option<&Value> {
    let whole = || body.get("object").is_some_and(|object| object == "error").then_some(body);
    body.get("error").filter(|error| !error.is_null()).or_else(whole)
}

/// Whether an error is of this code or type.
fn names(error: &Value, what: &str) -> bool {
    ["code", "type"].into_iter().any(|field| error.get(field).is_some_and(|name| name == what))
}

fn exceeds_context(error: &Value) -> bool {
    let said = said(error).to_lowercase();
    names(error, "context_length_exceeded")
        || names(error, "exceed_context_size_error")
        || BEYOND.iter().any(|words| said.contains(words))
}

/// What an error says: its text, or the message in it.
fn said(error: &Value) -> String {
    match error.as_str().or_else(|| error.get("message")?.as_str()) {
        Some(text) => text.to_owned(),
        None => error.to_string(),
    }
}

/// The same, as it may be shown.
fn words(error: &Value, key: Option<&str>) -> String {
    let mut words = said(error);
    if let Some(key) = key {
        words = words.replace(key, "[the API key]");
    }
    words.chars().take(WORDS).collect()
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
    unavailable("the server sent what cannot be read")
}
