//! `OllamaEmbedding`: embeddings by a model that an Ollama serves.

use async_trait::async_trait;
use serde::Deserialize;
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{EmbeddingModel, Embeddings, ModelInfo},
};

use super::{
    KeepAlive,
    client::OllamaClient,
    refusal::unavailable,
    request::{embed_body, load_embedding_body},
};
use crate::vector::normalise;

/// Texts in one request.
const BATCH: usize = 64;

/// An embedding model that an Ollama serves.
#[derive(Clone, Debug)]
pub struct OllamaEmbedding {
    client: OllamaClient,
    info: ModelInfo,
    keep_alive: KeepAlive,
}

/// The answer of `POST /api/embed`.
#[derive(Debug, Deserialize)]
struct Answer {
    embeddings: Vec<Vec<f32>>,
    prompt_eval_count: Option<u32>,
}

impl OllamaEmbedding {
    /// Asks the server what `model` is and can do; code `model_not_found` if it does not hold it, kind `Unsupported` if it does not embed.
    pub async fn connect(client: OllamaClient, model: &str) -> Result<Self> {
        let info = client.describe(model, usize::MAX).await?;
        Self::described(client, info)
    }

    pub(super) fn described(client: OllamaClient, info: ModelInfo) -> Result<Self> {
        if !info.capabilities.embedding || info.dimension == 0 {
            return Err(Error::new(ErrorKind::Unsupported, "this model does not embed")
                .during("embed with")
                .about(&info.name));
        }
        Ok(Self { client, info, keep_alive: KeepAlive::default() })
    }

    /// How long the server keeps the model in memory after an answer; 30 minutes if not said.
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.keep_alive = keep_alive;
        self
    }
}

#[async_trait]
impl EmbeddingModel for OllamaEmbedding {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        self.client.show(&self.info.name).await.map(drop)
    }

    async fn embed(&self, texts: &[String]) -> Result<Embeddings> {
        let mut all = Embeddings { vectors: Vec::with_capacity(texts.len()), tokens: 0 };
        for batch in texts.chunks(BATCH) {
            let request = self.client.post("api/embed", &embed_body(&self.info.name, batch, self.keep_alive))?;
            let answer: Answer = self.client.json(request, Some(&self.info.name)).await?;
            let right = |vector: &Vec<f32>| vector.len() == self.info.dimension;
            let unit = |vector| Some(vector).filter(right).and_then(normalise);
            let vectors: Option<Vec<_>> = answer.embeddings.into_iter().map(unit).collect();
            let Some(vectors) = vectors.filter(|vectors| vectors.len() == batch.len()) else {
                return Err(unavailable("Ollama sent other vectors than were asked for")
                    .during("embed with")
                    .about(&self.info.name));
            };
            all.tokens = all.tokens.saturating_add(answer.prompt_eval_count.unwrap_or(0));
            all.vectors.extend(vectors);
        }
        Ok(all)
    }

    async fn load(&self) -> Result<()> {
        let body = load_embedding_body(&self.info.name, self.keep_alive);
        self.client.load("api/embed", &body, &self.info.name).await
    }

    async fn unload(&self) -> Result<()> {
        self.client.unload(&self.info.name).await
    }
}
