//! `OpenAiChat`: chat with a model behind an API of OpenAI's format.

use async_trait::async_trait;
use sutazai_core::{
    Result,
    model::{ChatModel, ChatRequest, ChatStream, ModelCapabilities, ModelInfo},
};

use super::{
    answer::Answer,
    client::OpenAiClient,
    request::{Words, chat_body},
};
use crate::http;

/// What a chat model behind such an API is: the format has no question for it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct OpenAiChatConfig {
    /// Its id, as the server lists it.
    pub model: String,
    /// Tokens of prompt and answer together.
    pub context_length: usize,
    /// What it can do; chat alone by default. A request for more fails first, as unsupported. `schema` stands for `response_format`, `vision` for images.
    /// Thinking cannot be asked for in this format and is never declared.
    pub capabilities: ModelCapabilities,
    /// Whether the limit of an answer is sent as `max_completion_tokens`, the one name that OpenAI's own newer models take, and not as `max_tokens`, which
    /// every other server knows. Off by default.
    pub max_completion_tokens: bool,
    /// Whether a schema is sent as `{"type": "json_object", "schema": …}`, the one form that llama-cpp-python takes, and not as `json_schema`, which is
    /// everybody else's. Off by default.
    pub plain_schema: bool,
}

impl OpenAiChatConfig {
    /// A model that chats and can do nothing else.
    pub fn new(model: impl Into<String>, context_length: usize) -> Self {
        Self {
            model: model.into(),
            context_length,
            capabilities: ModelCapabilities { chat: true, ..ModelCapabilities::NONE },
            max_completion_tokens: false,
            plain_schema: false,
        }
    }
}

/// A chat model behind an API of OpenAI's format.
///
/// An answer's usage is what the server says; 0 tokens if it says nothing. An answer that ends before the server has said why has broken off: temporary,
/// code `model_unavailable`. A tool call whose arguments are no JSON object, nor all but one, fails with code
/// `model_malformed`.
#[derive(Clone, Debug)]
pub struct OpenAiChat {
    client: OpenAiClient,
    info: ModelInfo,
    words: Words,
}

impl OpenAiChat {
    /// The model that `config` describes, served at the client's address. Asks nobody.
    #[must_use]
    pub fn new(client: OpenAiClient, config: OpenAiChatConfig) -> Self {
        let can = config.capabilities;
        let info = ModelInfo {
            capabilities: ModelCapabilities { chat: true, embedding: false, thinking: false, ..can },
            ..ModelInfo::new(config.model, "openai", config.context_length)
        };
        let limit = if config.max_completion_tokens { "max_completion_tokens" } else { "max_tokens" };
        Self { client, info, words: Words { limit, plain_schema: config.plain_schema } }
    }
}

#[async_trait]
impl ChatModel for OpenAiChat {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        self.client.holds(&self.info.name).await
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        request.check(&self.info)?;
        let model = &self.info.name;
        let request = self.client.post("chat/completions", &chat_body(model, &request, self.words))?;
        let response = self.client.stream(request, model).await?;
        let (client, name) = (self.client.clone(), model.clone());
        let failed = move |error| client.failed(error, Some(&name));
        Ok(ChatStream::new(&self.info, http::decoded(response, failed, Answer::new(model)).await?))
    }
}
