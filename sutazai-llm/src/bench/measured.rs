//! What a bench found out about a model.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::tier::Tier;

/// What a bench found out about a model. What the backend does not tell, and could not be measured from outside either, is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Measured {
    /// Tokens of a prompt that it reads in a second.
    pub prompt_tokens_per_s: Option<f64>,
    /// Tokens that it writes in a second.
    pub generation_tokens_per_s: Option<f64>,
    /// Milliseconds from the question, with a prompt of some hundred tokens, to the first piece of the answer.
    pub first_token_ms: Option<f64>,
    /// Bytes of memory that it takes.
    pub memory_bytes: Option<u64>,
    /// Answers that were to keep to a JSON schema, and did.
    pub json: Marks,
    /// Questions of the quality set, and those that were answered rightly.
    pub quality: BTreeMap<Tier, Marks>,
    /// The names of the questions that were not.
    pub wrong: Vec<String>,
}

/// How many of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Those that were right.
    pub right: u32,
    /// All.
    pub asked: u32,
}

impl Measured {
    /// The marks of a tier's questions.
    #[must_use]
    pub fn marks(&self, tier: Tier) -> Marks {
        self.quality.get(&tier).copied().unwrap_or_default()
    }
}

impl Marks {
    /// So many right ones of so many.
    #[must_use]
    pub const fn new(right: u32, asked: u32) -> Self {
        Self { right, asked }
    }

    pub(super) fn note(&mut self, right: bool) {
        self.asked += 1;
        self.right += u32::from(right);
    }
}
