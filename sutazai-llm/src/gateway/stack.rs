//! The wrappers in their order.

use std::{fmt, sync::Arc};

use sutazai_core::{
    Result,
    clock::{Clock, SystemClock},
    model::{ChatModel, EmbeddingModel},
};

use super::{
    Balance, BalanceConfig, Breaker, BreakerConfig, Coalesce, ContextFit, Fallback, FitConfig, GatewayObserver, Retry,
    RetryConfig, TokenCounter,
    budget::{Budget, Ledger},
    cache::{AnswerCache, Cache, SemanticCache, SemanticConfig},
};
#[cfg(feature = "json-schema")]
use super::{Structured, StructuredConfig};

/// Puts models behind the gateway. Whatever is not asked for is left out, and costs nothing.
///
/// ```
/// # use std::sync::Arc;
/// # use sutazai_core::{memory::ScriptedChat, model::{ChatModel, ChatModelExt, ChatRequest}};
/// # use sutazai_llm::gateway::{Gateway, Unobserved, admission::{Admission, AdmissionConfig}, cache::MemoryAnswers};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> sutazai_core::Result<()> {
/// let observer = Arc::new(Unobserved);
/// let backend = Admission::new("one box", AdmissionConfig::default(), observer.clone())?;
/// let [large, small] = ["large", "small"].map(|name| Arc::new(ScriptedChat::new(name).otherwise("Hello.")));
///
/// let gateway = Gateway::new(observer).resilient().answers(Arc::new(MemoryAnswers::default()));
/// let large = gateway.model(vec![Arc::new(backend.chat(large))], None)?;
/// let small = gateway.model(vec![Arc::new(backend.chat(small))], None)?;
/// let model = gateway.front(large, vec![small]);
///
/// let answer = model.chat(ChatRequest::ask("Who is there?")).await?;
/// assert_eq!(answer.served().model, "large");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Gateway {
    observer: Arc<dyn GatewayObserver>,
    clock: Arc<dyn Clock>,
    answers: Option<Arc<dyn AnswerCache>>,
    semantic: Option<(Arc<dyn EmbeddingModel>, SemanticConfig)>,
    #[cfg(feature = "json-schema")]
    structured: Option<StructuredConfig>,
    fit: Option<FitConfig>,
    budget: Option<Arc<Ledger>>,
    retry: Option<RetryConfig>,
    breaker: Option<BreakerConfig>,
    balance: BalanceConfig,
}

impl Gateway {
    /// A gateway without any wrapper yet.
    #[must_use]
    pub fn new(observer: Arc<dyn GatewayObserver>) -> Self {
        Self {
            observer,
            clock: Arc::new(SystemClock),
            answers: None,
            semantic: None,
            #[cfg(feature = "json-schema")]
            structured: None,
            fit: None,
            budget: None,
            retry: None,
            breaker: None,
            balance: BalanceConfig::default(),
        }
    }

    /// Checks that requests fit, tries again what may succeed then, and spares backends that are ill, all with their defaults.
    #[must_use]
    pub fn resilient(self) -> Self {
        self.fit(FitConfig::default()).retry(RetryConfig::default()).breaker(BreakerConfig::default())
    }

    /// Keeps answers, and joins requests that are the same while they are answered.
    #[must_use]
    pub fn answers(self, answers: Arc<dyn AnswerCache>) -> Self {
        Self { answers: Some(answers), ..self }
    }

    /// Keeps answers by what questions mean as well, for the agents that `config` names.
    #[must_use]
    pub fn semantic(self, embedder: Arc<dyn EmbeddingModel>, config: SemanticConfig) -> Self {
        Self { semantic: Some((embedder, config)), ..self }
    }

    /// Checks answers that are to have a form, and tool calls.
    #[cfg(feature = "json-schema")]
    #[must_use]
    pub fn structured(self, config: StructuredConfig) -> Self {
        Self { structured: Some(config), ..self }
    }

    /// Sends only what fits.
    #[must_use]
    pub fn fit(self, config: FitConfig) -> Self {
        Self { fit: Some(config), ..self }
    }

    /// Asks a model only within the budgets that this ledger keeps; one for all gateways of a process.
    #[must_use]
    pub fn budget(self, ledger: Arc<Ledger>) -> Self {
        Self { budget: Some(ledger), ..self }
    }

    /// Tries again what may succeed then.
    #[must_use]
    pub fn retry(self, config: RetryConfig) -> Self {
        Self { retry: Some(config), ..self }
    }

    /// Spares backends that are ill.
    #[must_use]
    pub fn breaker(self, config: BreakerConfig) -> Self {
        Self { breaker: Some(config), ..self }
    }

    /// How calls are shared out among several backends of one model.
    #[must_use]
    pub fn balance(self, config: BalanceConfig) -> Self {
        Self { balance: config, ..self }
    }

    /// One model, served by these backends, each behind its own admission; `counter` counts its prompts, if anything does.
    ///
    /// Kind `Invalid` if there is no backend, if they serve different models, or if the gateway's settings are wrong.
    pub fn model(
        &self,
        backends: Vec<Arc<dyn ChatModel>>,
        counter: Option<Arc<dyn TokenCounter>>,
    ) -> Result<Arc<dyn ChatModel>> {
        let guarded: Result<Vec<_>> = backends.into_iter().map(|backend| self.guarded(backend)).collect();
        let mut guarded = guarded?;
        let mut model: Arc<dyn ChatModel> = match guarded.pop() {
            Some(only) if guarded.is_empty() => only,
            last => {
                guarded.extend(last);
                Arc::new(Balance::new(guarded, self.balance)?)
            }
        };
        if let Some(config) = self.retry {
            model = Arc::new(Retry::new(model, config, Arc::clone(&self.clock), Arc::clone(&self.observer))?);
        }
        if let Some(ledger) = &self.budget {
            let budget = Budget::new(model, Arc::clone(ledger), Arc::clone(&self.observer));
            model = match &counter {
                Some(counter) => Arc::new(budget.with_counter(Arc::clone(counter))),
                None => Arc::new(budget),
            };
        }
        if let Some(config) = self.fit {
            let fit = ContextFit::new(model, config, Arc::clone(&self.observer));
            model = match counter {
                Some(counter) => Arc::new(fit.with_counter(counter)),
                None => Arc::new(fit),
            };
        }
        Ok(model)
    }

    fn guarded(&self, backend: Arc<dyn ChatModel>) -> Result<Arc<dyn ChatModel>> {
        let Some(config) = self.breaker else { return Ok(backend) };
        Ok(Arc::new(Breaker::new(backend, config, Arc::clone(&self.clock), Arc::clone(&self.observer))?))
    }

    /// What callers ask: `model`, or in its place the first of `fallbacks` that answers, behind the check of its answers and the caches.
    #[must_use]
    pub fn front(&self, model: Arc<dyn ChatModel>, fallbacks: Vec<Arc<dyn ChatModel>>) -> Arc<dyn ChatModel> {
        let mut front = model;
        if !fallbacks.is_empty() {
            front = Arc::new(Fallback::new(front, fallbacks, Arc::clone(&self.clock), Arc::clone(&self.observer)));
        }
        #[cfg(feature = "json-schema")]
        if let Some(config) = &self.structured {
            front = Arc::new(Structured::new(front, config.clone(), Arc::clone(&self.observer)));
        }
        if self.answers.is_some() || self.semantic.is_some() {
            front = Arc::new(Coalesce::new(front, Arc::clone(&self.observer)));
        }
        if let Some((embedder, config)) = &self.semantic {
            front =
                Arc::new(SemanticCache::new(front, Arc::clone(embedder), config.clone(), Arc::clone(&self.observer)));
        }
        if let Some(answers) = &self.answers {
            front = Arc::new(Cache::new(front, Arc::clone(answers), Arc::clone(&self.observer)));
        }
        front
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("answers", &self.answers.is_some())
            .field("semantic", &self.semantic.is_some())
            .field("fit", &self.fit)
            .field("budget", &self.budget.is_some())
            .field("retry", &self.retry)
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}
