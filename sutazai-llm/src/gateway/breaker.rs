//! A breaker: a backend that fails again and again is left alone for a while, and tried with one call before it is trusted again.
//!
//! Not by a crate: those we know judge a call by its future, not by the end of a stream, and let several or uncancellable calls through half-open.

mod state;

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use futures_core::Stream;
use futures_util::StreamExt;
use sutazai_core::{
    Error, ErrorKind, Fault, Result,
    clock::{Clock, Timestamp},
    model::{ChatEvent, ChatModel, ChatRequest, ChatStream, ModelInfo},
};
use tokio::time::Instant;

use self::state::{Decision, State, Ticket};
use super::{admission::was_unread, observer::GatewayObserver};

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open it; at least 1. Default 5.
    pub failures: u32,
    /// How long it is open at first; not zero. Default 10 s.
    pub pause: Duration,
    /// What the pause doubles up to while the calls that try the backend fail; at least the pause. Default 2 min.
    pub max_pause: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures: 5, pause: Duration::from_secs(10), max_pause: Duration::from_secs(120) }
    }
}

impl BreakerConfig {
    fn check(&self) -> Result<()> {
        let mut faults = Vec::new();
        if self.failures == 0 {
            faults.push(Fault::new("/failures", "0 is less than 1"));
        }
        if self.pause.is_zero() {
            faults.push(Fault::new("/pause", "a pause of no time is none"));
        }
        if self.max_pause < self.pause {
            faults.push(Fault::new("/max_pause", format!("{:?} is less than the pause", self.max_pause)));
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::invalid("the settings of the breaker are wrong", faults)) }
    }
}

/// What a breaker does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Lets them through.
    Closed,
    /// Refuses them; the first one after the pause makes it half-open.
    Open,
    /// Lets one at a time through, to see whether the backend is well again.
    HalfOpen,
}

impl BreakerState {
    /// `closed`, `open` or `half_open`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A model behind a breaker of its own: one for each backend and model.
///
/// * It opens after [`failures`](BreakerConfig::failures) calls in a row that failed as unavailable or out of time, before the answer or in the middle of
///   it. A timeout that came with the caller's own deadline is not the backend's, nor is one of an answer that its caller did not read, and other errors
///   say nothing about it either.
/// * Open, it refuses at once: kind `Unavailable`, code `model_unavailable`, with the rest of the pause as the delay. The backend is not asked.
/// * After the pause one call is let through, and the others are refused until that one is over. Its finish closes the breaker, its failure opens it for
///   twice the pause. Dropped, or ended in an error that says nothing, it makes way for the next; so does one that takes as long as the pause, for its
///   caller may never read the rest of it.
/// * A call counts as good with the finish of its answer. What it brings after the breaker has changed its state is not counted.
pub struct Breaker {
    inner: Arc<dyn ChatModel>,
    circuit: Arc<Circuit>,
}

impl Breaker {
    /// A closed breaker before `inner`; kind `Invalid` if the settings are wrong.
    ///
    /// The observer is told of the changes in their order, and therefore under the breaker's lock: it must not call the breaker.
    pub fn new(
        inner: Arc<dyn ChatModel>,
        config: BreakerConfig,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn GatewayObserver>,
    ) -> Result<Self> {
        config.check()?;
        let ModelInfo { name, backend, .. } = inner.info().clone();
        let circuit = Circuit { model: name, backend, state: Mutex::new(State::new(config)), clock, observer };
        Ok(Self { inner, circuit: Arc::new(circuit) })
    }

    /// What it does with calls now. It stays [`Open`](BreakerState::Open) after the pause until a call comes.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        self.circuit.change(|state, _| state.state())
    }
}

#[async_trait]
impl ChatModel for Breaker {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    /// An open breaker is not ready until its pause is over.
    async fn ready(&self) -> Result<()> {
        match self.circuit.change(|state, now| state.rest(now)) {
            Some(rest) => Err(self.circuit.refusal(rest)),
            None => self.inner.ready().await,
        }
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        let mut call = Circuit::call(&self.circuit, request.caller.deadline)?;
        match self.inner.chat(request).await {
            Ok(answer) => Ok(answer.map_events(|events| Watched { events, call })),
            Err(error) => {
                call.failed(&error);
                Err(error)
            }
        }
    }

    async fn load(&self) -> Result<()> {
        self.inner.load().await
    }

    async fn unload(&self) -> Result<()> {
        self.inner.unload().await
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("model", &self.info().name)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// The state, and what surrounds it.
struct Circuit {
    model: String,
    backend: String,
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn GatewayObserver>,
}

impl Circuit {
    /// Reads or changes the state, and tells of it if it has become another one.
    fn change<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.state();
        let result = change(&mut state, Instant::now());
        let after = state.state();
        if after != before {
            self.observer.breaker(&self.backend, &self.model, after);
        }
        result
    }

    fn call(circuit: &Arc<Self>, deadline: Option<Timestamp>) -> Result<Call> {
        match circuit.change(State::call) {
            Decision::Call(ticket) => Ok(Call { circuit: Arc::clone(circuit), ticket: Some(ticket), deadline }),
            Decision::Refuse(rest) => Err(circuit.refusal(rest)),
        }
    }

    fn refusal(&self, rest: Duration) -> Error {
        Error::new(ErrorKind::Unavailable, "the backend failed again and again and is left alone for a while")
            .with_code("model_unavailable")
            .during("chat with")
            .about(&self.model)
            .retry_after(rest)
    }
}

/// A call under way. Dropped without a verdict it says nothing, and leaves its place to others.
struct Call {
    circuit: Arc<Circuit>,
    ticket: Option<Ticket>,
    deadline: Option<Timestamp>,
}

impl Call {
    fn failed(&mut self, error: &Error) {
        let ill = match error.kind() {
            ErrorKind::Unavailable => true,
            ErrorKind::Timeout if was_unread(error) => false,
            ErrorKind::Timeout => self.deadline.is_none_or(|deadline| self.circuit.clock.now() < deadline),
            _ => false,
        };
        if ill {
            self.settle(State::failure);
        } else {
            self.settle(State::nothing);
        }
    }

    /// The first verdict is the one that holds.
    fn settle(&mut self, verdict: impl FnOnce(&mut State, Ticket, Instant)) {
        if let Some(ticket) = self.ticket.take() {
            self.circuit.change(|state, now| verdict(state, ticket, now));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.settle(State::nothing);
    }
}

/// An answer whose end is the verdict on its call.
struct Watched {
    events: ChatStream,
    call: Call,
}

impl Stream for Watched {
    type Item = Result<ChatEvent>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let event = ready!(this.events.poll_next_unpin(cx));
        match &event {
            Some(Ok(ChatEvent::Finish(_))) => this.call.settle(State::success),
            Some(Ok(_)) => {}
            Some(Err(error)) => this.call.failed(error),
            // It broke off, unless it had ended: then the verdict is given.
            None => this.call.settle(State::failure),
        }
        Poll::Ready(event)
    }
}

#[cfg(test)]
mod tests;
