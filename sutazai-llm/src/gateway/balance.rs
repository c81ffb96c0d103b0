//! Balancing: several backends of one model, of which the least busy answers.

mod table;

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use futures_core::Stream;
use futures_util::{
    FutureExt, StreamExt,
    future::{join_all, select_ok},
};
use sutazai_core::{
    Error, ErrorKind, Fault, Result,
    model::{ChatEvent, ChatModel, ChatRequest, ChatStream, ModelInfo},
};
use tokio::time::Instant;

use self::table::Table;
use super::first::begin;

/// How backends that fail are spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceConfig {
    /// How long a backend is passed over after it was unavailable, while there is another. Default 5 s.
    pub cool_down: Duration,
}

impl Default for BalanceConfig {
    fn default() -> Self {
        Self { cool_down: Duration::from_secs(5) }
    }
}

/// One model on several backends.
///
/// * A call goes to the backend with the fewest answers under way here, in turn among equals. An answer is under way from its call until it ends or is
///   dropped, at whichever point.
/// * A backend whose last call or [`ready`](ChatModel::ready) failed as unavailable is passed over for the cool-down, unless that holds for all.
/// * A call that fails as unavailable before the first piece of its answer goes on to the next backend, to each at most once. If all fail so, the error
///   is the one that can be tried again soonest. Any other error is returned as it is.
///
/// It presents itself as the first backend, with the shortest context of all, and without a digest if theirs differ. It is ready while one of them is.
pub struct Balance {
    info: ModelInfo,
    backends: Vec<Arc<dyn ChatModel>>,
    table: Arc<Mutex<Table>>,
}

impl Balance {
    /// Balances between `backends`: at least one, all with the same name and capabilities; kind `Invalid` otherwise.
    pub fn new(backends: Vec<Arc<dyn ChatModel>>, config: BalanceConfig) -> Result<Self> {
        let wrong = |message: &'static str, faults| Err(Error::invalid(message, faults).during("balance"));
        let Some(first) = backends.first() else {
            return wrong("a model needs a backend", vec![Fault::new("", "at least 1 is needed")]);
        };
        let mut info = first.info().clone();
        for (index, backend) in backends.iter().enumerate() {
            let other = backend.info();
            if other.name != info.name || other.capabilities != info.capabilities {
                let message = format!("{} is another model than {}, or can do other things", other.name, info.name);
                return wrong("these are backends of different models", vec![Fault::new(format!("/{index}"), message)]);
            }
            info.context_length = info.context_length.min(other.context_length);
            if other.digest != info.digest {
                info.digest = None;
            }
        }
        let table = Table::new(backends.len(), config.cool_down);
        Ok(Self { info, backends, table: Arc::new(Mutex::new(table)) })
    }

    /// Asks whether one backend is ready, and remembers the answer.
    async fn is_ready(&self, index: usize) -> Result<()> {
        let result = self.backends[index].ready().await;
        match &result {
            Ok(()) => lock(&self.table).well(index),
            Err(error) if is_ill(error) => lock(&self.table).ill(index, Instant::now()),
            Err(_) => {}
        }
        result
    }
}

#[async_trait]
impl ChatModel for Balance {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Asks all backends at once, and is done with the first that is ready.
    async fn ready(&self) -> Result<()> {
        let asked: Vec<_> = (0..self.backends.len()).map(|index| self.is_ready(index).boxed()).collect();
        select_ok(asked).await.map(drop)
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        let mut tried = vec![false; self.backends.len()];
        let mut soonest: Option<Error> = None;
        while let Some(place) = Place::take(&self.table, &tried) {
            tried[place.index] = true;
            match begin(&*self.backends[place.index], request.clone()).await {
                Ok(answer) => {
                    place.well();
                    return Ok(answer.map_events(|events| Placed { events, place: Some(place) }));
                }
                Err(error) if is_ill(&error) => {
                    place.ill();
                    if soonest.as_ref().is_none_or(|soonest| error.delay() < soonest.delay()) {
                        soonest = Some(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(soonest.unwrap_or_else(|| Error::new(ErrorKind::Internal, "no backend was asked")))
    }

    /// Loads the model on all backends; good if it is in memory on one.
    async fn load(&self) -> Result<()> {
        let loaded = join_all(self.backends.iter().map(|backend| backend.load())).await;
        let good = loaded.iter().any(Result::is_ok);
        loaded.into_iter().find(|result| result.is_ok() == good).unwrap_or(Ok(()))
    }

    /// Unloads the model on all backends; the error is the first of those that failed.
    async fn unload(&self) -> Result<()> {
        join_all(self.backends.iter().map(|backend| backend.unload())).await.into_iter().collect()
    }
}

impl fmt::Debug for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance").field("model", &self.info.name).field("table", &*lock(&self.table)).finish()
    }
}

fn is_ill(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place at a backend, until it is dropped.
struct Place {
    table: Arc<Mutex<Table>>,
    index: usize,
}

impl Place {
    /// At the best backend that was not `tried`.
    fn take(table: &Arc<Mutex<Table>>, tried: &[bool]) -> Option<Self> {
        let index = lock(table).take(tried, Instant::now())?;
        Some(Self { table: Arc::clone(table), index })
    }

    fn well(&self) {
        lock(&self.table).well(self.index);
    }

    fn ill(&self) {
        lock(&self.table).ill(self.index, Instant::now());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.table).leave(self.index);
    }
}

/// An answer that holds its place until it ends.
struct Placed {
    events: ChatStream,
    place: Option<Place>,
}

impl Stream for Placed {
    type Item = Result<ChatEvent>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let event = ready!(this.events.poll_next_unpin(cx));
        let ill = match &event {
            Some(Ok(ChatEvent::Finish(_))) => false,
            Some(Ok(_)) => return Poll::Ready(event),
            Some(Err(error)) => is_ill(error),
            // It broke off, unless it had ended: then the place is given back.
            None => true,
        };
        if let Some(place) = this.place.take()
            && ill
        {
            place.ill();
        }
        Poll::Ready(event)
    }
}

#[cfg(test)]
mod tests;
