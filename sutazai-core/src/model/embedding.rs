//! Embeddings: texts in, unit vectors out.

use async_trait::async_trait;

use super::ModelInfo;
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
        self.embed(&[text.to_owned()]).await?.vectors.pop().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "the model gave no vector").during("embed with").about(&self.info().name)
        })
    }
}

impl<M: EmbeddingModel + ?Sized> EmbeddingModelExt for M {}
