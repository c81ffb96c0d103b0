//! Answers that were given before: what is kept of one, when it may be given again, and the two wrappers that do so.
//!
//! [`Cache`] knows a request that is the same to the letter, [`SemanticCache`] one whose question means the same. Both go by what the request
//! says of itself: [`Caching::Auto`] is answered from a cache only where the temperature is 0, [`Caching::MaxAge`] at any temperature,
//! [`Caching::Off`] never, and its answer is not kept either. The first may stand around the second; each answer is counted once.
//!
//! Only whole answers are kept, and only those of the model that was asked: what a fallback said while that one was away would outlive the outage.
//! An answer is given again piece by piece as it came, and its usage is what it was when it was made: nothing was used this time.

mod exact;
mod key;
mod memory;
mod record;
mod semantic;
mod shelves;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use sutazai_core::{
    Error, Result,
    clock::{Clock, Timestamp},
    model::{CacheUse, Caching, ChatEvent, ChatModel, ChatRequest, ChatStream, Served},
};

use self::record::Record;
pub use self::{
    exact::Cache,
    key::Key,
    memory::{MemoryAnswers, MemoryAnswersConfig},
    semantic::{SemanticCache, SemanticConfig},
};
use crate::gateway::observer::GatewayObserver;

/// Where whole answers are kept.
///
/// It may forget whatever it wants whenever it wants. An error costs the caller nothing but the chance of a hit: it is logged, and the model is
/// asked. Every call is waited for, so an implementation that talks to a server bounds how long it does.
#[async_trait]
pub trait AnswerCache: Send + Sync + 'static {
    /// The answer kept under `key`, if it is still there.
    async fn get(&self, key: &Key) -> Result<Option<Arc<Cached>>>;

    /// Keeps an answer under `key`, in place of what was there.
    async fn put(&self, key: Key, answer: Cached) -> Result<()>;

    /// Forgets every answer that the model called `model` gave. There is no need to when its weights change: their digest is part of the key.
    async fn invalidate(&self, model: &str) -> Result<()>;

    /// Forgets everything.
    async fn clear(&self) -> Result<()>;
}

/// An answer as it was given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cached {
    /// The model that gave it.
    pub served_model: String,
    /// That model's backend.
    pub served_backend: String,
    /// Its pieces as they came, [`ChatEvent::Finish`] last.
    pub events: Vec<ChatEvent>,
    /// When it was begun: its age counts from here.
    pub created: Timestamp,
}

impl Cached {
    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>()
            + self.served_model.len()
            + self.served_backend.len()
            + self.events.iter().map(size).sum::<usize>()
    }

    /// Whether it is whole and, at `now`, no older than `age`.
    fn serves(&self, age: Duration, now: Timestamp) -> bool {
        matches!(self.events.last(), Some(ChatEvent::Finish(_))) && self.created.until(now) <= age
    }

    /// The answer once more.
    fn replay(self: Arc<Self>) -> ChatStream {
        let (model, backend) = (self.served_model.clone(), self.served_backend.clone());
        let events = (0..self.events.len()).map_while(move |at| self.events.get(at).cloned().map(Ok::<_, Error>));
        ChatStream::served_by(Served::default(), stream::iter(events)).serving(|served| {
            served.model = model;
            served.backend = backend;
            served.cache = CacheUse::Hit;
        })
    }
}

/// About how many bytes of memory a piece of an answer takes.
pub(super) fn size(event: &ChatEvent) -> usize {
    let held = match event {
        ChatEvent::Text(text) | ChatEvent::Thinking(text) => text.len(),
        ChatEvent::ToolCall(call) => call.id.len() + call.name.len() + call.arguments.to_string().len(),
        ChatEvent::Finish(_) => 0,
    };
    size_of::<ChatEvent>() + held
}

/// How old an answer given in place of a new one may be; `None` where the request wants a new one, and wants it to itself.
pub(super) fn max_age(request: &ChatRequest) -> Option<Duration> {
    match request.caching {
        // None below 0 is valid; the model will say so.
        Caching::Auto if request.sampling.temperature <= 0.0 => Some(Duration::MAX),
        Caching::MaxAge(age) => Some(age),
        _ => None,
    }
}

/// A new answer of `inner`, which the cache before it did not have, and what writes it down.
async fn fresh(
    inner: &dyn ChatModel,
    request: ChatRequest,
    clock: &dyn Clock,
    observer: &dyn GatewayObserver,
) -> Result<(ChatStream, Record)> {
    let (max_tokens, created) = (request.max_tokens, clock.now());
    let answer = inner.chat(request).await?;
    let record = Record::new(max_tokens, answer.served(), created);
    Ok((missed(answer, observer, &inner.info().name), record))
}

/// Says that this answer was not in the cache, unless a cache further in has spoken.
fn missed(answer: ChatStream, observer: &dyn GatewayObserver, model: &str) -> ChatStream {
    if answer.served().cache != CacheUse::Off {
        return answer;
    }
    observer.cached(model, CacheUse::Miss);
    answer.serving(|served| served.cache = CacheUse::Miss)
}
