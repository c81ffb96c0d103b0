//! Answers of chat models that are kept, to be given again to who asks the same.

mod key;

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use self::key::AnswerKey;
use crate::{clock::Timestamp, error::Result, model::ChatEvent};

/// Where whole answers are kept.
///
/// It may forget whatever it wants whenever it wants. An error costs the caller nothing but the chance of a hit: the model is asked. Every call is
/// waited for, so an implementation that talks to a server bounds how long it does.
///
/// Every method may be called from many tasks, and where processes share what is kept, from many processes at once.
#[async_trait]
pub trait AnswerCache: Send + Sync + 'static {
    /// Whether answers can be found and kept at present; the error says why not and what to do. It may ask a server.
    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    /// The answer kept under `key`, if it is still there. What cannot be read as one, or was written by a version that this one does not know, is not
    /// there.
    async fn get(&self, key: &AnswerKey) -> Result<Option<Arc<CachedAnswer>>>;

    /// Keeps an answer under `key`, in place of what was there. One that is too large is not kept, and no error.
    async fn put(&self, key: AnswerKey, answer: CachedAnswer) -> Result<()>;

    /// Forgets every answer that the model called `model` gave, of every tenant. There is no need to when its weights change: their digest is part of
    /// the key. An answer that is put at the same time may stay; after an error some of them may.
    async fn invalidate(&self, model: &str) -> Result<()>;

    /// Forgets everything, in the same way.
    async fn clear(&self) -> Result<()>;
}

/// An answer as it was given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CachedAnswer {
    /// The model that gave it.
    pub served_model: String,
    /// That model's backend.
    pub served_backend: String,
    /// Its pieces as they came, [`ChatEvent::Finish`] last.
    pub events: Vec<ChatEvent>,
    /// When it was begun: its age counts from here.
    pub created: Timestamp,
}
