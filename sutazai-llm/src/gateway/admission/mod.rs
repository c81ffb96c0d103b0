//! Admission: one backend, few calls at a time, few models in memory, and a queue that knows which.
//!
//! Everything that asks a backend goes through its [`Admission`]. Which request is next and which model is in memory is decided by
//! [`policy::decide`]; here is what it does.

mod config;
mod desk;
pub(super) mod estimate;
mod permit;
pub mod policy;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use sutazai_core::{
    Error, ErrorKind, Result,
    clock::{Clock, SystemClock},
    model::{Caller, ChatEvent, ChatModel, ChatRequest, ChatStream, EmbeddingModel, Embeddings, ModelInfo},
};
use tokio::time::{Instant, timeout};

use self::desk::{Resident, Shared, late, silent};
pub use self::{config::AdmissionConfig, permit::Permit};
use super::observer::GatewayObserver;

/// The one way to a backend. Cheap to clone.
#[derive(Clone)]
pub struct Admission(Arc<Shared>);

/// What a backend is at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Requests that wait.
    pub waiting: usize,
    /// Requests that it answers.
    pub running: usize,
    /// The models in memory, or on their way there.
    pub loaded: Vec<String>,
}

impl Admission {
    /// The admission of the backend of this name. Fails as invalid if `config` admits nothing.
    pub fn new(
        backend: impl Into<String>,
        config: AdmissionConfig,
        observer: Arc<dyn GatewayObserver>,
    ) -> Result<Self> {
        config.check()?;
        Ok(Self(Arc::new(Shared::new(backend.into(), config, observer))))
    }

    /// `model`, to be asked through this admission only.
    #[must_use]
    pub fn chat(&self, model: Arc<dyn ChatModel>) -> Admitted<dyn ChatModel> {
        let place = self.0.place(Resident::Chat(Arc::clone(&model)));
        Admitted { shared: Arc::clone(&self.0), place, model }
    }

    /// `model`, to be asked through this admission only.
    #[must_use]
    pub fn embedding(&self, model: Arc<dyn EmbeddingModel>) -> Admitted<dyn EmbeddingModel> {
        let place = self.0.place(Resident::Embedding(Arc::clone(&model)));
        Admitted { shared: Arc::clone(&self.0), place, model }
    }

    /// What it is at now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.status()
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("backend", &self.0.backend).field("status", &self.status()).finish()
    }
}

/// A model behind its backend's admission.
///
/// A call waits for its turn, bounded by the queue's timeout and the caller's deadline (`queue_full`, `model_timeout`). Then the model may be silent for
/// so long at most (`model_timeout`), and has until the deadline. The turn ends with the answer, with an error, or when the answer is dropped.
pub struct Admitted<M: ?Sized> {
    shared: Arc<Shared>,
    place: usize,
    model: Arc<M>,
}

#[async_trait]
impl ChatModel for Admitted<dyn ChatModel> {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    async fn ready(&self) -> Result<()> {
        self.model.ready().await
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        request.check(self.info())?;
        let permit = self.shared.enter(self.place, &request.caller).await.map_err(|error| self.during(error))?;
        let began = Instant::now();
        let bytes = request.messages.iter().map(|message| message.content.len() as u64).sum();
        let patience = Patience::new(self.shared.config.silence, &request.caller);
        let first = patience.of(self.shared.first_within(self.place, bytes));
        let answer = match timeout(first, self.model.chat(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                permit.failed();
                return Err(error);
            }
            Err(_) => return Err(self.during(patience.silent(first))),
        };
        let answering = Answering {
            shared: Arc::clone(&self.shared),
            place: self.place,
            name: self.info().name.clone(),
            bytes,
            began,
            patience,
            first: Some(first.saturating_sub(began.elapsed())),
            open: Some(permit),
        };
        Ok(answer.map_events(|events| stream::unfold((events, answering), Answering::next).fuse()))
    }

    async fn load(&self) -> Result<()> {
        let permit = self.shared.enter(self.place, &Caller::default()).await.map_err(|error| self.during(error))?;
        let loaded = self.shared.load_at(self.place).await;
        permit.failed(); // no answer to measure
        loaded
    }

    async fn unload(&self) -> Result<()> {
        self.model.unload().await
    }
}

impl<M: ?Sized> Admitted<M> {
    fn during(&self, error: Error) -> Error {
        error.during("wait for a model of").about(&self.shared.backend)
    }
}

#[async_trait]
impl EmbeddingModel for Admitted<dyn EmbeddingModel> {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    async fn ready(&self) -> Result<()> {
        self.model.ready().await
    }

    async fn embed(&self, texts: &[String]) -> Result<Embeddings> {
        if texts.is_empty() {
            return self.model.embed(texts).await;
        }
        let permit = self.shared.enter(self.place, &Caller::default()).await.map_err(|error| self.during(error))?;
        let (began, bytes) = (Instant::now(), texts.iter().map(|text| text.len() as u64).sum());
        let limit = self.shared.first_within(self.place, bytes);
        match timeout(limit, self.model.embed(texts)).await {
            Ok(Ok(embeddings)) => {
                self.shared.embedded(self.place, bytes, began.elapsed());
                permit.answered();
                Ok(embeddings)
            }
            Ok(Err(error)) => {
                permit.failed();
                Err(error)
            }
            // Whether it has stopped is not known: its place is kept a while.
            Err(_) => Err(silent(limit).during("embed with").about(&self.info().name)),
        }
    }
}

/// How long to wait for the next sign of life.
#[derive(Clone, Copy)]
struct Patience {
    silence: Duration,
    ends: Option<Instant>,
}

impl Patience {
    fn new(silence: Duration, caller: &Caller) -> Self {
        let left = caller.deadline.map(|deadline| SystemClock.now().until(deadline));
        Self { silence, ends: left.and_then(|left| Instant::now().checked_add(left)) }
    }

    fn of(&self, wanted: Duration) -> Duration {
        self.ends.map_or(wanted, |ends| wanted.min(ends.saturating_duration_since(Instant::now())))
    }

    /// The error after a wait of `waited` in vain.
    fn silent(&self, waited: Duration) -> Error {
        if self.ends.is_some_and(|ends| ends <= Instant::now()) {
            return late();
        }
        silent(waited)
    }
}

/// An answer under way.
struct Answering {
    shared: Arc<Shared>,
    place: usize,
    name: String,
    bytes: u64,
    began: Instant,
    patience: Patience,
    /// How long the first piece may still take.
    first: Option<Duration>,
    /// The turn, until the answer has ended.
    open: Option<Permit>,
}

impl Answering {
    async fn next(state: (ChatStream, Self)) -> Option<(Result<ChatEvent>, (ChatStream, Self))> {
        let (mut events, mut this) = state;
        this.open.as_ref()?;
        let first = this.first.take();
        let limit = this.patience.of(first.unwrap_or(this.patience.silence));
        let event = match timeout(limit, events.next()).await {
            Ok(event) => event?,
            Err(_) => Err(this.patience.silent(limit).during("chat with").about(&this.name)),
        };
        if first.is_some() && event.is_ok() {
            this.shared.first_piece(this.place, this.bytes, this.began.elapsed());
        }
        match &event {
            Ok(ChatEvent::Finish(_)) => {
                if let Some(permit) = this.open.take() {
                    permit.answered();
                }
            }
            // After a silence nobody knows whether the model has stopped; after an error of its own it has.
            Err(error) if error.kind() == ErrorKind::Timeout => this.open = None,
            Err(_) => {
                if let Some(permit) = this.open.take() {
                    permit.failed();
                }
            }
            Ok(_) => {}
        }
        Some((event, (events, this)))
    }
}
