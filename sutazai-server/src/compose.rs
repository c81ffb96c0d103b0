//! From settings to a running engine: which store, models, vectors and agents.

use std::{sync::Arc, time::Duration};

use sutazai_agents::{AgentsOptions, catalogue};
use sutazai_core::{
    Error, ErrorKind, Orchestrator, Result,
    engine::{Drained, OrchestratorBuilder},
    memory::MemoryVectorStore,
    model::ChatModel,
};
use sutazai_llm::{
    local::{LocalChat, LocalEmbedding},
    ollama::{Discovered, OllamaChat, default_urls, discover},
    registry::ModelStore,
};

use sutazai_store::{SqliteConfig, SqliteStore, Synchronous, vector::UsearchStore};

use crate::{
    config::{Fsync, Settings, VectorProvider},
    defaults::WithDefaults,
    dev_agents::dev_agents,
    metrics::Metrics,
    node::DataDir,
};

/// Where the index is, in the data directory.
const INDEX: &str = "vectors";

/// The embedded chat model.
pub const CHAT_MODEL: &str = "smollm2:135m";
/// The embedded embedding model.
pub const EMBEDDING_MODEL: &str = "all-minilm";

/// A running engine with what must be closed after it.
pub struct Engine {
    /// The engine.
    pub orchestrator: Orchestrator,
    index: Option<Arc<UsearchStore>>,
}

impl Engine {
    /// Admits nothing more, lets running tasks finish within `grace`, and closes the stores.
    pub async fn close(&self, grace: Duration) -> Result<Drained> {
        let drained = self.orchestrator.shutdown(grace).await;
        if let Some(index) = &self.index {
            index.close().await;
        }
        drained
    }
}

/// An engine over the data directory, as `serve` runs it, and what counts its work.
pub async fn serving(settings: &Settings, dir: &DataDir) -> Result<(Engine, Arc<Metrics>)> {
    let catalogue = catalogue(AgentsOptions::default());
    let mut agents = catalogue.agents;
    if settings.dev_agents {
        agents.extend(dev_agents());
    }
    let names: Vec<String> = agents.iter().map(|agent| agent.descriptor().name.clone()).collect();
    let metrics = Arc::new(Metrics::new(&settings.prometheus_namespace, names)?);
    let builder = Orchestrator::builder()
        .agents(agents)
        .router(catalogue.router)
        .observer(Arc::clone(&metrics) as _)
        .node(dir.node().clone())
        .max_running(settings.max_running)
        .store(store(settings, dir).await?);
    let index = match settings.vector_provider {
        VectorProvider::Usearch => Some(Arc::new(UsearchStore::open(dir.join(INDEX)).await?)),
        VectorProvider::Memory => None,
    };
    let builder = models(vectors(builder, index.as_ref()), settings, ollama(settings).await).await?;
    Ok((Engine { orchestrator: builder.start().await?, index }, metrics))
}

/// An engine for one command: tasks in memory, the index kept in the data directory unless a server has that.
pub async fn alone(settings: &Settings, ollama: Option<Discovered>) -> Result<Engine> {
    let catalogue = catalogue(AgentsOptions::default());
    let builder = Orchestrator::builder().agents(catalogue.agents).router(catalogue.router);
    let index = match settings.vector_provider {
        VectorProvider::Usearch => {
            // What cannot be made is told by opening it.
            let _ = crate::node::create(&settings.data_dir);
            UsearchStore::open(settings.data_dir.join(INDEX)).await.map(Arc::new)
        }
        VectorProvider::Memory => Err(Error::new(ErrorKind::Unsupported, "memory was asked for")),
    };
    let index = index.inspect_err(|error| tracing::debug!(%error, "the index of this command is in memory")).ok();
    let builder = models(vectors(builder, index.as_ref()), settings, ollama).await?;
    Ok(Engine { orchestrator: builder.start().await?, index })
}

/// Adds the index, or one in memory.
fn vectors(builder: OrchestratorBuilder, index: Option<&Arc<UsearchStore>>) -> OrchestratorBuilder {
    match index {
        Some(index) => builder.vectors(Arc::clone(index) as _),
        None => builder.vectors(Arc::new(MemoryVectorStore::new())),
    }
}

async fn store(settings: &Settings, dir: &DataDir) -> Result<SqliteStore> {
    let mut config = SqliteConfig::new(dir.join("tasks.db"));
    config.synchronous = match settings.sqlite_synchronous {
        Fsync::Full => Synchronous::Full,
        Fsync::Normal => Synchronous::Normal,
    };
    SqliteStore::connect(config).await
}

/// The Ollama that answers and holds the chat model of the settings, if there is one.
pub async fn ollama(settings: &Settings) -> Option<Discovered> {
    let urls = settings.ollama_base_url.clone().map_or_else(default_urls, |url| vec![url]);
    let mut open = Vec::new();
    for url in urls {
        if listens(&url).await {
            open.push(url);
        }
    }
    if open.is_empty() {
        return None;
    }
    discover(&open, &settings.model_id).await
}

/// Whether anything listens at a URL. Much cheaper than an HTTP client, and on most machines the answer is no.
async fn listens(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return false };
    let connecting = tokio::net::TcpStream::connect((host.trim_matches(['[', ']']), port));
    tokio::time::timeout(Duration::from_millis(500), connecting).await.is_ok_and(|connected| connected.is_ok())
}

/// Adds the models, the default ones first. Nothing is loaded before it is used.
async fn models(
    builder: OrchestratorBuilder,
    settings: &Settings,
    ollama: Option<Discovered>,
) -> Result<OrchestratorBuilder> {
    let store = ModelStore::new(&settings.models_dir);
    let mut chat: Vec<Arc<dyn ChatModel>> = Vec::new();
    if let Some(ollama) = ollama {
        chat.push(Arc::new(OllamaChat::connect(ollama.client, &settings.model_id, None).await?));
    }
    chat.push(Arc::new(LocalChat::from_store(store.clone(), CHAT_MODEL)?));
    let builder = chat.into_iter().fold(builder, |builder, model| {
        builder.chat_model(WithDefaults::wrap(model, settings.temperature, settings.max_tokens))
    });
    Ok(builder.embedding_model(Arc::new(LocalEmbedding::new(store, EMBEDDING_MODEL)?)))
}
