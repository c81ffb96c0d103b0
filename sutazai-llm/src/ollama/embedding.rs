//! `OllamaEmbedding`: embeddings by a model that an Ollama serves.

use async_trait::async_trait;
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{EmbeddingModel, Embeddings, ModelInfo},
};

use super::{
    client::OllamaClient,
    wire::{Embedded, embed_body, unavailable},
};
use crate::vector::normalise;

/// Texts in one request.
const BATCH: usize = 64;

/// An embedding model that an Ollama serves.
#[derive(Clone, Debug)]
pub struct OllamaEmbedding {
    client: OllamaClient,
    info: ModelInfo,
}

impl OllamaEmbedding {
    /// Asks the server what `model` can do; code `model_not_found` if it does not hold it, kind `Unsupported` if it does not embed.
    pub async fn connect(client: OllamaClient, model: &str) -> Result<Self> {
        let info = client.show(model).await?.info(model, usize::MAX);
        if !info.capabilities.embedding || info.dimension == 0 {
            return Err(Error::new(ErrorKind::Unsupported, "this model does not embed")
                .during("embed with")
                .about(model));
        }
        Ok(Self { client, info })
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
            let request = self.client.post("api/embed", &embed_body(&self.info.name, batch))?;
            let answer: Embedded = self.client.json(request, Some(&self.info.name)).await?;
            let right = |vector: &Vec<f32>| vector.len() == self.info.dimension;
            let vectors: Option<Vec<_>> = answer.embeddings.into_iter().filter(right).map(normalise).collect();
            let Some(vectors) = vectors.filter(|vectors| vectors.len() == batch.len()) else {
                return Err(unavailable("Ollama sent other vectors than were asked for")
                    .during("embed with")
                    .about(&self.info.name));
            };
            all.tokens += answer.prompt_eval_count;
            all.vectors.extend(vectors);
        }
        Ok(all)
    }
}
