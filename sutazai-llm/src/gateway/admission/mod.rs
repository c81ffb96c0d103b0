//! Admission: one backend, few calls at a time, few models in memory, and a queue that knows which.
//!
//! Everything that asks a backend goes through its [`Admission`]. Which request is next and which model is in memory is decided by
//! [`policy::decide`]; here is what it does.

mod answer;
mod config;
mod desk;
pub(super) mod estimate;
mod permit;
pub mod policy;
#[cfg(test)]
mod tests;
mod unread;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{Caller, ChatModel, ChatRequest, ChatStream, EmbeddingModel, Embeddings, ModelInfo},
};
use tokio::time::{Instant, timeout};

pub(super) use self::answer::was_unread;
use self::{
    answer::{Answering, Patience},
    desk::{Resident, Shared},
    unread::Watched,
};
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

/// A model in a backend's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// What it is, with the memory that it takes where anybody knows.
    pub info: ModelInfo,
    /// How long it stays if nobody asks it anything, where that is [known](AdmissionConfig::keep).
    pub left: Option<Duration>,
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

    /// The models that it has brought into memory, for whoever asked, and that are still there. What a backend does besides is not seen.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        self.0.held()
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
/// so long at most (`model_timeout`), and has until the deadline. The turn ends with the answer, with an error, when the answer is dropped, or when it was
/// not read for too long: what is kept and not read is given up, and says so when it is read again (`model_timeout`).
///
/// To load it waits for a turn as a call does. To unload it waits until nothing of it runs (`queue_full` after the queue's timeout): a model that is in demand stays.
/// Calls that come while it goes are answered after it was loaded anew.
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
        let turn = (permit, Arc::clone(&self.shared));
        Ok(answer.map_events(|events| Watched::new(Answering::new(turn, events, bytes, (began, first), patience))))
    }

    async fn load(&self) -> Result<()> {
        self.brought_in().await
    }

    async fn unload(&self) -> Result<()> {
        let model = Arc::clone(&self.model);
        self.taken_out(async move { model.unload().await }).await
    }
}

impl<M: ?Sized> Admitted<M> {
    /// Loads the model in its turn.
    async fn brought_in(&self) -> Result<()> {
        let permit = self.shared.enter(self.place, &Caller::default()).await.map_err(|error| self.during(error))?;
        let loaded = self.shared.load_at(self.place).await;
        permit.failed(); // no answer to measure
        loaded
    }

    /// Has the model go by `unload` once nothing of it runs. What has begun goes on, whatever becomes of whoever wanted it.
    async fn taken_out(&self, unload: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
        let leaving = self.shared.leave(self.place).await.map_err(|error| self.during(error))?;
        let broken_off = |_| Err(Error::new(ErrorKind::Internal, "the unloading broke off"));
        tokio::spawn(leaving.by(unload)).await.unwrap_or_else(broken_off)
    }

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
        self.embed_for(&Caller::default(), texts).await
    }

    async fn embed_for(&self, caller: &Caller, texts: &[String]) -> Result<Embeddings> {
        if texts.is_empty() {
            return self.model.embed_for(caller, texts).await;
        }
        let permit = self.shared.enter(self.place, caller).await.map_err(|error| self.during(error))?;
        let (began, bytes) = (Instant::now(), texts.iter().map(|text| text.len() as u64).sum());
        let patience = Patience::new(self.shared.config.silence, caller);
        let limit = patience.of(self.shared.first_within(self.place, bytes));
        match timeout(limit, self.model.embed_for(caller, texts)).await {
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
            Err(_) => Err(patience.silent(limit).during("embed with").about(&self.info().name)),
        }
    }

    async fn load(&self) -> Result<()> {
        self.brought_in().await
    }

    async fn unload(&self) -> Result<()> {
        let model = Arc::clone(&self.model);
        self.taken_out(async move { model.unload().await }).await
    }
}
