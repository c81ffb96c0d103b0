//! Going on with a text, without a conversation around it.

use serde_json::{Map, Value};
use sutazai_core::{
    Result,
    model::{ChatStream, Image, ModelInfo, ResponseFormat},
};

use super::{KeepAlive, answer::Answer, client::OllamaClient, request::generate_body};

/// What to ask of a model that goes on with a text.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct GenerateRequest {
    /// The model.
    pub model: String,
    /// The text. An empty one loads the model, and the answer is as empty.
    pub prompt: String,
    /// Instructions, in place of the model's own.
    pub system: Option<String>,
    /// Pictures that belong to the text.
    pub images: Vec<Image>,
    /// The form of the answer.
    pub response_format: ResponseFormat,
    /// Whether the model thinks aloud first; its own habit if not said.
    pub think: Option<bool>,
    /// Whether the model gets the text as it is, without its template. Then there are no instructions.
    pub raw: bool,
    /// Ollama's options under Ollama's names, such as `num_ctx`, `num_predict`, `temperature` and `stop`; what is not named here is the model's own.
    pub options: Map<String, Value>,
    /// How long the server keeps the model in memory afterwards; its own habit if not said.
    pub keep_alive: Option<KeepAlive>,
}

impl GenerateRequest {
    /// This text, for this model.
    pub fn new(model: impl Into<String>, prompt: impl Into<String>) -> Self {
        Self { model: model.into(), prompt: prompt.into(), ..Self::default() }
    }
}

impl OllamaClient {
    /// Begins an answer to a text: pieces of text and of thoughts, then one finish. Nothing is checked before: what a model cannot do, the server says.
    /// Cancel by dropping.
    ///
    /// Errors before the first piece come back here: code `model_not_found` if the server does not hold the model, `context_length_exceeded` if the text
    /// leaves no room for an answer, and those of every call.
    pub async fn generate(&self, request: GenerateRequest) -> Result<ChatStream> {
        let model = &request.model;
        let sent = self.post("api/generate", &generate_body(&request))?;
        let events = self.lines(sent, model, Answer::new(model)).await?;
        // Nobody has asked how much it reads.
        Ok(ChatStream::new(&ModelInfo::new(model, "ollama", 0), events))
    }
}
