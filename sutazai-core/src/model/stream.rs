//! An answer as it comes, and what served it.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;
use futures_util::StreamExt;

use super::{ChatEvent, ModelInfo};
use crate::error::Result;

/// What a cache had to do with an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheUse {
    /// No cache was asked.
    #[default]
    Off,
    /// The answer came from the cache.
    Hit,
    /// The cache was asked and did not have it.
    Miss,
}

impl CacheUse {
    /// `off`, `hit` or `miss`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Hit => "hit",
            Self::Miss => "miss",
        }
    }
}

/// What served an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served {
    /// The model.
    pub model: String,
    /// Its backend.
    pub backend: String,
    /// What a cache had to do with it.
    pub cache: CacheUse,
    /// Why not the model that was asked for, if another one answers.
    pub fallback: Option<String>,
}

impl Served {
    /// By this model itself.
    #[must_use]
    pub fn by(info: &ModelInfo) -> Self {
        Self { model: info.name.clone(), backend: info.backend.clone(), ..Self::default() }
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<ChatEvent>> + Send>>;

/// Pieces of an answer, ending with [`ChatEvent::Finish`] or an error, and what served it. Dropping it stops the generation.
pub struct ChatStream {
    served: Served,
    events: Events,
}

impl ChatStream {
    /// The answer `events` by the model of this description.
    pub fn new(info: &ModelInfo, events: impl Stream<Item = Result<ChatEvent>> + Send + 'static) -> Self {
        Self::served_by(Served::by(info), events)
    }

    /// The answer `events`, served so.
    pub fn served_by(served: Served, events: impl Stream<Item = Result<ChatEvent>> + Send + 'static) -> Self {
        Self { served, events: Box::pin(events) }
    }

    /// What served it.
    #[must_use]
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// Says more exactly what served it.
    #[must_use]
    pub fn serving(mut self, change: impl FnOnce(&mut Served)) -> Self {
        change(&mut self.served);
        self
    }

    /// The same answer with other events, made from its own.
    #[must_use]
    pub fn map_events<S>(self, map: impl FnOnce(Self) -> S) -> Self
    where
        S: Stream<Item = Result<ChatEvent>> + Send + 'static,
    {
        let served = self.served.clone();
        Self::served_by(served, map(self))
    }
}

impl Stream for ChatStream {
    type Item = Result<ChatEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next_unpin(cx)
    }
}

impl fmt::Debug for ChatStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatStream").field("served", &self.served).finish_non_exhaustive()
    }
}
