//! From settings to a running engine: which store, models, vectors and agents.

use std::{sync::Arc, time::Duration};

use sutazai_agents::{AgentsOptions, catalogue};
use sutazai_core::{
    Error, Orchestrator, Result,
    engine::{Drained, OrchestratorBuilder},
    memory::MemoryVectorStore,
    model::ChatModel,
};
use sutazai_llm::{
    local::{LocalChat, LocalEmbedding},
    ollama::{Discovered, OllamaChat, answering, default_urls},
    registry::ModelStore,
};

use sutazai_store::{SqliteConfig, SqliteStore, Synchronous, vector::UsearchStore};

use crate::{
    config::{Fsync, Settings, VectorProvider, masked_url},
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
pub async fn serving(settings: &Settings, dir: &DataDir, ollama: Option<Discovered>) -> Result<(Engine, Arc<Metrics>)> {
    let catalogue = catalogue(agents_options(settings));
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
    let builder = models(vectors(builder, index.as_ref()), settings, ollama).await?;
    Ok((Engine { orchestrator: builder.start().await?, index }, metrics))
}

/// An engine for one command: tasks in memory, the index kept in the data directory unless a server has that.
pub async fn alone(settings: &Settings, ollama: Option<Discovered>) -> Result<Engine> {
    let catalogue = catalogue(agents_options(settings));
    let builder = Orchestrator::builder().agents(catalogue.agents).router(catalogue.router);
    let index = match settings.vector_provider {
        VectorProvider::Usearch => {
            // What cannot be made is told by opening it.
            let _ = crate::node::create(&settings.data_dir);
            let opened = UsearchStore::open(settings.data_dir.join(INDEX)).await;
            opened.inspect_err(warn_of_index).ok().map(Arc::new)
        }
        VectorProvider::Memory => None,
    };
    let builder = models(vectors(builder, index.as_ref()), settings, ollama).await?;
    Ok(Engine { orchestrator: builder.start().await?, index })
}

/// Why a command that works alone makes its index anew.
fn warn_of_index(error: &Error) {
    let what = match error.code() {
        "vectors_in_use" => {
            "a server has the index: name it with --server URL, or the documents are indexed anew in memory"
        }
        _ => "the index cannot be used; the documents are indexed anew in memory",
    };
    tracing::warn!(error = %error.report(), "{what}");
}

fn agents_options(settings: &Settings) -> AgentsOptions {
    let mut options = AgentsOptions::default();
    options.documents.roots.clone_from(&settings.docs_roots);
    options.documents.temperature = settings.temperature;
    options.documents.max_tokens = settings.max_tokens;
    options
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

/// The first Ollama that answers and holds the chat model of the settings, if there is one. One that was named and does not is warned about.
pub async fn ollama(settings: &Settings) -> Option<Discovered> {
    match &settings.ollama_base_url {
        Some(url) => first_holding(std::slice::from_ref(url), &settings.model_id, true).await,
        None => first_holding(&default_urls(), &settings.model_id, false).await,
    }
}

async fn first_holding(urls: &[String], model: &str, named: bool) -> Option<Discovered> {
    for url in urls {
        let found = if listens(url).await { answering(std::slice::from_ref(url)).await.pop() } else { None };
        let why = match found {
            Some(found) if found.holds(model) => return Some(found),
            Some(_) => "does not hold it",
            None => "does not answer",
        };
        if named {
            let url = masked_url(url);
            tracing::warn!("no {model} from the Ollama at {url}, which {why}; {CHAT_MODEL} answers in this process");
        }
    }
    None
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
        match OllamaChat::connect(ollama.client, &settings.model_id, None).await {
            Ok(model) => chat.push(Arc::new(model)),
            Err(error) => {
                tracing::warn!(error = %error.report(), "the Ollama's model cannot be used; {CHAT_MODEL} answers instead");
            }
        }
    }
    chat.push(Arc::new(LocalChat::from_store(store.clone(), CHAT_MODEL)?));
    let builder = chat.into_iter().fold(builder, |builder, model| {
        builder.chat_model(WithDefaults::wrap(model, settings.temperature, settings.max_tokens))
    });
    Ok(builder.embedding_model(Arc::new(LocalEmbedding::new(store, EMBEDDING_MODEL)?)))
}

#[cfg(test)]
mod tests {
    use axum::{Json, Router, routing::get};
    use serde_json::json;

    use super::*;

    /// What answers as an Ollama that holds one model.
    async fn holding(model: &str) -> String {
        let tags = json!({ "models": [{ "name": model, "model": model, "size": 1, "digest": "d" }] });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/api/tags", get(move || async { Json(tags) }));
        tokio::spawn(async { axum::serve(listener, router).await });
        url
    }

    #[tokio::test]
    async fn the_ollama_that_holds_the_model_is_taken() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let closed = "http://127.0.0.1:9".to_owned();
        let urls = [closed, holding("other:latest").await, holding("tinyllama:latest").await];
        let found = first_holding(&urls, "tinyllama", false).await.unwrap();
        assert_eq!(found.client.address(), urls[2]);
        assert!(first_holding(&urls[..2], "tinyllama", true).await.is_none());
    }
}
