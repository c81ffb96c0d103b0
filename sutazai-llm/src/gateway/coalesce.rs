//! Coalescing: the same request, asked by several at the same time, is asked of the model once.

mod progress;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    task::Poll,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatEvent, ChatModel, ChatRequest, ChatStream, ModelInfo, Served},
};
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};
use tracing::Instrument as _;

use self::progress::{End, Progress};
use super::{
    cache::{AnswerKey, max_age},
    observer::GatewayObserver,
};

/// A model that is asked once by all who ask the same at the same time.
///
/// Requests come together where a cache may answer them: by the same [rule](super::cache) and the same [`AnswerKey`], so never across tenants. The call is
/// made under the first one's [caller](sutazai_core::model::Caller): with its priority, on its budget and until its deadline; an error that comes of
/// these reaches everybody, and so does an answer that is cut because the first one's budget has no more. Whoever cannot live with that asks with
/// [`Caching::Off`](sutazai_core::model::Caching::Off).
///
/// * A call that is not made because of the first one's budget is made by each of the others on their own.
/// * A task of its own reads the answer as fast as it comes, whoever of the callers still listens; each reads along at their own pace and delays
///   nobody. Who comes later gets what there is so far, then the rest. With the last caller the call is cancelled.
/// * An error, a panic of the model's included, reaches all of them, each with a copy: kind, code, faults and delay as they were, the whole chain
///   of causes as its message.
/// * Of an answer 16 MiB are kept. Past that the oldest pieces go: nobody can join any more, and a caller who has not read what went gets an error of
///   the kind [`ErrorKind::Full`].
///
/// Outside a Tokio runtime nothing comes together.
pub struct Coalesce {
    inner: Arc<dyn ChatModel>,
    observer: Arc<dyn GatewayObserver>,
    flights: Arc<Flights>,
}

/// The calls under way. Each is kept alive by its readers alone, so none is found here after its last one has left.
type Flights = Mutex<HashMap<AnswerKey, Weak<Flight>>>;

impl Coalesce {
    /// The calls to `inner`, made once for all who ask the same.
    #[must_use]
    pub fn new(inner: Arc<dyn ChatModel>, observer: Arc<dyn GatewayObserver>) -> Self {
        Self { inner, observer, flights: Arc::default() }
    }

    /// A reader of the call under way with this key, and the request if it was under way before.
    fn join(&self, key: AnswerKey, request: ChatRequest, runtime: &Handle) -> (Reader, Option<ChatRequest>) {
        let (sender, progress) = watch::channel(Progress::default());
        let new = Arc::new(Flight { progress, driver: OnceLock::new() });
        let (found, joins) = {
            let mut flights = lock(&self.flights);
            let found = flights.get(&key).and_then(Weak::upgrade);
            let joins = found.as_ref().is_some_and(|flight| flight.progress.borrow().is_whole());
            if !joins {
                flights.insert(key, Arc::downgrade(&new));
            }
            // No flight may be dropped, nor one be started, under the lock: where the runtime is shutting down, its driver is dropped at once, and
            // takes the lock itself.
            (found, joins)
        };
        if joins && let Some(flight) = found {
            return (Reader::new(flight), Some(request));
        }
        let driver = Driver { sender, flights: Arc::clone(&self.flights), key, flight: Arc::downgrade(&new) };
        let driving = runtime.spawn(driver.drive(Arc::clone(&self.inner), request).in_current_span());
        // It was empty: nobody else sets it.
        let _ = new.driver.set(driving.abort_handle());
        (Reader::new(new), None)
    }
}

#[async_trait]
impl ChatModel for Coalesce {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    async fn ready(&self) -> Result<()> {
        self.inner.ready().await
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        let key = max_age(&request).and_then(|_| AnswerKey::of(self.info(), &request));
        let (Some(key), Ok(runtime)) = (key, Handle::try_current()) else { return self.inner.chat(request).await };
        let (mut reader, joined) = self.join(key, request, &runtime);
        if joined.is_some() {
            self.observer.coalesced(&self.info().name);
        }
        let served = match (reader.served().await, joined) {
            // It is not this caller's budget that is used up.
            (Err(error), Some(request)) if is_of_a_budget(&error) => return self.inner.chat(request).await,
            (served, _) => served?,
        };
        let events = stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) });
        Ok(ChatStream::served_by(served, events.fuse()))
    }

    async fn load(&self) -> Result<()> {
        self.inner.load().await
    }

    async fn unload(&self) -> Result<()> {
        self.inner.unload().await
    }
}

impl fmt::Debug for Coalesce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalesce").field("model", &self.info().name).finish_non_exhaustive()
    }
}

/// A call under way, owned by its readers. With the last of them it is cancelled.
struct Flight {
    progress: watch::Receiver<Progress>,
    driver: OnceLock<AbortHandle>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.get() {
            driver.abort();
        }
    }
}

/// What makes the call and tells how far it is. However it ends, a panic included, nobody joins any more, and then everybody knows.
struct Driver {
    sender: watch::Sender<Progress>,
    flights: Arc<Flights>,
    key: AnswerKey,
    flight: Weak<Flight>,
}

impl Driver {
    async fn drive(self, model: Arc<dyn ChatModel>, request: ChatRequest) {
        let mut answer = match model.chat(request).await {
            Ok(answer) => answer,
            Err(error) => return self.end(End::Failed(error)),
        };
        self.sender.send_modify(|progress| progress.served = Some(answer.served().clone()));
        while let Some(event) = answer.next().await {
            match event {
                // Nothing follows: it comes together with the end, so that who has read it and asks again asks anew.
                Ok(finish @ ChatEvent::Finish(_)) => return self.end(End::Finished(finish)),
                Ok(event) => self.sender.send_modify(|progress| progress.push(event)),
                Err(error) => return self.end(End::Failed(error)),
            }
        }
        self.end(End::BrokenOff);
    }

    fn end(&self, end: End) {
        self.leave();
        self.sender.send_modify(|progress| progress.end(end));
    }

    fn leave(&self) {
        let mut flights = lock(&self.flights);
        if flights.get(&self.key).is_some_and(|flight| flight.ptr_eq(&self.flight)) {
            flights.remove(&self.key);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.leave();
    }
}

/// One caller's place in an answer.
struct Reader {
    progress: watch::Receiver<Progress>,
    at: usize,
    over: bool,
    /// Keeps the call going.
    _flight: Arc<Flight>,
}

impl Reader {
    fn new(flight: Arc<Flight>) -> Self {
        Self { progress: flight.progress.clone(), at: 0, over: false, _flight: flight }
    }

    /// What serves the answer, or why there is none.
    async fn served(&mut self) -> Result<Served> {
        loop {
            let served = self.progress.borrow_and_update().served();
            if let Poll::Ready(served) = served {
                return served;
            }
            if self.progress.changed().await.is_err() {
                return Err(lost());
            }
        }
    }

    /// The next event, as soon as it is there.
    async fn next(&mut self) -> Option<Result<ChatEvent>> {
        while !self.over {
            let event = self.progress.borrow_and_update().event(self.at);
            if let Poll::Ready(event) = event {
                self.at += 1;
                self.over = !matches!(event, Some(Ok(_)));
                return event;
            }
            if self.progress.changed().await.is_err() {
                self.over = true;
                return Some(Err(lost()));
            }
        }
        None
    }
}

/// Whether a call was not made because of the budget of whoever made it.
fn is_of_a_budget(error: &Error) -> bool {
    matches!(error.code(), "budget_exceeded" | "budget_unavailable")
}

/// Of a call that ended without a word: nobody but a panic or the end of the runtime stops one that is waited for.
fn lost() -> Error {
    Error::new(ErrorKind::Internal, "the call to the model was lost; it may have panicked").during("chat with")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
