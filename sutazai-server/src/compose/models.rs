//! From settings to models: which backends there are, and the gateway before them.

use std::{sync::Arc, time::Duration};

use sutazai_core::{
    Error, Result,
    engine::OrchestratorBuilder,
    model::{ChatModel, EmbeddingModel},
    store::AnswerCache,
};
use sutazai_llm::{
    gateway::{
        Gateway, GatewayObserver, StructuredConfig, TokenCounter, Unobserved,
        admission::{Admission, AdmissionConfig},
        budget::Ledger,
    },
    local::{LocalChat, LocalChatConfig, LocalEmbedding},
    ollama::{Discovered, KeepAlive, OllamaModel},
    openai::{OpenAiChat, OpenAiChatConfig, OpenAiClient},
    registry::ModelStore,
};

use super::{CHAT_MODEL, EMBEDDING_MODEL};
use crate::{config::Settings, defaults::WithDefaults};

/// How long the place of a call to Ollama is kept after it was cancelled: the server does not say when it has stopped.
const OLLAMA_SETTLES: Duration = Duration::from_millis(500);

/// Chats that the model in this process answers at a time, at least and at most: one pass over its weights serves all of them.
const LOCAL_CALLS: [usize; 2] = [4, 64];

/// Texts that the embedding model in this process is handed at a time; it reads those of several callers together.
const EMBEDDING_CALLS: usize = 64;

/// The models behind the gateway, the default ones first.
struct Behind<'a> {
    settings: &'a Settings,
    observer: Arc<dyn GatewayObserver>,
    gateway: Gateway,
    chat: Vec<Arc<dyn ChatModel>>,
    embedding: Vec<Arc<dyn EmbeddingModel>>,
    admissions: Vec<Admission>,
}

/// Adds the models, the default ones first, and gives the admissions of their backends. Nothing is loaded before it is used.
pub(super) async fn models(
    builder: OrchestratorBuilder,
    settings: &Settings,
    ollama: Option<Discovered>,
    observer: Arc<dyn GatewayObserver>,
    answers: Option<Arc<dyn AnswerCache>>,
    budget: Option<Arc<Ledger>>,
) -> Result<(OrchestratorBuilder, Vec<Admission>)> {
    let mut gateway = Gateway::new(Arc::clone(&observer)).resilient().structured(StructuredConfig::default());
    if let Some(answers) = answers {
        gateway = gateway.answers(answers);
    }
    if let Some(ledger) = &budget {
        gateway = gateway.budget(Arc::clone(ledger));
    }
    let behind = Behind::every(settings, observer, gateway, ollama).await?;
    let admissions = behind.admissions.clone();
    let prices = &settings.budgets.config().prices;
    for stranger in prices.keys().filter(|name| !behind.chat.iter().any(|model| is(model, name))) {
        tracing::warn!("budgets: there is no model {stranger:?}, its price has no effect");
    }
    let mut builder = behind.into_builder(builder);
    if let Some(ledger) = budget {
        // It gives back what it has drawn, and needs the store for that.
        builder = builder.at_the_end(async move { ledger.close().await });
    }
    Ok((builder, admissions))
}

/// The chat models that these settings reach, each behind the admission of its backend and nothing else: who asks them sees what they do themselves.
pub(super) async fn chat_models(settings: &Settings, ollama: Option<Discovered>) -> Result<Vec<Arc<dyn ChatModel>>> {
    let observer: Arc<dyn GatewayObserver> = Arc::new(Unobserved);
    let gateway = Gateway::new(Arc::clone(&observer));
    Ok(Behind::every(settings, observer, gateway, ollama).await?.chat)
}

impl<'a> Behind<'a> {
    /// All models there are. Nothing is loaded.
    async fn every(
        settings: &'a Settings,
        observer: Arc<dyn GatewayObserver>,
        gateway: Gateway,
        ollama: Option<Discovered>,
    ) -> Result<Self> {
        let (chat, embedding, admissions) = (Vec::new(), Vec::new(), Vec::new());
        let mut behind = Self { settings, observer, gateway, chat, embedding, admissions };
        if let Some(ollama) = ollama {
            behind.ollama(ollama).await?;
        }
        behind.local()?;
        behind.openai().await?;
        Ok(behind)
    }

    fn admission(&mut self, backend: &str, change: impl FnOnce(&mut AdmissionConfig)) -> Result<Admission> {
        let settings = self.settings;
        let mut config = AdmissionConfig::default();
        config.max_parallel = settings.model_parallel;
        config.max_loaded_models = settings.models_loaded;
        config.memory = (settings.model_memory_mb > 0).then(|| settings.model_memory_mb.saturating_mul(1_000_000));
        config.max_waiting = settings.model_queue;
        config.queue_timeout = Duration::from_millis(settings.model_queue_ms);
        config.age_limit = Duration::from_millis(settings.model_age_ms);
        config.silence = Duration::from_millis(settings.model_silence_ms);
        change(&mut config);
        let admission = Admission::new(backend, config, Arc::clone(&self.observer))?;
        self.admissions.push(admission.clone());
        Ok(admission)
    }

    fn add_chat(
        &mut self,
        admission: &Admission,
        model: impl ChatModel,
        counter: Option<Arc<dyn TokenCounter>>,
    ) -> Result<()> {
        let model = self.gateway.model(vec![Arc::new(admission.chat(Arc::new(model)))], counter)?;
        self.chat.push(model);
        Ok(())
    }

    /// What an Ollama holds, the model of the settings first if that is among it.
    async fn ollama(&mut self, ollama: Discovered) -> Result<()> {
        let settings = self.settings;
        let kept = Duration::from_secs(settings.ollama_keep_alive_s);
        let admission = self.admission("ollama", |config| {
            config.settle = OLLAMA_SETTLES;
            config.keep = Some(kept);
        })?;
        let keep_alive = KeepAlive::For(kept);
        let others = ollama.models.iter().filter(|tag| !tag.is(&settings.model_id)).map(|tag| tag.name.as_str());
        let first = ollama.holds(&settings.model_id).then_some(settings.model_id.as_str());
        let names: Vec<&str> = first.into_iter().chain(others).collect();
        for (name, connected) in names.iter().zip(ollama.connect(&names, Some(settings.ollama_context)).await) {
            match connected {
                Ok(OllamaModel::Chat(model)) => self.add_chat(&admission, model.keep_alive(keep_alive), None)?,
                Ok(OllamaModel::Embedding(model)) => {
                    let model = admission.embedding(Arc::new(model.keep_alive(keep_alive)));
                    self.embedding.push(Arc::new(model));
                }
                Err(error) => warn(name, &error),
            }
        }
        Ok(())
    }

    /// The models in this process. Each has threads and memory of its own.
    fn local(&mut self) -> Result<()> {
        let store = ModelStore::new(&self.settings.models_dir);
        let sessions = self.settings.model_parallel.clamp(LOCAL_CALLS[0], LOCAL_CALLS[1]);
        let chats = self.admission("local", |config| config.max_parallel = sessions)?;
        let model =
            LocalChat::new(LocalChatConfig { sessions, ..LocalChatConfig::from_store(store.clone(), CHAT_MODEL)? });
        let counter = model.counter();
        self.add_chat(&chats, model, Some(counter))?;
        let embeddings = self.admission("local embeddings", |config| config.max_parallel = EMBEDDING_CALLS)?;
        let model = embeddings.embedding(Arc::new(LocalEmbedding::new(store, EMBEDDING_MODEL)?));
        self.embedding.insert(0, Arc::new(model));
        Ok(())
    }

    /// What a server of OpenAI's format serves, if one is named.
    async fn openai(&mut self) -> Result<()> {
        let settings = self.settings;
        let Some(url) = &settings.openai_base_url else { return Ok(()) };
        let mut client = OpenAiClient::new(url)?;
        if let Some(key) = &settings.openai_api_key {
            client = client.api_key(key.clone());
        }
        let names = match settings.openai_models.as_slice() {
            [] => client.models().await.unwrap_or_else(|error| {
                let error = error.report();
                tracing::warn!(
                    error,
                    "what the server at openai_base_url serves is not known, and it is not asked again: name its models with openai_models, or restart when it is there"
                );
                Vec::new()
            }),
            named => named.to_vec(),
        };
        let admission = self.admission("openai", |config| {
            // What is in its memory, and when, is its own affair.
            config.max_loaded_models = usize::MAX;
            config.memory = None;
        })?;
        for name in names {
            let mut config = OpenAiChatConfig::new(name, settings.openai_context);
            config.capabilities.tools = true;
            config.capabilities.schema = true;
            config.capabilities.seed = true;
            self.add_chat(&admission, OpenAiChat::new(client.clone(), config), None)?;
        }
        Ok(())
    }

    fn into_builder(self, mut builder: OrchestratorBuilder) -> OrchestratorBuilder {
        let settings = self.settings;
        for name in settings.model_fallbacks.iter().filter(|name| !self.chat.iter().any(|model| is(model, name))) {
            tracing::warn!("model_fallbacks: there is no model {name:?}, it is left out");
        }
        for model in &self.chat {
            let others = settings.model_fallbacks.iter().filter(|name| !is(model, name));
            let others = others.filter_map(|name| self.chat.iter().find(|model| is(model, name)).cloned()).collect();
            let front = self.gateway.front(Arc::clone(model), others);
            builder = builder.chat_model(WithDefaults::wrap(front, settings.temperature, settings.max_tokens));
        }
        self.embedding.into_iter().fold(builder, |builder, model| builder.embedding_model(model))
    }
}

fn is(model: &Arc<dyn ChatModel>, name: &str) -> bool {
    model.info().name == name
}

fn warn(name: &str, error: &Error) {
    tracing::warn!(model = name, error = %error.report(), "a model cannot be used; others answer in its place");
}
