//! `OllamaChat`: chat with a model that an Ollama serves.

use async_trait::async_trait;
use sutazai_core::{
    Result,
    model::{ChatModel, ChatRequest, ChatStream, ModelInfo},
};

use super::{
    KeepAlive,
    answer::Answer,
    client::OllamaClient,
    request::{chat_body, load_body},
};

/// Tokens of context where nobody asks for more: what a machine without a large GPU holds.
pub(super) const CONTEXT: usize = 4096;

/// A chat model that an Ollama serves.
///
/// An answer that ends before the server has said so has broken off: temporary, code `model_unavailable`. What a model thinks comes as
/// [`ChatEvent::Thinking`](sutazai_core::model::ChatEvent::Thinking); one that can think does so unless the request says no.
#[derive(Clone, Debug)]
pub struct OllamaChat {
    client: OllamaClient,
    info: ModelInfo,
    keep_alive: KeepAlive,
}

impl OllamaChat {
    /// Asks the server what `model` is and can do; code `model_not_found` if it does not hold it. Its digest is the manifest's, as the server lists it; its
    /// memory is what it takes if it is loaded, and otherwise an estimate from its size on disk.
    ///
    /// `context` is the number of tokens that the server is told to make room for, 4096 if not given, and never more than the model has. It is the
    /// same in every call, since the server reloads a model that is asked for with another one.
    pub async fn connect(client: OllamaClient, model: &str, context: Option<usize>) -> Result<Self> {
        let info = client.describe(model, context.unwrap_or(CONTEXT)).await?;
        Ok(Self::described(client, info))
    }

    pub(super) fn described(client: OllamaClient, info: ModelInfo) -> Self {
        Self { client, info, keep_alive: KeepAlive::default() }
    }

    /// How long the server keeps the model in memory after an answer; 30 minutes if not said.
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.keep_alive = keep_alive;
        self
    }
}

#[async_trait]
impl ChatModel for OllamaChat {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        self.client.show(&self.info.name).await.map(drop)
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        request.check(&self.info)?;
        let model = &self.info.name;
        let body = chat_body(model, &request, self.info.context_length, self.keep_alive);
        let request = self.client.post("api/chat", &body)?;
        let events = self.client.lines(request, model, Answer::new(model)).await?;
        Ok(ChatStream::new(&self.info, events))
    }

    async fn load(&self) -> Result<()> {
        let body = load_body(&self.info.name, self.info.context_length, self.keep_alive);
        self.client.load("api/generate", &body, &self.info.name).await
    }

    async fn unload(&self) -> Result<()> {
        self.client.unload(&self.info.name).await
    }
}
