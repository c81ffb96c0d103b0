//! One whole gateway before a server, and what can be seen of it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sutazai_core::{
    Result,
    model::{CacheUse, ChatModel, ChatModelExt, ChatRequest, EmbeddingModel, EmbeddingModelExt, ModelInfo},
};
use sutazai_llm::{
    gateway::{
        BreakerConfig, BreakerState, Gateway, GatewayObserver, RetryConfig,
        admission::{Admission, AdmissionConfig},
        cache::MemoryAnswers,
    },
    ollama::{OllamaChat, OllamaClient, OllamaEmbedding},
};
use tokio::time::{sleep, timeout};

use crate::{
    PATIENCE,
    answers::{CHATS, EMBEDDING, said},
    callers::is_typed,
};

/// Requests that are answered at a time.
const PARALLEL: usize = 6;
/// Models in memory at a time, one less than there are.
const LOADED: usize = 3;
/// Requests that wait: all callers are more than this and those that are answered.
const WAITING: usize = 40;

const RETRY: RetryConfig = RetryConfig { attempts: 3, base: Duration::from_millis(5), cap: Duration::from_millis(100) };
/// As by default, with pauses that fit into a test.
pub(crate) const BREAKER: BreakerConfig =
    BreakerConfig { failures: 5, pause: Duration::from_millis(50), max_pause: Duration::from_millis(200) };

fn admission() -> AdmissionConfig {
    let mut config = AdmissionConfig::default();
    config.max_parallel = PARALLEL;
    config.max_loaded_models = LOADED;
    config.max_waiting = WAITING;
    config.queue_timeout = Duration::from_secs(2);
    config.age_limit = Duration::from_millis(300);
    config.silence = Duration::from_millis(150);
    config.settle = Duration::from_millis(20);
    config
}

/// Caches, joining, fallbacks, context fit, retries, breakers and one admission, before every model of a server.
pub(crate) struct House {
    admission: Admission,
    watcher: Arc<Watcher>,
    /// The chat models behind all but what may answer in their place.
    models: Vec<Arc<dyn ChatModel>>,
    /// The chat models as callers ask them.
    pub(crate) fronts: Vec<Arc<dyn ChatModel>>,
    pub(crate) embedding: Arc<dyn EmbeddingModel>,
}

impl House {
    pub(crate) async fn new(name: &str, url: &str) -> Self {
        let watcher = Arc::new(Watcher::default());
        let client = OllamaClient::new(url).unwrap();
        let admission = Admission::new(name, admission(), watcher.clone()).unwrap();
        let gateway = Gateway::new(watcher.clone())
            .resilient()
            .retry(RETRY)
            .breaker(BREAKER)
            .answers(Arc::new(MemoryAnswers::default()));
        let mut models = Vec::new();
        for name in CHATS {
            let chat = OllamaChat::connect(client.clone(), name, None).await.unwrap();
            models.push(gateway.model(vec![Arc::new(admission.chat(Arc::new(chat)))], None).unwrap());
        }
        let front = |index: usize| {
            // The last one has nobody in its place: callers see each of its errors.
            let others = models.get(index + 1).cloned().into_iter().collect();
            gateway.front(Arc::clone(&models[index]), others)
        };
        let fronts = (0..models.len()).map(front).collect();
        let embedding = OllamaEmbedding::connect(client, EMBEDDING).await.unwrap();
        let embedding = Arc::new(admission.embedding(Arc::new(embedding)));
        Self { admission, watcher, models, fronts, embedding }
    }

    /// What it was told to keep to, it keeps to at any moment.
    pub(crate) fn look(&self) {
        let status = self.admission.status();
        let kept = status.running <= PARALLEL && status.waiting <= WAITING && status.loaded.len() <= LOADED;
        assert!(kept, "{status:?}");
    }

    /// Waits until nothing waits and every place is back.
    pub(crate) async fn comes_to_rest(&self) {
        let rest = async {
            loop {
                let status = self.admission.status();
                if (status.waiting, status.running) == (0, 0) {
                    return;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(PATIENCE, rest).await.is_ok(), "a place is lost: {:?}", self.admission.status());
    }

    /// Every model answers, and no breaker is open after it.
    pub(crate) async fn answers(&self) {
        for model in &self.models {
            let name = model.info().name.as_str();
            let question = format!("Are you well, {name}?");
            let reply = at_last(name, async || model.complete(ChatRequest::ask(question.as_str())).await).await;
            assert_eq!(reply.text, said(&question));
        }
        at_last(EMBEDDING, async || self.embedding.embed_one("Are you well?").await).await;
        let breakers = self.watcher.breakers.lock().unwrap();
        assert!(breakers.values().all(|state| *state == BreakerState::Closed), "{breakers:?}");
    }

    pub(crate) fn watcher(&self) -> &Watcher {
        &self.watcher
    }
}

/// Asks until there is an answer. Calm as all may be, a machine can be slow for a moment.
async fn at_last<T>(model: &str, ask: impl AsyncFn() -> Result<T>) -> T {
    let asked = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => assert!(is_typed(&error), "{error:?}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{model} does not answer any more"))
}

/// Counts what a gateway does.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    pub(crate) retries: AtomicUsize,
    pub(crate) fallbacks: AtomicUsize,
    pub(crate) joins: AtomicUsize,
    pub(crate) hits: AtomicUsize,
    pub(crate) loads: AtomicUsize,
    pub(crate) openings: AtomicUsize,
    /// What the breakers of the models that ever failed do now.
    breakers: Mutex<BTreeMap<String, BreakerState>>,
}

impl GatewayObserver for Watcher {
    fn cached(&self, _model: &str, used: CacheUse) {
        if used == CacheUse::Hit {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn coalesced(&self, _model: &str) {
        self.joins.fetch_add(1, Ordering::Relaxed);
    }

    fn retried(&self, _model: &str, _attempt: u32) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    fn fell_back(&self, _from: &str, _to: &str, _code: &'static str) {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
    }

    fn loaded(&self, _model: &ModelInfo, _took: Duration) {
        self.loads.fetch_add(1, Ordering::Relaxed);
    }

    fn breaker(&self, _backend: &str, model: &str, state: BreakerState) {
        if state == BreakerState::Open {
            self.openings.fetch_add(1, Ordering::Relaxed);
        }
        self.breakers.lock().unwrap().insert(model.to_owned(), state);
    }
}
