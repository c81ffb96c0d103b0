//! From settings to a running engine: which store, models, vectors and agents.

mod answers;
mod limited;
mod models;
mod reach;
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
    store::{AnswerCache, BudgetStore, TaskStore},
    task::{Event, Task},
};
use sutazai_llm::{
    gateway::{Unobserved, admission::Admission, budget::Ledger},
    ollama::{Discovered, answering, default_urls},
    registry::ModelStore,
};
use sutazai_store::vector::UsearchStore;
use tokio::sync::{Mutex, Notify};

pub use self::reach::{Reach, Reached, reach};
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
    /// The server that keeps answers of models for several processes, if there is one.
    pub shared_answers: Option<Arc<dyn AnswerCache>>,
    /// The admissions of the models' backends.
    pub admissions: Vec<Admission>,
    outbox: Mutex<Option<Outbox>>,
    index: Option<Arc<UsearchStore>>,
}

impl Engine {
    fn new(orchestrator: Orchestrator, index: Option<Arc<UsearchStore>>) -> Self {
        Self { orchestrator, shared_answers: None, admissions: Vec::new(), outbox: Mutex::new(None), index }
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
    for stranger in settings.budgets.config().agents.keys().filter(|name| !names.contains(name)) {
        tracing::warn!("budgets: there is no agent {stranger:?}, its budget has no effect");
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
    let kept = answers::open(settings).await?;
    let (builder, admissions) =
        models::models(builder, settings, ollama, Arc::clone(&metrics) as _, kept.cache, budget).await?;
    let mut engine = Engine::new(builder.start().await?, index);
    engine.shared_answers = kept.shared;
    engine.admissions = admissions;
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
    let answers = answers::open(settings).await?.cache;
    let (builder, _) = models::models(builder, settings, ollama, Arc::new(Unobserved), answers, budget).await?;
    Ok(Engine::new(builder.start().await?, index))
}

/// An engine that runs recorded runs again, with every agent there is: it asks no model and keeps nothing.
pub async fn replaying(settings: &Settings) -> Result<Orchestrator> {
    let catalogue = catalogue(agents_options(settings));
    let builder = Orchestrator::builder().agents(catalogue.agents).agents(dev_agents()).router(catalogue.router);
    let builder = vectors(builder, None);
    let (builder, _) = models::models(builder, settings, None, Arc::new(Unobserved), None, None).await?;
    builder.start().await
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

/// The Ollama that a server with these settings would use, or else the first that answers, whatever it holds.
async fn any_ollama(settings: &Settings) -> Option<Discovered> {
    let mut listening = Vec::new();
    for url in settings.ollama_base_url.clone().map_or_else(default_urls, |url| vec![url]) {
        if listens(&url).await {
            listening.push(url);
        }
    }
    let mut found = answering(&listening).await;
    let best = found.iter().position(|found| found.holds(&settings.model_id)).unwrap_or(0);
    (best < found.len()).then(|| found.swap_remove(best))
}

/// The models directory of the settings, with its quota.
#[must_use]
pub fn model_store(settings: &Settings) -> ModelStore {
    let quota = (settings.models_quota_mb > 0).then(|| settings.models_quota_mb.saturating_mul(1_000_000));
    ModelStore::new(&settings.models_dir).with_quota(quota)
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
    use std::collections::BTreeMap;

    use axum::{
        Json, Router,
        routing::{get, post},
    };
    use serde_json::json;
    use sutazai_core::{
        Payload,
        model::{Caller, ChatModelExt, ChatRequest},
        store::{Account, TaskWrite},
        task::{TaskId, TaskRequest},
    };
    use sutazai_store::SqliteStore;

    use super::*;
    use crate::config::{find, load};

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

    #[tokio::test]
    async fn to_look_around_any_ollama_will_do() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = holding("other:latest").await;
        let flag = (crate::config::find("ollama_base_url").unwrap(), url.clone());
        let home = std::collections::BTreeMap::from([("HOME".to_owned(), "/home/someone".to_owned())]);
        let settings = crate::config::load(&[flag], &home).unwrap().settings;
        assert_eq!(any_ollama(&settings).await.unwrap().client.address(), url);
        assert!(ollama(&settings).await.is_none(), "a server would not use it");
        let away = Settings { ollama_base_url: Some("http://127.0.0.1:9".into()), ..settings };
        assert!(any_ollama(&away).await.is_none());
    }

    /// What answers every question as a server of OpenAI's format does: two tokens to three.
    async fn greeting() -> String {
        let said = json!({"choices": [{"delta": {"content": "Hello."}, "finish_reason": null}]});
        let usage = json!({"prompt_tokens": 3, "completion_tokens": 2});
        let end = json!({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage});
        let answer = format!("data: {said}\n\ndata: {end}\n\ndata: [DONE]\n\n");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/chat/completions", post(move || async { answer }));
        tokio::spawn(async { axum::serve(listener, router).await });
        url
    }

    #[tokio::test]
    async fn budgets_are_kept_beside_the_tasks_and_closed_before_them() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (folder, url) = (tempfile::tempdir().unwrap(), greeting().await);
        let path = folder.path().to_str().unwrap();
        let flags = [
            ("data_dir", path),
            ("models_dir", path),
            ("vector_provider", "memory"),
            ("openai_base_url", url.as_str()),
            ("openai_models", "greeter"),
            ("budgets", r#"{"task": {"tokens": 100000, "calls": 100}}"#),
        ];
        let flags = flags.map(|(name, value)| (find(name).unwrap(), value.to_owned()));
        let settings = load(&flags, &BTreeMap::new()).unwrap().settings;
        let dir = DataDir::open(folder.path()).unwrap();
        let (engine, _) = serving(&settings, &dir, "127.0.0.1:1".parse().unwrap(), None).await.unwrap();

        let id = |n: u8| TaskId::from_bytes([n; 16]);
        for (task, parent) in [(1, None), (2, Some(1))] {
            let mut request = TaskRequest::new("nobody", Payload::null());
            request.parent_id = parent.map(id);
            let now = SystemClock.now();
            let step = sutazai_core::engine::create(id(task), "nobody".into(), "1.0.0".into(), request, now);
            let write = TaskWrite::Insert { task: Arc::new(step.task), events: step.events, key: None, journal: None };
            engine.orchestrator.task_store().write(&[write]).await.unwrap();
        }
        let caller = Caller { task: Some(id(3)), parent: Some(id(2)), ..Caller::default() };
        let model = engine.orchestrator.models().chat(Some("greeter")).unwrap();
        let request = ChatRequest { caller, ..ChatRequest::ask("Who is there?") };
        assert_eq!(model.complete(request).await.unwrap().text, "Hello.");
        engine.close(Duration::from_secs(30)).await.unwrap();

        let store = SqliteStore::open(dir.join("tasks.db")).await.unwrap();
        let taken = store.taken(&[Account::Task(id(1)), Account::Task(id(2))]).await.unwrap();
        let spent: Vec<_> = taken.iter().map(|taken| (taken.tokens, taken.calls)).collect();
        assert_eq!(spent, [(5, 1), (0, 0)], "the first of the family pays, and no more than was spent");
    }
}
