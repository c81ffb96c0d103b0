//! What a model is and can do, as data.

use serde::{Deserialize, Serialize};

/// A model as a backend serves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Its name in Ollama's form, such as `smollm2:135m`.
    pub name: String,
    /// The backend that serves it: `local`, `ollama`, `scripted`.
    pub backend: String,
    /// Tokens of prompt and answer together.
    pub context_length: usize,
    /// Numbers in an embedding; 0 for chat models.
    pub dimension: usize,
    /// What it can do.
    pub capabilities: ModelCapabilities,
    /// The digest of its weights, where the backend knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Bytes of memory that it takes while it is loaded, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
}

impl ModelInfo {
    /// A model that can do nothing yet.
    #[must_use]
    pub fn new(name: impl Into<String>, backend: impl Into<String>, context_length: usize) -> Self {
        Self {
            name: name.into(),
            backend: backend.into(),
            context_length,
            dimension: 0,
            capabilities: ModelCapabilities::default(),
            digest: None,
            memory: None,
        }
    }
}

/// What a request may ask of a model. A request for more fails first, as unsupported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelCapabilities {
    /// Chat.
    pub chat: bool,
    /// Embeddings.
    pub embedding: bool,
    /// Tool calls.
    pub tools: bool,
    /// Answers bound to a JSON schema.
    pub schema: bool,
    /// The same answer for the same seed.
    pub seed: bool,
    /// Messages with images.
    pub vision: bool,
    /// Thinking aloud before the answer.
    pub thinking: bool,
}

impl ModelCapabilities {
    /// Nothing at all.
    pub const NONE: Self = Self {
        chat: false,
        embedding: false,
        tools: false,
        schema: false,
        seed: false,
        vision: false,
        thinking: false,
    };
}
