//! What all answers in OpenAI's format have.

use serde::Serialize;
use sutazai_core::{
    clock::{Clock, SystemClock},
    model::{StopReason, Usage},
};
use uuid::Uuid;

use crate::http::{models::Begun, problem::Problem};

/// What a stream ends with that did not break off.
pub(super) const DONE: &str = "[DONE]";

/// What the whole answer and every piece of it begin with.
pub(super) struct Head {
    id: String,
    created: i64,
    model: String,
}

impl Head {
    /// The head of an answer that has begun; ids begin with `prefix`.
    pub(super) fn new(prefix: &str, begun: &Begun) -> Self {
        Self {
            id: format!("{prefix}-{}", Uuid::now_v7().simple()),
            created: SystemClock.now().as_millis() / 1_000,
            model: begun.model().to_owned(),
        }
    }

    /// An `object` with these choices under this head.
    pub(super) fn over<C>(&self, object: &'static str, choices: Vec<C>, usage: Option<UsageOut>) -> Envelope<'_, C> {
        Envelope { id: &self.id, object, created: self.created, model: &self.model, choices, usage }
    }
}

/// An answer or a piece of it.
#[derive(Serialize)]
pub(super) struct Envelope<'a, C> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageOut>,
}

/// Tokens used.
#[derive(Clone, Copy, Serialize)]
pub(super) struct UsageOut {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
}

impl From<Usage> for UsageOut {
    fn from(Usage { prompt_tokens, completion_tokens }: Usage) -> Self {
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens.saturating_add(completion_tokens) }
    }
}

/// Why an answer ended, in OpenAI's words.
pub(super) fn finish_reason(stop: StopReason) -> &'static str {
    match stop {
        StopReason::Length => "length",
        StopReason::ToolCalls => "tool_calls",
        _ => "stop",
    }
}

/// Refuses more answers than one.
pub(super) fn only_one(n: Option<u32>) -> Result<(), Problem> {
    match n {
        None | Some(1) => Ok(()),
        Some(_) => Err(Problem::field("/n", "only 1 answer at a time is given")),
    }
}

/// A seed may be negative here: each number is a seed of its own.
pub(super) fn seed(seed: Option<i64>) -> Option<u64> {
    seed.map(i64::cast_unsigned)
}
