//! From parts to a running engine.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

use super::{
    Orchestrator,
    catalogue::Catalogue,
    control::Executions,
    firing::keep_schedules,
    hub::Hub,
    inner::Inner,
    membership::{DEFAULT_LEASE, Membership, keep_lease, look_after_others, take_over},
    observer::{Observer, Unobserved},
    orchestrator::Service,
    orphans::end_orphans,
    places::Places,
    queue,
    retention::{Retention, keep_tidy},
    router::Router,
    selection::{ClaimPolicy, TenantRule},
    writer::{Announcer, Writer},
};
use crate::{
    agent::Agent,
    clock::{Clock, IdSource, SystemClock, Timestamp},
    error::Result,
    memory::MemoryTaskStore,
    model::{ChatModel, EmbeddingModel, Models},
    store::{NodeRecord, TaskStore, VectorStore, WakeUp},
    task::NodeId,
};

/// Tasks that run at once in a process unless told otherwise.
pub const DEFAULT_MAX_RUNNING: usize = 512;

/// Tasks that may be queued unless told otherwise.
pub const DEFAULT_QUEUE_MAX: u64 = 1_000_000;

/// Puts an engine together. Without a store it keeps tasks in memory.
pub struct OrchestratorBuilder {
    agents: Vec<Arc<dyn Agent>>,
    store: Option<Arc<dyn TaskStore>>,
    models: Models,
    vectors: Option<Arc<dyn VectorStore>>,
    router: Option<Arc<dyn Router>>,
    observer: Arc<dyn Observer>,
    clock: Arc<dyn Clock>,
    node: Option<Arc<str>>,
    role: Arc<str>,
    address: Option<Arc<str>>,
    version: Arc<str>,
    max_running: usize,
    executes: bool,
    queue_max: u64,
    lease: Duration,
    tenants: BTreeMap<Arc<str>, TenantRule>,
    other_tenants: TenantRule,
    retention: Retention,
    last: Vec<BoxFuture<'static, ()>>,
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
            node: None,
            role: "all".into(),
            address: None,
            version: env!("CARGO_PKG_VERSION").into(),
            max_running: DEFAULT_MAX_RUNNING,
            executes: true,
            queue_max: DEFAULT_QUEUE_MAX,
            lease: DEFAULT_LEASE,
            tenants: BTreeMap::new(),
            other_tenants: TenantRule::default(),
            retention: Retention::default(),
            last: Vec::new(),
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

    /// Names this process. With a name that it keeps over its restarts it takes its own tasks back at once; without one, others' leases must lapse first. Of two
    /// running processes of one name each would keep declaring the other dead.
    #[must_use]
    pub fn node(mut self, name: impl Into<Arc<str>>) -> Self {
        self.node = Some(name.into());
        self
    }

    /// Says to other processes what this one does and where it is reached.
    #[must_use]
    pub fn describe(
        mut self,
        role: impl Into<Arc<str>>,
        version: impl Into<Arc<str>>,
        address: Option<String>,
    ) -> Self {
        (self.role, self.version, self.address) = (role.into(), version.into(), address.map(Into::into));
        self
    }

    /// Takes tasks in and runs none: others that share the store do.
    #[must_use]
    pub fn without_execution(mut self) -> Self {
        self.executes = false;
        self
    }

    /// Refuses more submits from outside with `queue_full` while so many tasks are queued in the whole store; approximate where several processes share it.
    /// Default [`DEFAULT_QUEUE_MAX`].
    #[must_use]
    pub fn queue_max(mut self, tasks: u64) -> Self {
        self.queue_max = tasks;
        self
    }

    /// How long this process may be silent before others take over what it executes; at least 100 ms. Default [`DEFAULT_LEASE`].
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_millis(100));
        self
    }

    /// What a tenant is entitled to.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<Arc<str>>, rule: TenantRule) -> Self {
        self.tenants.insert(tenant.into(), rule);
        self
    }

    /// What every other tenant is entitled to.
    #[must_use]
    pub fn other_tenants(mut self, rule: TenantRule) -> Self {
        self.other_tenants = rule;
        self
    }

    /// How long tasks that have ended are kept.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Has `work` done at the end of [`Orchestrator::shutdown`], when nothing is executed any more and the store is still open: for what others keep there. It
    /// is given half of the time that is left to close the store.
    #[must_use]
    pub fn at_the_end(mut self, work: impl Future<Output = ()> + Send + 'static) -> Self {
        self.last.push(work.boxed());
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
        let hub = Arc::new(Hub::default());
        let (executions, runnable) = (Arc::new(Executions::default()), Arc::new(Notify::new()));
        let places = Arc::new(Places::default());
        let announcer = Announcer {
            hub: Arc::clone(&hub),
            observer: Arc::clone(&self.observer),
            executions: Arc::clone(&executions),
            runnable: Arc::clone(&runnable),
            places: Arc::clone(&places),
        };
        let name = match self.node {
            Some(name) => name,
            None if store.info().shared => format!("node-{:012x}", self.clock.random() >> 16).into(),
            None => "local".into(),
        };
        let record = NodeRecord {
            id: NodeId::new(Arc::clone(&name)),
            name,
            role: self.role,
            version: self.version,
            address: self.address,
            started_at: self.clock.now(),
            seen_at: self.clock.now(),
            lease_until: self.clock.now(),
            running: 0,
            dead: false,
        };
        let membership = Membership::join(&*store, record, self.lease, Arc::clone(&self.clock)).await?;
        // Where others keep leases it may take long, and this one's must be renewed meanwhile.
        if !store.info().shared {
            take_over(&*store, &*self.clock, &announcer, &membership.node()).await?;
        }
        let earliest = store.next_due(Timestamp::from_millis(i64::MIN)).await?;
        let queued = i64::try_from(store.queued().await?).unwrap_or(i64::MAX);
        let left_over = queued > 0 || earliest.is_some_and(|at| at <= self.clock.now());
        let end = Arc::new(Notify::new());
        let (writer, writing) = Writer::start(Arc::clone(&store), announcer, Arc::clone(&end));
        let policy = ClaimPolicy {
            queues: catalogue.queues(),
            tenants: self.tenants,
            other_tenants: self.other_tenants,
            ..ClaimPolicy::default()
        };
        let told = Arc::clone(&runnable);
        let wake_up: WakeUp = Arc::new(move || told.notify_one());
        store.watch(Arc::clone(&wake_up));
        let inner = Arc::new(Inner {
            store,
            catalogue,
            models: self.models,
            vectors: self.vectors,
            clock: self.clock,
            ids: IdSource::default(),
            membership,
            policy: Mutex::new(policy),
            executes: self.executes,
            queue_max: i64::try_from(self.queue_max).unwrap_or(i64::MAX),
            queued: AtomicI64::new(queued),
            reserved: AtomicI64::new(0),
            retention: self.retention,
            observer: self.observer,
            hub,
            writer,
            slots: Arc::new(Semaphore::new(self.max_running)),
            executions,
            backlog: AtomicBool::new(left_over),
            runnable,
            places,
            _wake_up: wake_up,
            earlier: Notify::new(),
            bereaved: Notify::new(),
            rescheduled: Notify::new(),
            next_due: AtomicI64::new(i64::MAX),
            closing: AtomicBool::new(false),
            doubt: AtomicBool::new(false),
            missed: Mutex::default(),
            broken: AtomicBool::new(false),
        });
        inner.runnable.notify_one();
        let loops = vec![
            watched(&inner, "dispatcher", queue::dispatch(Arc::clone(&inner))),
            watched(&inner, "timekeeper", queue::keep_time(Arc::clone(&inner))),
            watched(&inner, "keeper of schedules", keep_schedules(Arc::clone(&inner))),
            watched(&inner, "watcher of others", queue::watch_others(Arc::clone(&inner))),
            watched(&inner, "keeper of orphans", end_orphans(Arc::clone(&inner))),
            watched(&inner, "heir of others", look_after_others(Arc::clone(&inner))),
            watched(&inner, "counter of the queue", queue::count_queue(Arc::clone(&inner))),
            watched(&inner, "retention", keep_tidy(Arc::clone(&inner))),
        ];
        let keeping_lease = watched(&inner, "keeper of the lease", keep_lease(Arc::clone(&inner)));
        let service = Service { loops, keeping_lease, writing, end, last: self.last };
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
