//! The semantic cache: the answer to a question that means the same.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use sutazai_core::{
    Result,
    clock::{Clock, SystemClock},
    model::{CacheUse, Caller, ChatModel, ChatRequest, ChatStream, EmbeddingModel, EmbeddingModelExt, ModelInfo, Role},
};
use tracing::warn;

use super::{
    AnswerKey, CachedAnswer, fresh, max_age,
    record::Record,
    replay, serves,
    shelves::{Entry, Limits, Shelves},
};
use crate::gateway::observer::GatewayObserver;

/// Whose questions may be answered by what they mean, and how near is near enough.
#[derive(Clone, Debug, PartialEq)]
pub struct SemanticConfig {
    /// The agents that want it, by name. Default nobody.
    pub agents: BTreeSet<String>,
    /// The least cosine between two questions that are taken for the same. Default 0.97.
    pub threshold: f32,
    /// Answers kept for a tenant at most. Default 1,000.
    pub max_entries: usize,
    /// Bytes of memory for all tenants together at most, about. Default 64 MiB.
    pub max_bytes: usize,
    /// How long an answer is given again. Default 1 h.
    pub ttl: Duration,
}

impl Default for SemanticConfig {
    fn default() -> Self {
        Self {
            agents: BTreeSet::new(),
            threshold: 0.97,
            max_entries: 1_000,
            max_bytes: 64 << 20,
            ttl: Duration::from_secs(3600),
        }
    }
}

/// Bytes of a question for each token of the embedding model's context. Whatever is longer may be cut at its end, and questions that differ only
/// there would look the same.
const BYTES_PER_TOKEN: usize = 2;

/// A model whose answers are given again to questions that mean the same, for the agents that want that.
///
/// What is compared is the text of the last user message, by its embedding. Everything else has to be equal: the tenant, the model, all other
/// messages, the pictures, the form of the answer, the sampling; and the digits in the question too, for to an embedding 17 and 18 are almost the
/// same. Requests with tools are always passed on, and so are questions too long to be embedded whole. The rule for when a request may be answered so
/// is [the caches' common one](super).
///
/// A near question is not always the same question: an agent that cannot bear the answer to another one should not be among the
/// [agents](SemanticConfig::agents). An embedding model that fails makes a miss.
pub struct SemanticCache {
    inner: Arc<dyn ChatModel>,
    embedder: Arc<dyn EmbeddingModel>,
    config: SemanticConfig,
    shelves: Arc<Mutex<Shelves>>,
    observer: Arc<dyn GatewayObserver>,
    clock: Arc<dyn Clock>,
}

/// A request that may be answered by what its question means.
struct Question {
    tenant: String,
    scope: AnswerKey,
    text: String,
    age: Duration,
}

impl SemanticCache {
    /// The answers of `inner`, found by the embeddings that `embedder` makes of their questions.
    #[must_use]
    pub fn new(
        inner: Arc<dyn ChatModel>,
        embedder: Arc<dyn EmbeddingModel>,
        config: SemanticConfig,
        observer: Arc<dyn GatewayObserver>,
    ) -> Self {
        Self { inner, embedder, config, shelves: Arc::default(), observer, clock: Arc::new(SystemClock) }
    }

    /// The same with ages by another clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    fn question(&self, request: &ChatRequest) -> Option<Question> {
        let age = max_age(request)?.min(self.config.ttl);
        let wanted = request.caller.agent.as_deref().is_some_and(|agent| self.config.agents.contains(agent));
        if !wanted || !request.tools.is_empty() {
            return None;
        }
        let at = request.messages.iter().rposition(|message| message.role == Role::User)?;
        let text = request.messages.get(at)?.content.clone();
        let longest = self.embedder.info().context_length.saturating_mul(BYTES_PER_TOKEN);
        if text.trim().is_empty() || text.len() > longest {
            return None;
        }
        let scope = AnswerKey::around(self.info(), request, at, &digits(&text))?;
        Some(Question { tenant: request.caller.tenant().to_owned(), scope, text, age })
    }

    async fn embed(&self, caller: &Caller, text: &str) -> Option<Vec<f32>> {
        self.embedder
            .embed_one_for(caller, text)
            .await
            .inspect_err(|error| {
                warn!(model = %self.embedder.info().name, error = %error.report(), "a question cannot be embedded");
            })
            .ok()
    }

    fn find(&self, question: &Question, vector: &[f32]) -> Option<Arc<CachedAnswer>> {
        let now = self.clock.now();
        let serves = |answer: &CachedAnswer| serves(answer, question.age, now);
        lock(&self.shelves).find(&question.tenant, &question.scope, vector, self.config.threshold, serves)
    }

    /// The same answer, kept once it is whole.
    fn recorded(&self, answer: ChatStream, question: Question, vector: Vec<f32>, mut record: Record) -> ChatStream {
        let limits = Limits { entries: self.config.max_entries, bytes: self.config.max_bytes, ttl: self.config.ttl };
        let (shelves, clock) = (Arc::clone(&self.shelves), Arc::clone(&self.clock));
        let mut keep = Some(move |answer: CachedAnswer| {
            let entry = Entry { scope: question.scope, vector, answer: Arc::new(answer) };
            lock(&shelves).keep(&question.tenant, entry, limits, clock.now());
        });
        answer.map_events(|events| {
            events.inspect(move |event| {
                if let Some(whole) = record.note(event)
                    && let Some(keep) = keep.take()
                {
                    keep(whole);
                }
            })
        })
    }
}

/// The numbers in a question, in their order.
fn digits(text: &str) -> String {
    text.split(|c: char| !c.is_numeric()).filter(|run| !run.is_empty()).collect::<Vec<_>>().join(" ")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl ChatModel for SemanticCache {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    /// Whether the model is; without the embedding model there are no hits, but answers.
    async fn ready(&self) -> Result<()> {
        self.inner.ready().await
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        let Some(question) = self.question(&request) else { return self.inner.chat(request).await };
        let vector = self.embed(&request.caller, &question.text).await;
        if let Some(found) = vector.as_deref().and_then(|vector| self.find(&question, vector)) {
            self.observer.cached(&self.info().name, CacheUse::Hit);
            return Ok(replay(found));
        }
        let (answer, record) = fresh(&*self.inner, request, &*self.clock, &*self.observer).await?;
        Ok(match vector {
            Some(vector) => self.recorded(answer, question, vector, record),
            None => answer,
        })
    }

    async fn load(&self) -> Result<()> {
        self.inner.load().await
    }

    async fn unload(&self) -> Result<()> {
        self.inner.unload().await
    }
}

impl fmt::Debug for SemanticCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let embedder = &self.embedder.info().name;
        f.debug_struct("SemanticCache")
            .field("model", &self.info().name)
            .field("embedder", embedder)
            .finish_non_exhaustive()
    }
}
