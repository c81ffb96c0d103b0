//! Embeddings: texts in, unit vectors out.

use async_trait::async_trait;

use super::{Caller, ModelInfo};
use crate::error::{Error, ErrorKind, Result};

/// The vectors of a batch of texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// One per text, in order; each of unit length and of [`ModelInfo::dimension`] numbers.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens read, where the backend counts them.
    pub tokens: u32,
}

/// A model that turns texts into vectors.
#[async_trait]
pub trait EmbeddingModel: Send + Sync + 'static {
    /// What it is. Cheap; does not load the model.
    fn info(&self) -> &ModelInfo;

    /// Whether a call would find what it needs, without loading anything. The error says what to do.
    async fn ready(&self) -> Result<()>;

    /// The vectors of `texts`. A text beyond the context is cut at its end. What else is in the batch does not change a vector beyond rounding. An
    /// empty batch gives an empty answer.
    async fn embed(&self, texts: &[String]) -> Result<Embeddings>;

    /// The same, for `caller`: turns go by its priority and tenant, and its deadline bounds the wait. The vectors do not depend on it.
    ///
    /// Models that serve everybody alike need not implement it; one that stands before another passes the caller on.
    async fn embed_for(&self, _caller: &Caller, texts: &[String]) -> Result<Embeddings> {
        self.embed(texts).await
    }

    /// Brings the model into memory, where that can be asked for; otherwise the first call does. Returns when it is there.
    async fn load(&self) -> Result<()> {
        Ok(())
    }

    /// Gives the model's memory back, where that can be asked for. What is being read is read first.
    async fn unload(&self) -> Result<()> {
        Ok(())
    }
}

/// Conveniences over [`EmbeddingModel`].
#[async_trait]
pub trait EmbeddingModelExt: EmbeddingModel {
    /// The vector of one text.
    async fn embed_one(&self, text: &str) -> Result<Vec<f32>> {
        only(self.info(), self.embed(&[text.to_owned()]).await?)
    }

    /// The vector of one text, for `caller`.
    async fn embed_one_for(&self, caller: &Caller, text: &str) -> Result<Vec<f32>> {
        only(self.info(), self.embed_for(caller, &[text.to_owned()]).await?)
    }
}

impl<M: EmbeddingModel + ?Sized> EmbeddingModelExt for M {}

/// The one vector of an answer to one text.
fn only(info: &ModelInfo, mut embeddings: Embeddings) -> Result<Vec<f32>> {
    embeddings.vectors.pop().ok_or_else(|| {
        Error::new(ErrorKind::Internal, "the model gave no vector").during("embed with").about(&info.name)
    })
}
