//! Tasks in one SQLite file.
//!
//! One connection writes, each batch in one transaction and one `fsync`; a few others read beside it, and a task of its own moves the
//! write-ahead log into the file, so that no commit waits for that.

mod ahead;
mod budget;
mod claim;
mod config;
mod error;
mod feed;
mod follow;
mod journal;
mod keys;
mod list;
mod nodes;
mod outbox;
mod read;
mod retention;
mod row;
mod schedules;
mod schema;
mod statement;
#[cfg(test)]
mod tests;
mod text;
mod upkeep;
mod write;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sutazai_core::{
    Error, Payload, Result,
    clock::Timestamp,
    store::{
        Claim, Delivery, Ended, Granted, Held, KeptAnswer, NodeRecord, Page, Posted, QueueDepths, Recalled,
        ScheduleRecord, StoreInfo, TaskQuery, TaskStore, TaskWrite, WriteOutcome,
    },
    task::{Entry, Event, IdempotencyKey, NodeId, NumberedEvent, Signal, Task, TaskId, TaskState},
};

pub use self::config::{SqliteConfig, Synchronous};
use self::{error::Fault, read::Readers, upkeep::Upkeep};
use crate::{lock, sqlite::writer::Writer};

/// A [`TaskStore`] in one SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    synchronous: Synchronous,
    shared: bool,
    writer: Arc<Writer>,
    readers: Readers,
    upkeep: Upkeep,
    /// Held while the store is open.
    lock: Mutex<Option<File>>,
}

impl SqliteStore {
    /// Opens the file at `path` with the default settings, and makes it if there is none.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::connect(SqliteConfig::new(path.as_ref())).await
    }

    /// Opens the file that `config` names, and makes it if there is none.
    ///
    /// Fails as corrupt with code `store_version` if a newer version has changed the file beyond what this one can use, and with
    /// `store_damaged` if it is no database of ours; as unavailable with `store_in_use` if another store has it open and not both are
    /// [`shared`](SqliteConfig::shared).
    pub async fn connect(config: SqliteConfig) -> Result<Self> {
        let open = async {
            config.check()?;
            if let Some(folder) = config.folder() {
                tokio::fs::create_dir_all(folder).await.map_err(Fault::Path)?;
            }
            let lock = lock::hold(config.lock(), config.shared).await.map_err(Fault::Path)?.ok_or(Fault::InUse)?;
            let connection = schema::open(&config).await?;
            let log = config.log().await.map_err(Fault::Path)?;
            Ok((lock, log, Writer::new(config.writer(), text::GUARD, connection).await?))
        };
        let (lock, log, writer) = open.await.map_err(during("open", &config.path))?;
        let writer = Arc::new(writer);
        Ok(Self {
            upkeep: Upkeep::start(config.checkpointer(), Arc::clone(&writer), log),
            readers: Readers::new(&config),
            synchronous: config.synchronous,
            shared: config.shared,
            path: config.path,
            writer,
            lock: Mutex::new(Some(lock)),
        })
    }

    /// Forgets the idempotency keys of tasks that ended a day or longer before `now`, and answers that were remembered until then, and
    /// says how many there were. The store does this by itself every quarter of an hour.
    pub async fn forget_keys(&self, now: Timestamp) -> Result<u64> {
        keys::forget(&self.writer, now).await.map_err(self.during("forget keys"))
    }

    fn during(&self, operation: &'static str) -> impl FnOnce(Fault) -> Error {
        during(operation, &self.path)
    }
}

fn during(operation: &'static str, path: &Path) -> impl FnOnce(Fault) -> Error {
    move |fault| Error::from(fault).during(operation).about(path.display())
}

#[async_trait]
impl TaskStore for SqliteStore {
    fn info(&self) -> StoreInfo {
        StoreInfo {
            name: "sqlite",
            durable: self.synchronous == Synchronous::Full,
            shared: self.shared,
            parallel_writes: 1,
        }
    }

    async fn write(&self, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
        let outcomes = write::write(&self.writer, batch).await.map_err(self.during("write tasks"))?;
        self.upkeep.committed();
        Ok(outcomes)
    }

    async fn claim(&self, claim: &Claim) -> Result<Granted> {
        let granted = claim::claim(&self.writer, claim).await.map_err(self.during("claim tasks"))?;
        if !granted.tasks.is_empty() {
            self.upkeep.committed();
        }
        Ok(granted)
    }

    async fn load(&self, ids: &[TaskId]) -> Result<Vec<Option<Task>>> {
        self.readers.load(ids).await.map_err(self.during("load tasks"))
    }

    async fn list(&self, query: &TaskQuery) -> Result<Page<Task>> {
        self.readers.list(query).await.map_err(self.during("list tasks"))
    }

    async fn held_by(&self, node: &NodeId, limit: usize) -> Result<Vec<Held>> {
        self.readers.held_by(node, limit).await.map_err(self.during("read held tasks"))
    }

    async fn ended_parents(&self, limit: usize) -> Result<Vec<TaskId>> {
        self.readers.ended_parents(limit).await.map_err(self.during("look for children of ended tasks"))
    }

    async fn overdue(&self, now: Timestamp, limit: usize) -> Result<Vec<Task>> {
        self.readers.overdue(now, limit).await.map_err(self.during("read overdue tasks"))
    }

    async fn next_due(&self, after: Timestamp) -> Result<Option<Timestamp>> {
        self.readers.next_due(after).await.map_err(self.during("read due times"))
    }

    async fn queue_depths(&self) -> Result<QueueDepths> {
        self.readers.queue_depths().await.map_err(self.during("count tasks"))
    }

    async fn queued(&self) -> Result<u64> {
        self.readers.queued().await.map_err(self.during("count tasks"))
    }

    async fn events(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Event>> {
        self.readers.events(task, after, limit).await.map_err(self.during("read events"))
    }

    async fn feed(&self, after: u64, limit: usize) -> Result<Vec<NumberedEvent>> {
        self.readers.feed(after, limit).await.map_err(self.during("read events"))
    }

    async fn journal(&self, task: TaskId, era: u32, from: u64, limit: usize) -> Result<Vec<Entry>> {
        self.readers.journal(task, era, from, limit).await.map_err(self.during("read a journal"))
    }

    async fn signals(&self, task: TaskId, name: &str, from: u64, limit: usize) -> Result<Vec<Signal>> {
        self.readers.signals(task, name, from, limit).await.map_err(self.during("read signals"))
    }

    async fn join(&self, node: &NodeRecord, lease: Duration) -> Result<()> {
        nodes::join(&self.writer, node, lease).await.map_err(self.during("join"))
    }

    async fn renew(&self, node: &NodeId, running: u64, lease: Duration) -> Result<bool> {
        nodes::renew(&self.writer, node, running, lease).await.map_err(self.during("renew a lease"))
    }

    async fn lapsed(&self) -> Result<Vec<NodeId>> {
        let lapsed = async {
            nodes::declare(&self.writer).await?;
            self.readers.gone().await
        };
        lapsed.await.map_err(self.during("look for dead nodes"))
    }

    async fn part(&self, node: &NodeId) -> Result<()> {
        nodes::part(&self.writer, node).await.map_err(self.during("part"))
    }

    async fn nodes(&self) -> Result<Vec<NodeRecord>> {
        self.readers.nodes().await.map_err(self.during("list nodes"))
    }

    async fn put_schedule(
        &self,
        record: &ScheduleRecord,
        expected: Option<u64>,
        answer: Option<&KeptAnswer>,
    ) -> Result<bool> {
        let stored = match answer {
            None => schedules::put(&self.writer, record, expected).await,
            Some(answer) => schedules::put_both(&self.writer, record, expected, answer).await,
        };
        stored.map_err(self.during("store a schedule"))
    }

    async fn schedule(&self, name: &str) -> Result<Option<ScheduleRecord>> {
        self.readers.schedule(name).await.map_err(self.during("read a schedule"))
    }

    async fn schedules(&self, after: Option<&str>, limit: usize) -> Result<Page<ScheduleRecord>> {
        self.readers.schedules(after, limit).await.map_err(self.during("list schedules"))
    }

    async fn due_schedules(&self, now: Timestamp, limit: usize) -> Result<Vec<ScheduleRecord>> {
        self.readers.due_schedules(now, limit).await.map_err(self.during("read due schedules"))
    }

    async fn drop_schedule(&self, name: &str) -> Result<bool> {
        schedules::remove(&self.writer, name).await.map_err(self.during("remove a schedule"))
    }

    async fn deliveries(&self, now: Timestamp, limit: usize, hold: Duration) -> Result<Vec<Delivery>> {
        outbox::take(&self.writer, &self.readers, now, limit, hold).await.map_err(self.during("take deliveries"))
    }

    async fn posted(&self, taken: &Delivery, what: &Posted, now: Timestamp) -> Result<bool> {
        outbox::posted(&self.writer, taken, what, now).await.map_err(self.during("note a delivery"))
    }

    async fn revive(&self, task: TaskId, skip: bool, now: Timestamp) -> Result<bool> {
        outbox::revive(&self.writer, task, skip, now).await.map_err(self.during("revive a delivery"))
    }

    async fn undelivered(&self, before: Option<TaskId>, limit: usize) -> Result<Page<Delivery>> {
        self.readers.undelivered(before, limit).await.map_err(self.during("list deliveries"))
    }

    async fn recall(&self, key: &IdempotencyKey) -> Result<Recalled> {
        self.readers.recall(key).await.map_err(self.during("look up a key"))
    }

    async fn remember(&self, key: &IdempotencyKey, answer: &Payload, now: Timestamp) -> Result<()> {
        keys::remember(&self.writer, key, answer, now).await.map_err(self.during("remember an answer"))
    }

    async fn ended(&self, after: Option<TaskId>, created_before: Timestamp, limit: usize) -> Result<Vec<Ended>> {
        self.readers.ended(after, created_before, limit).await.map_err(self.during("list what has ended"))
    }

    async fn nth_newest(&self, state: TaskState, n: u64) -> Result<Option<TaskId>> {
        self.readers.nth_newest(state, n).await.map_err(self.during("count tasks"))
    }

    async fn purge(&self, tasks: &[TaskId], now: Timestamp) -> Result<u64> {
        let purged = retention::purge(&self.writer, tasks, now).await.map_err(self.during("purge tasks"))?;
        self.upkeep.committed();
        Ok(purged)
    }

    async fn ping(&self) -> Result<()> {
        self.readers.ping().await.map_err(self.during("ping"))
    }

    async fn close(&self) -> Result<()> {
        let closed = self.writer.close().await;
        self.readers.close().await;
        self.upkeep.end().await;
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        closed.map_err(|error| self.during("close")(error.into()))
    }
}
