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
}

/// What a request may ask of a model. A request for more fails first, as unsupported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
}
