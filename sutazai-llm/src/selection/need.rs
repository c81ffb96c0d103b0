//! What a model is wanted for.

use serde::Serialize;
use sutazai_core::model::ModelCapabilities;

use crate::tier::Tier;

/// What a model is wanted for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Need {
    /// The kind of work.
    pub tier: Tier,
    /// What it must be able to do.
    pub capabilities: ModelCapabilities,
    /// Tokens of prompt and answer that must find room together; 0 if that is not known.
    pub context_tokens: usize,
    /// Bytes of memory that models may still take on this machine; not bounded if nothing is said.
    pub memory: Option<u64>,
}

impl Need {
    /// Chat of this kind, and no more than that.
    #[must_use]
    pub fn new(tier: Tier) -> Self {
        let capabilities = ModelCapabilities { chat: true, ..ModelCapabilities::NONE };
        Self { tier, capabilities, context_tokens: 0, memory: None }
    }
}
