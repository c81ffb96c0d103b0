//! From settings to a running engine: which store, models, vectors and agents.

mod limited;
mod models;
mod store;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use sutazai_agents::{AgentsOptions, catalogue};
use sutazai_core::{
    Error, Orchestrator, Result,
    agent::{Agent, AgentLimits},
    clock::{Clock, SystemClock},
    engine::{Drained, Keep, Observer, OrchestratorBuilder, Retention},
    memory::{MemoryBudgetStore, MemoryVectorStore},
    model::Usage,
    store::{BudgetStore, TaskStore},
    task::{Event, Task},
};
use sutazai_llm::{
    gateway::{Unobserved, budget::Ledger},
    ollama::{Discovered, answering, default_urls},
};
use sutazai_store::vector::UsearchStore;
use tokio::sync::{Mutex, Notify};

use self::{limited::Limited, store::Stored};
use crate::{
    config::{Role, Settings, VectorProvider, masked_url},
    dev_agents::dev_agents,
    metrics::Metrics,
    node::DataDir,
    webhooks::{Outbox, Policy, Post, Sender, TIMEOUT},
};

/// Where the index is, in the data directory.
const INDEX: &str = "vectors";

/// The embedded chat model.
pub const CHAT_MODEL: &str = "smollm2:135m";
/// The embedded embedding model.
pub const EMBEDDING_MODEL: &str = "all-minilm";

/// What the agents of the catalogue may start a minute, unless the settings say otherwise.
const CATALOGUE_PER_MINUTE: u32 = 1_000;

/// A running engine with what must be closed after it.
pub struct Engine {
    /// The engine.
    pub orchestrator: Orchestrator,
    outbox: Mutex<Option<Outbox>>,
    index: Option<Arc<UsearchStore>>,
}

impl Engine {
    fn new(orchestrator: Orchestrator, index: Option<Arc<UsearchStore>>) -> Self {
        Self { orchestrator, outbox: Mutex::new(None), index }
    }

    /// Admits nothing more, lets running tasks finish within `grace`, gives back what was drawn of budgets, and closes the stores.
    pub async fn close(&self, grace: Duration) -> Result<Drained> {
        let began = Instant::now();
        if let Some(outbox) = self.outbox.lock().await.take() {
            outbox.stop().await; // it writes to the store that is closed next
        }
        let drained = self.orchestrator.shutdown(grace.saturating_sub(began.elapsed())).await;
        if let Some(index) = &self.index {
            index.close().await;
        }
        drained
    }
}

/// An engine over the data directory, as `serve` runs it at `address`, and what counts its work.
pub async fn serving(
    settings: &Settings,
    dir: &DataDir,
    address: SocketAddr,
    ollama: Option<Discovered>,
) -> Result<(Engine, Arc<Metrics>)> {
    let catalogue = catalogue(agents_options(settings));
    let agents = limited(catalogue.agents, settings);
    let names: Vec<String> = agents.iter().map(|agent| agent.descriptor().name.clone()).collect();
    for stranger in settings.agent_limits.names().filter(|name| !names.iter().any(|known| known == name)) {
        tracing::warn!("agent_limits: there is no agent {stranger:?}, its limits have no effect");
    }
    let metrics = Arc::new(Metrics::new(&settings.prometheus_namespace, names)?);
    let watchers = Watchers { metrics: Arc::clone(&metrics), posts: Arc::default() };
    let posts = Arc::clone(&watchers.posts);
    let Stored { tasks, budgets } = store::open(settings, dir).await?;
    let budget = ledger(settings, budgets, Some(&tasks));
    let mut builder = Orchestrator::builder()
        .agents(agents)
        .router(catalogue.router)
        .observer(Arc::new(watchers))
        .node(Arc::clone(dir.node()))
        .describe(settings.role.as_str(), env!("CARGO_PKG_VERSION"), Some(format!("http://{address}")))
        .max_running(settings.max_running)
        .queue_max(settings.queue_max)
        .lease(Duration::from_millis(settings.lease_ms))
        .other_tenants(settings.tenants.others())
        .retention(retention(settings))
        .shared_store(tasks);
    builder = settings.tenants.rules().fold(builder, |builder, (name, rule)| builder.tenant(name, rule));
    if settings.role == Role::Api {
        builder = builder.without_execution();
    }
    let index = match settings.vector_provider {
        VectorProvider::Usearch => Some(Arc::new(UsearchStore::open(dir.join(INDEX)).await?)),
        VectorProvider::Memory => None,
    };
    let builder = vectors(builder, index.as_ref());
    let builder = models::models(builder, settings, ollama, Arc::clone(&metrics) as _, budget).await?;
    let engine = Engine::new(builder.start().await?, index);
    if settings.webhook_secret.is_some() {
        let policy = Policy { allow_private: settings.webhook_allow_private };
        let sender = Sender::new(settings.webhook_secret.clone(), policy, TIMEOUT);
        let post = Post::new(Arc::clone(engine.orchestrator.task_store()), sender, Arc::clone(&metrics));
        *engine.outbox.lock().await = Some(Outbox::start(post, posts));
    } else {
        warn_of_unsigned(&engine.orchestrator).await;
    }
    Ok((engine, metrics))
}

/// Says so if events wait to be posted and this process cannot sign them. They are looked at and given back.
async fn warn_of_unsigned(engine: &Orchestrator) {
    match engine.task_store().deliveries(SystemClock.now(), 1, Duration::ZERO).await {
        Ok(waiting) if waiting.is_empty() => {}
        Ok(_) => tracing::warn!(
            "events wait to be posted to webhooks, and this process posts none: they are signed with SUTAZAI_WEBHOOK_SECRET, which is not set"
        ),
        Err(error) => tracing::warn!(error = %error.report(), "the deliveries of webhooks cannot be read"),
    }
}

/// The agents of the catalogue, which is rated, and those for tests if they are wanted, all with the limits of the settings.
fn limited(catalogue: Vec<Arc<dyn Agent>>, settings: &Settings) -> Vec<Arc<dyn Agent>> {
    let of_house = AgentLimits { concurrency: None, per_minute: Some(CATALOGUE_PER_MINUTE) };
    let extra = if settings.dev_agents { dev_agents() } else { Vec::new() };
    let declared = |agent: Arc<dyn Agent>| (agent.descriptor().limits, agent);
    let all = catalogue.into_iter().map(|agent| (of_house, agent)).chain(extra.into_iter().map(declared));
    all.map(|(declared, agent)| Limited::wrap(agent, |name| settings.agent_limits.of(name, declared))).collect()
}

fn retention(settings: &Settings) -> Retention {
    let keep = |days: u64, count: u64| Keep {
        age: (days > 0).then(|| Duration::from_secs(days * 24 * 3_600)),
        count: (count > 0).then_some(count),
    };
    Retention {
        completed: keep(settings.keep_completed_days, settings.keep_completed),
        failed: keep(settings.keep_failed_days, settings.keep_failed),
        cancelled: keep(settings.keep_cancelled_days, settings.keep_cancelled),
    }
}

/// Who is told of changes: the metrics, and the outbox of what it has to post.
struct Watchers {
    metrics: Arc<Metrics>,
    posts: Arc<Notify>,
}

impl Observer for Watchers {
    fn task_changed(&self, task: &Task, events: &[Event]) {
        self.metrics.task_changed(task, events);
        if task.webhook.is_some() {
            self.posts.notify_one();
        }
    }

    fn model_called(&self, agent: &str, model: &str, usage: Usage) {
        self.metrics.model_called(agent, model, usage);
    }
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
    // What is spent here is not what a server counts: the command knows no days but its own.
    let budget = ledger(settings, Arc::new(MemoryBudgetStore::new()), None);
    let builder = vectors(builder, index.as_ref());
    let builder = models::models(builder, settings, ollama, Arc::new(Unobserved), budget).await?;
    Ok(Engine::new(builder.start().await?, index))
}

/// An engine that runs recorded runs again, with every agent there is: it asks no model and keeps nothing.
pub async fn replaying(settings: &Settings) -> Result<Orchestrator> {
    let catalogue = catalogue(agents_options(settings));
    let builder = Orchestrator::builder().agents(catalogue.agents).agents(dev_agents()).router(catalogue.router);
    models::models(vectors(builder, None), settings, None, Arc::new(Unobserved), None).await?.start().await
}

/// What keeps the budgets of the settings, if they limit anything.
fn ledger(settings: &Settings, store: Arc<dyn BudgetStore>, tasks: Option<&Arc<dyn TaskStore>>) -> Option<Arc<Ledger>> {
    let config = settings.budgets.config();
    let start = || Ledger::start(store, tasks.cloned(), config.clone(), Arc::new(SystemClock));
    config.limits_anything().then(start).map(Arc::new)
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
