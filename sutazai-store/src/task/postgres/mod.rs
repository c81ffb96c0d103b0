//! Tasks in PostgreSQL, shared by any number of processes.
//!
//! A batch is one statement in the usual case: it stores all of it, and finds out by itself whether it may. Only a batch that meets something in its way is
//! looked at under locks. Everything happens in one schema; the order of all events is that of their transactions' ids.

mod budget;
mod claim;
mod config;
mod error;
mod follow;
mod list;
mod node;
mod order;
mod outbox;
mod pool;
mod read;
mod row;
mod schedule;
mod schema;
mod statement;
mod text;
mod upkeep;
mod watch;
mod write;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::postgres::PgConnectOptions;
use sutazai_core::{
    Error, Payload, Result,
    clock::Timestamp,
    store::{
        Claim, Delivery, Ended, Granted, Held, KeptAnswer, NodeRecord, Page, Posted, QueueDepths, Recalled,
        ScheduleRecord, StoreInfo, TaskQuery, TaskStore, TaskWrite, WakeUp, WriteOutcome,
    },
    task::{Entry, Event, IdempotencyKey, NodeId, NumberedEvent, Signal, Task, TaskId, TaskState},
};
use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{sleep, timeout},
};

pub use self::config::PostgresConfig;
use self::{
    error::Fault,
    pool::{Lease, Pool, Purpose},
};

/// A [`TaskStore`] in PostgreSQL, version 13 or later.
pub struct PostgresStore {
    /// For people, without anything secret.
    place: String,
    schema: String,
    durable: bool,
    options: PgConnectOptions,
    /// How long a call may take altogether: where the network is silent nothing else ends it.
    patience: Duration,
    pool: Arc<Pool>,
    /// What runs beside the calls and ends with the store.
    beside: Mutex<Vec<AbortHandle>>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.end_beside();
    }
}

impl PostgresStore {
    /// Connects to the database that `url` names, with the default settings.
    pub async fn open(url: impl Into<String>) -> Result<Self> {
        Self::connect(PostgresConfig::from_url(url)?).await
    }

    /// Connects to the database that `config` names, and makes or updates the schema.
    ///
    /// Fails as corrupt with code `store_version` if a newer version has changed the schema beyond what this one can use, and with `store_damaged` if the
    /// schema is another program's; as invalid with `store_denied` or `store_missing` if the database refuses the user or is not there; as unavailable if it
    /// does not answer.
    pub async fn connect(config: PostgresConfig) -> Result<Self> {
        let place = config.place();
        let open = async {
            let options = config.options()?;
            Ok((schema::open(&options, &config.schema, config.acquire_timeout).await?, options))
        };
        let (settings, options) = open.await.map_err(|fault: Fault| Error::from(fault).during("open").about(&place))?;
        let pool = Pool::new(options.clone(), config.max_connections, config.acquire_timeout);
        let upkeep = tokio::spawn(upkeep::keep(Arc::downgrade(&pool))).abort_handle();
        Ok(Self {
            place,
            schema: config.schema,
            durable: settings.durable,
            options,
            patience: config.acquire_timeout.saturating_mul(2).saturating_add(config.statement_timeout),
            pool,
            beside: Mutex::new(vec![upkeep]),
        })
    }

    /// Forgets the idempotency keys of tasks that ended a day or longer before `now`, and answers older than that, and says how many there were. The store
    /// does this by itself every quarter of an hour.
    pub async fn forget_keys(&self, now: Timestamp) -> Result<u64> {
        self.ask(Purpose::Work, "forget keys", |mut lease| async move { upkeep::forget_keys(&mut lease, now).await })
            .await
    }

    fn end_beside(&self) {
        for task in std::mem::take(&mut *self.beside.lock().unwrap_or_else(PoisonError::into_inner)) {
            task.abort();
        }
    }

    fn during(&self, operation: &'static str) -> impl FnOnce(Fault) -> Error {
        move |fault| Error::from(fault).during(operation).about(&self.place)
    }

    async fn in_time<T>(&self, operation: &'static str, call: impl Future<Output = Result<T, Fault>>) -> Result<T> {
        timeout(self.patience, call).await.unwrap_or(Err(Fault::Silent)).map_err(self.during(operation))
    }

    /// What may happen twice: once more after a connection was lost, and as long as other transactions stand in the way.
    async fn ask<T, F>(&self, purpose: Purpose, operation: &'static str, call: impl Fn(Lease) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.in_time(operation, self.repeat(purpose, 1, call)).await
    }

    /// What must not happen twice.
    async fn change<T, F>(&self, operation: &'static str, call: impl Fn(Lease) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.in_time(operation, self.repeat(Purpose::Work, 0, call)).await
    }

    async fn repeat<T, F>(&self, purpose: Purpose, mut losses: u32, call: impl Fn(Lease) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        for _ in 1..write::TRIES {
            match call(self.pool.lease(purpose).await?).await {
                Err(fault) if fault.is_collision() => sleep(Duration::from_millis(5)).await,
                Err(fault) if fault.is_of_connection() && losses > 0 => losses -= 1,
                outcome => return outcome,
            }
        }
        call(self.pool.lease(purpose).await?).await
    }
}

#[async_trait]
impl TaskStore for PostgresStore {
    fn info(&self) -> StoreInfo {
        StoreInfo { name: "postgres", durable: self.durable, shared: true, parallel_writes: 2 }
    }

    async fn write(&self, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
        self.in_time("write tasks", write::write(&self.pool, &self.schema, batch)).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Granted> {
        self.change("claim tasks", |mut lease| async move { claim::claim(&mut lease, &self.schema, claim).await }).await
    }

    async fn load(&self, ids: &[TaskId]) -> Result<Vec<Option<Task>>> {
        self.ask(Purpose::Look, "load tasks", |mut lease| async move { read::load(&mut lease, ids).await }).await
    }

    async fn list(&self, query: &TaskQuery) -> Result<Page<Task>> {
        self.ask(Purpose::Search, "list tasks", |mut lease| async move { list::list(&mut lease, query).await }).await
    }

    async fn held_by(&self, node: &NodeId, limit: usize) -> Result<Vec<Held>> {
        self.ask(
            Purpose::Look,
            "read held tasks",
            |mut lease| async move { read::held_by(&mut lease, node, limit).await },
        )
        .await
    }

    async fn ended_parents(&self, limit: usize) -> Result<Vec<TaskId>> {
        self.ask(Purpose::Search, "look for children of ended tasks", |mut lease| async move {
            read::ended_parents(&mut lease, limit).await
        })
        .await
    }

    async fn overdue(&self, now: Timestamp, limit: usize) -> Result<Vec<Task>> {
        self.ask(
            Purpose::Look,
            "read overdue tasks",
            |mut lease| async move { read::overdue(&mut lease, now, limit).await },
        )
        .await
    }

    async fn next_due(&self, after: Timestamp) -> Result<Option<Timestamp>> {
        self.ask(Purpose::Look, "read due times", |mut lease| async move { read::next_due(&mut lease, after).await })
            .await
    }

    async fn queue_depths(&self) -> Result<QueueDepths> {
        self.ask(Purpose::Search, "count tasks", |mut lease| async move { read::queue_depths(&mut lease).await }).await
    }

    async fn queued(&self) -> Result<u64> {
        self.ask(Purpose::Search, "count tasks", |mut lease| async move { read::queued(&mut lease).await }).await
    }

    async fn events(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Event>> {
        self.ask(
            Purpose::Look,
            "read events",
            |mut lease| async move { read::events(&mut lease, task, after, limit).await },
        )
        .await
    }

    async fn feed(&self, after: u64, limit: usize) -> Result<Vec<NumberedEvent>> {
        self.ask(
            Purpose::Search,
            "read the feed",
            |mut lease| async move { read::feed(&mut lease, after, limit).await },
        )
        .await
    }

    async fn journal(&self, task: TaskId, era: u32, from: u64, limit: usize) -> Result<Vec<Entry>> {
        self.ask(Purpose::Look, "read a journal", |mut lease| async move {
            read::journal(&mut lease, task, era, from, limit).await
        })
        .await
    }

    async fn signals(&self, task: TaskId, name: &str, from: u64, limit: usize) -> Result<Vec<Signal>> {
        self.ask(Purpose::Look, "read signals", |mut lease| async move {
            read::signals(&mut lease, task, name, from, limit).await
        })
        .await
    }

    async fn join(&self, node: &NodeRecord, lease: Duration) -> Result<()> {
        self.ask(Purpose::Lease, "join", |mut connection| async move { node::join(&mut connection, node, lease).await })
            .await
    }

    async fn renew(&self, node: &NodeId, running: u64, lease: Duration) -> Result<bool> {
        self.ask(Purpose::Lease, "renew a lease", |mut connection| async move {
            node::renew(&mut connection, node, running, lease).await
        })
        .await
    }

    async fn lapsed(&self) -> Result<Vec<NodeId>> {
        self.ask(Purpose::Look, "look for lapsed leases", |mut connection| async move {
            node::lapsed(&mut connection).await
        })
        .await
    }

    async fn part(&self, node: &NodeId) -> Result<()> {
        self.ask(Purpose::Lease, "part", |mut connection| async move { node::part(&mut connection, node).await }).await
    }

    async fn nodes(&self) -> Result<Vec<NodeRecord>> {
        self.ask(Purpose::Look, "read nodes", |mut connection| async move { node::nodes(&mut connection).await }).await
    }

    fn watch(&self, runnable: WakeUp) {
        let Ok(runtime) = Handle::try_current() else {
            tracing::error!("the store can hear other processes only within a runtime");
            return;
        };
        let listen = watch::listen(self.options.clone(), statement::channel(&self.schema), runnable);
        let task = runtime.spawn(listen).abort_handle();
        self.beside.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    async fn put_schedule(
        &self,
        record: &ScheduleRecord,
        expected: Option<u64>,
        answer: Option<&KeptAnswer>,
    ) -> Result<bool> {
        self.change("store a schedule", |mut lease| async move {
            match answer {
                None => schedule::put(&mut lease, record, expected).await,
                Some(answer) => schedule::put_both(&mut lease, record, expected, answer).await,
            }
        })
        .await
    }

    async fn schedule(&self, name: &str) -> Result<Option<ScheduleRecord>> {
        self.ask(Purpose::Look, "read a schedule", |mut lease| async move { schedule::get(&mut lease, name).await })
            .await
    }

    async fn schedules(&self, after: Option<&str>, limit: usize) -> Result<Page<ScheduleRecord>> {
        self.ask(Purpose::Search, "list schedules", |mut lease| async move {
            schedule::list(&mut lease, after, limit).await
        })
        .await
    }

    async fn due_schedules(&self, now: Timestamp, limit: usize) -> Result<Vec<ScheduleRecord>> {
        self.ask(
            Purpose::Look,
            "read due schedules",
            |mut lease| async move { schedule::due(&mut lease, now, limit).await },
        )
        .await
    }

    async fn drop_schedule(&self, name: &str) -> Result<bool> {
        self.change("drop a schedule", |mut lease| async move { schedule::drop(&mut lease, name).await }).await
    }

    async fn deliveries(&self, now: Timestamp, limit: usize, hold: Duration) -> Result<Vec<Delivery>> {
        self.change("take deliveries", |mut lease| async move { outbox::take(&mut lease, now, limit, hold).await })
            .await
    }

    async fn posted(&self, taken: &Delivery, what: &Posted, now: Timestamp) -> Result<bool> {
        self.change("note a delivery", |mut lease| async move { outbox::posted(&mut lease, taken, what, now).await })
            .await
    }

    async fn revive(&self, task: TaskId, skip: bool, now: Timestamp) -> Result<bool> {
        self.change("revive a delivery", |mut lease| async move { outbox::revive(&mut lease, task, skip, now).await })
            .await
    }

    async fn undelivered(&self, before: Option<TaskId>, limit: usize) -> Result<Page<Delivery>> {
        self.ask(Purpose::Search, "list deliveries", |mut lease| async move {
            outbox::undelivered(&mut lease, before, limit).await
        })
        .await
    }

    async fn recall(&self, key: &IdempotencyKey) -> Result<Recalled> {
        self.ask(Purpose::Look, "look up a key", |mut lease| async move { upkeep::recall(&mut lease, key).await }).await
    }

    async fn remember(&self, key: &IdempotencyKey, answer: &Payload, now: Timestamp) -> Result<()> {
        self.ask(Purpose::Work, "keep an answer", |mut lease| async move {
            upkeep::remember(&mut lease, key, answer, now).await.map(drop)
        })
        .await
    }

    async fn ended(&self, after: Option<TaskId>, created_before: Timestamp, limit: usize) -> Result<Vec<Ended>> {
        self.ask(Purpose::Search, "read ended tasks", |mut lease| async move {
            upkeep::ended(&mut lease, after, created_before, limit).await
        })
        .await
    }

    async fn nth_newest(&self, state: TaskState, n: u64) -> Result<Option<TaskId>> {
        self.ask(Purpose::Search, "look for a task", |mut lease| async move {
            upkeep::nth_newest(&mut lease, state, n).await
        })
        .await
    }

    async fn purge(&self, tasks: &[TaskId], now: Timestamp) -> Result<u64> {
        self.change("purge tasks", |mut lease| async move { upkeep::purge(&mut lease, tasks, now).await }).await
    }

    async fn ping(&self) -> Result<()> {
        self.ask(Purpose::Work, "ping", |mut lease| async move { lease.run("SELECT 1").await }).await
    }

    async fn close(&self) -> Result<()> {
        self.end_beside();
        self.pool.close().await;
        Ok(())
    }
}
