//! From parts to a running engine.

use std::{
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use futures_util::FutureExt;
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

use super::{
    Orchestrator,
    catalogue::Catalogue,
    control::Executions,
    hub::Hub,
    inner::Inner,
    observer::{Observer, Unobserved},
    orchestrator::Service,
    queue,
    router::Router,
    transition::{Command, apply},
    writer::{Announcer, Writer},
};
use crate::{
    agent::Agent,
    clock::{Clock, IdSource, SystemClock, Timestamp},
    error::{Error, ErrorKind, Result},
    memory::MemoryTaskStore,
    model::{ChatModel, EmbeddingModel, Models},
    store::{TaskStore, TaskWrite, VectorStore, WriteOutcome},
    task::NodeId,
};

/// Tasks that run at once in a process unless told otherwise.
pub const DEFAULT_MAX_RUNNING: usize = 512;

/// Tasks taken back from a former life in one commit.
const RECOVER: usize = 500;

/// Puts an engine together. Without a store it keeps tasks in memory.
pub struct OrchestratorBuilder {
    agents: Vec<Arc<dyn Agent>>,
    store: Option<Arc<dyn TaskStore>>,
    models: Models,
    vectors: Option<Arc<dyn VectorStore>>,
    router: Option<Arc<dyn Router>>,
    observer: Arc<dyn Observer>,
    clock: Arc<dyn Clock>,
    node: NodeId,
    max_running: usize,
}

impl fmt::Debug for OrchestratorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agents: Vec<&str> = self.agents.iter().map(|agent| agent.descriptor().name.as_str()).collect();
        f.debug_struct("OrchestratorBuilder").field("node", &self.node).field("agents", &agents).finish_non_exhaustive()
    }
}

impl Default for OrchestratorBuilder {
    fn default() -> Self {
        Self {
            agents: Vec::new(),
            store: None,
            models: Models::default(),
            vectors: None,
            router: None,
            observer: Arc::new(Unobserved),
            clock: Arc::new(SystemClock),
            node: NodeId::new("local"),
            max_running: DEFAULT_MAX_RUNNING,
        }
    }
}

impl OrchestratorBuilder {
    /// Registers an agent.
    #[must_use]
    pub fn agent(mut self, agent: impl Agent) -> Self {
        self.agents.push(Arc::new(agent));
        self
    }

    /// Registers agents.
    #[must_use]
    pub fn agents(mut self, agents: impl IntoIterator<Item = Arc<dyn Agent>>) -> Self {
        self.agents.extend(agents);
        self
    }

    /// Keeps tasks in `store`.
    #[must_use]
    pub fn store(self, store: impl TaskStore) -> Self {
        self.shared_store(Arc::new(store))
    }

    /// Keeps tasks in `store`, which others use too. [`Orchestrator::shutdown`] closes it all the same.
    #[must_use]
    pub fn shared_store(mut self, store: Arc<dyn TaskStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Adds a chat model; the first is the default.
    #[must_use]
    pub fn chat_model(mut self, model: Arc<dyn ChatModel>) -> Self {
        self.models.add_chat(model);
        self
    }

    /// Adds an embedding model; the first is the default.
    #[must_use]
    pub fn embedding_model(mut self, model: Arc<dyn EmbeddingModel>) -> Self {
        self.models.add_embedding(model);
        self
    }

    /// Keeps vectors in `store`.
    #[must_use]
    pub fn vectors(mut self, store: Arc<dyn VectorStore>) -> Self {
        self.vectors = Some(store);
        self
    }

    /// Routes texts without a named agent.
    #[must_use]
    pub fn router(mut self, router: Arc<dyn Router>) -> Self {
        self.router = Some(router);
        self
    }

    /// Tells `observer` of every committed change.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Takes time and randomness from `clock`.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Names this process. It must keep its name over restarts and no other running process on the store may have it.
    #[must_use]
    pub fn node(mut self, node: NodeId) -> Self {
        self.node = node;
        self
    }

    /// Runs at most so many tasks at once; at least 1. Default [`DEFAULT_MAX_RUNNING`].
    #[must_use]
    pub fn max_running(mut self, max_running: usize) -> Self {
        self.max_running = max_running.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Takes back what this node was executing when it last ended, then accepts work.
    ///
    /// Must be called inside a tokio runtime with time enabled; [`block_on`](crate::block_on) is one.
    pub async fn start(self) -> Result<Orchestrator> {
        let store = self.store.unwrap_or_else(|| Arc::new(MemoryTaskStore::new()));
        let catalogue = Catalogue::new(self.agents, self.router)?;
        recover(&*store, &self.node, &*self.clock, &*self.observer).await?;
        let earliest = store.next_due(Timestamp::from_millis(i64::MIN)).await?;
        let left_over = earliest.is_some_and(|at| at <= self.clock.now());
        let hub = Arc::new(Hub::default());
        let announcer = Announcer { hub: Arc::clone(&hub), observer: Arc::clone(&self.observer) };
        let end = Arc::new(Notify::new());
        let (writer, writing) = Writer::start(Arc::clone(&store), announcer, Arc::clone(&end));
        let inner = Arc::new(Inner {
            store,
            catalogue,
            models: self.models,
            vectors: self.vectors,
            clock: self.clock,
            ids: IdSource::default(),
            node: self.node,
            observer: self.observer,
            hub,
            writer,
            slots: Arc::new(Semaphore::new(self.max_running)),
            executions: Arc::new(Executions::default()),
            backlog: AtomicBool::new(left_over),
            runnable: Notify::new(),
            earlier: Notify::new(),
            next_due: AtomicI64::new(i64::MAX),
            closing: AtomicBool::new(false),
            doubt: AtomicBool::new(false),
            missed: Mutex::default(),
            broken: AtomicBool::new(false),
        });
        inner.runnable.notify_one();
        let service = Service {
            dispatching: watched(&inner, "dispatcher", queue::dispatch(Arc::clone(&inner))),
            keeping_time: watched(&inner, "timekeeper", queue::keep_time(Arc::clone(&inner))),
            writing,
            end,
        };
        Ok(Orchestrator { inner, service: Arc::new(Mutex::new(Some(service))) })
    }
}

/// Runs a loop of the engine; if it panics, the engine is not ready any more.
fn watched(inner: &Arc<Inner>, name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            inner.broken.store(true, Ordering::SeqCst);
            tracing::error!("the engine's {name} panicked; start the process again");
        }
    })
}

/// Voids what this node held in its former life: its tasks may run again.
async fn recover(store: &dyn TaskStore, node: &NodeId, clock: &dyn Clock, observer: &dyn Observer) -> Result<()> {
    let mut count = 0;
    loop {
        let held = store.held_by(node, RECOVER).await?;
        if held.is_empty() {
            break;
        }
        let now = clock.now();
        let writes: Vec<TaskWrite> = held
            .iter()
            .filter_map(|task| {
                let step = apply(task, Command::Recover, now).ok()?;
                Some(TaskWrite::Update { task: Arc::new(step.task), expected: task.revision, events: step.events })
            })
            .collect();
        let outcomes = store.write(&writes).await?;
        let stored: Vec<&TaskWrite> = writes
            .iter()
            .zip(&outcomes)
            .filter_map(|(write, outcome)| (*outcome == WriteOutcome::Applied).then_some(write))
            .collect();
        if stored.is_empty() {
            let message =
                "tasks of this node change while it starts: another process that runs has its name; give each its own";
            return Err(Error::new(ErrorKind::Conflict, message).with_code("node_in_use").during("start").about(node));
        }
        stored.iter().for_each(|write| observer.task_changed(write.task(), write.events()));
        count += stored.len();
    }
    if count > 0 {
        tracing::info!(tasks = count, node = %node, "took back the tasks that were running when this node last ended");
    }
    Ok(())
}
