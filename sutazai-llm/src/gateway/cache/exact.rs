//! The exact cache: the answer to a request that is the same to the letter.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use sutazai_core::{
    Result,
    clock::{Clock, SystemClock},
    model::{CacheUse, ChatModel, ChatRequest, ChatStream, ModelInfo},
};
use tracing::warn;

use super::{AnswerCache, AnswerKey, CachedAnswer, fresh, max_age, record::Record, replay, serves};
use crate::gateway::observer::GatewayObserver;

/// A model whose answers are kept, and given again to the same request of the same tenant.
///
/// When that may be is said at [the top](super). An answer that is read to its end is kept just before its end is passed on, so that whoever has
/// read it finds it there; one that is dropped before leaves nothing behind. The cache failing makes calls slower and nothing else.
pub struct Cache {
    inner: Arc<dyn ChatModel>,
    answers: Arc<dyn AnswerCache>,
    observer: Arc<dyn GatewayObserver>,
    clock: Arc<dyn Clock>,
}

impl Cache {
    /// The answers of `inner`, kept in `answers`. Several models can share one: their names and digests are part of the keys.
    #[must_use]
    pub fn new(inner: Arc<dyn ChatModel>, answers: Arc<dyn AnswerCache>, observer: Arc<dyn GatewayObserver>) -> Self {
        Self { inner, answers, observer, clock: Arc::new(SystemClock) }
    }

    /// The same with ages by another clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    async fn find(&self, key: &AnswerKey, age: Duration) -> Option<Arc<CachedAnswer>> {
        let found = self.answers.get(key).await.unwrap_or_else(|error| {
            warn!(model = %self.info().name, error = %error.report(), "kept answers cannot be read");
            None
        });
        found.filter(|answer| serves(answer, age, self.clock.now()))
    }

    /// The same answer, kept under `key` once it is whole.
    fn recorded(&self, answer: ChatStream, key: AnswerKey, record: Record) -> ChatStream {
        let (answers, model) = (Arc::clone(&self.answers), Arc::<str>::from(self.info().name.as_str()));
        let step = move |(mut events, mut record): (ChatStream, Record)| {
            let (answers, model) = (Arc::clone(&answers), Arc::clone(&model));
            async move {
                let event = events.next().await?;
                let whole = record.note(&event);
                if let Some(whole) = whole
                    && let Err(error) = answers.put(key, whole).await
                {
                    warn!(%model, error = %error.report(), "an answer cannot be kept");
                }
                Some((event, (events, record)))
            }
        };
        answer.map_events(|events| stream::unfold((events, record), step).fuse())
    }
}

#[async_trait]
impl ChatModel for Cache {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    async fn ready(&self) -> Result<()> {
        self.inner.ready().await
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        let asked = max_age(&request).and_then(|age| Some((age, AnswerKey::of(self.info(), &request)?)));
        let Some((age, key)) = asked else {
            let answer = self.inner.chat(request).await?;
            self.observer.cached(&self.info().name, CacheUse::Off);
            return Ok(answer);
        };
        if let Some(found) = self.find(&key, age).await {
            self.observer.cached(&self.info().name, CacheUse::Hit);
            return Ok(replay(found));
        }
        let (answer, record) = fresh(&*self.inner, request, &*self.clock, &*self.observer).await?;
        Ok(self.recorded(answer, key, record))
    }

    async fn load(&self) -> Result<()> {
        self.inner.load().await
    }

    async fn unload(&self) -> Result<()> {
        self.inner.unload().await
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("model", &self.info().name).finish_non_exhaustive()
    }
}
