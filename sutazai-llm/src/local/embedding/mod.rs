//! Sentence embeddings in this process: all-MiniLM-L6-v2, nomic-embed-text, and models of their kinds.

mod bert;
mod config;
mod kernels;
mod network;
mod worker;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{EmbeddingModel, Embeddings, ModelInfo},
};

use self::worker::Worker;
use crate::registry::ModelStore;

/// Texts that go to the worker together. A caller with more of them leaves room for others in between.
const BATCH: usize = 32;
/// Batches of one caller that wait for the worker at once.
const AHEAD: usize = 2;

/// An embedding model that runs in this process: a BERT, or one of nomic's kind, which turns heads by their positions and has gates. A vector is the
/// mean over a text's tokens. What a model wants to see before a text, such as `search_query: `, is the caller's to put there.
///
/// Its weights are loaded on the first call, on a thread of its own, and stay in memory until they are [unloaded](EmbeddingModel::unload). Callers at the same time are served
/// in common batches.
#[derive(Clone, Debug)]
pub struct LocalEmbedding {
    info: ModelInfo,
    store: ModelStore,
    worker: Arc<Worker>,
}

impl LocalEmbedding {
    /// The embedding model of this name in `store`. Loads nothing; code `model_not_found` if the catalogue does not know it.
    pub fn new(store: ModelStore, name: &str) -> Result<Self> {
        let model = store.catalogue().find(name)?;
        if !model.capabilities.embedding {
            return Err(Error::new(ErrorKind::Unsupported, "this model does not embed")
                .during("embed with")
                .about(model.name));
        }
        let worker = Arc::new(Worker::new(model.name, model.context_length, model.dimension));
        Ok(Self { info: model.info(), store, worker })
    }
}

#[async_trait]
impl EmbeddingModel for LocalEmbedding {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        self.store.installed(&self.info.name).await.map(drop)
    }

    async fn embed(&self, texts: &[String]) -> Result<Embeddings> {
        if texts.is_empty() {
            return Ok(Embeddings { vectors: Vec::new(), tokens: 0 });
        }
        let files = if self.worker.is_loaded() { None } else { Some(self.store.installed(&self.info.name).await?) };
        // Texts of like length go together: those of one length share products.
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&index| texts[index].len());
        let batches: Vec<Vec<String>> =
            order.chunks(BATCH).map(|indices| indices.iter().map(|&index| texts[index].clone()).collect()).collect();
        let answers: Vec<Embeddings> = stream::iter(batches)
            .map(|batch| self.worker.embed(batch, files.clone()))
            .buffered(AHEAD)
            .try_collect()
            .await?;
        let mut vectors = vec![Vec::new(); texts.len()];
        let tokens = answers.iter().map(|answer| answer.tokens).sum();
        for (index, vector) in order.into_iter().zip(answers.into_iter().flat_map(|answer| answer.vectors)) {
            vectors[index] = vector;
        }
        Ok(Embeddings { vectors, tokens })
    }

    async fn load(&self) -> Result<()> {
        self.worker.load(self.store.installed(&self.info.name).await?).await
    }

    async fn unload(&self) -> Result<()> {
        self.worker.unload().await
    }
}

#[cfg(test)]
mod tests;
