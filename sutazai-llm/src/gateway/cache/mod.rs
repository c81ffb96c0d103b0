//! Answers that were given before: what is kept of one, when it may be given again, and the two wrappers that do so.
//!
//! [`Cache`] knows a request that is the same to the letter, [`SemanticCache`] one whose question means the same. Both go by what the request
//! says of itself: [`Caching::Auto`] is answered from a cache only where the temperature is 0, [`Caching::MaxAge`] at any temperature,
//! [`Caching::Off`] never, and its answer is not kept either. The first may stand around the second; each answer is counted once.
//!
//! Only whole answers are kept, and only those of the model that was asked: what a fallback said while that one was away would outlive the outage.
//! An answer is given again piece by piece as it came, and its usage is what it was when it was made: nothing was used this time.
//!
//! Where the exact cache keeps its answers is an [`AnswerCache`]: [`MemoryAnswers`] in this process, or another crate's backend in a server that many
//! processes share, with [`SparedAnswers`] before it so that nobody waits for a server that is away.

mod exact;
mod memory;
mod record;
mod semantic;
mod shelves;
mod spared;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures_util::stream;
pub use sutazai_core::store::{AnswerCache, AnswerKey, CachedAnswer};
use sutazai_core::{
    Error, Result,
    clock::{Clock, Timestamp},
    model::{CacheUse, Caching, ChatEvent, ChatModel, ChatRequest, ChatStream, Served},
};

use self::record::Record;
pub use self::{
    exact::Cache,
    memory::{MemoryAnswers, MemoryAnswersConfig},
    semantic::{SemanticCache, SemanticConfig},
    spared::{SparedAnswers, SparedAnswersConfig},
};
use crate::gateway::observer::GatewayObserver;

/// About how many bytes of memory an answer takes.
fn weight(answer: &CachedAnswer) -> usize {
    size_of::<CachedAnswer>()
        + answer.served_model.len()
        + answer.served_backend.len()
        + answer.events.iter().map(size).sum::<usize>()
}

/// Whether an answer is whole and, at `now`, no older than `age`.
fn serves(answer: &CachedAnswer, age: Duration, now: Timestamp) -> bool {
    matches!(answer.events.last(), Some(ChatEvent::Finish(_))) && answer.created.until(now) <= age
}

/// An answer once more.
fn replay(answer: Arc<CachedAnswer>) -> ChatStream {
    let (model, backend) = (answer.served_model.clone(), answer.served_backend.clone());
    let events = (0..answer.events.len()).map_while(move |at| answer.events.get(at).cloned().map(Ok::<_, Error>));
    ChatStream::served_by(Served::default(), stream::iter(events)).serving(|served| {
        served.model = model;
        served.backend = backend;
        served.cache = CacheUse::Hit;
    })
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
