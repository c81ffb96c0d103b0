//! Tasks in one SQLite file.
//!
//! One connection writes, each batch in one transaction and one `fsync`; a few others read beside it, and a task of its own moves the
//! write-ahead log into the file, so that no commit waits for that.

mod config;
mod error;
mod plan;
mod read;
mod row;
mod schema;
mod statement;
#[cfg(test)]
mod tests;
mod upkeep;
mod write;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use sutazai_core::{
    Error, Result,
    clock::Timestamp,
    store::{Claim, Page, QueueDepths, StoreInfo, TaskQuery, TaskStore, TaskWrite, WriteOutcome},
    task::{Event, NodeId, Task, TaskId},
};

pub use self::config::{SqliteConfig, Synchronous};
use self::{error::Fault, read::Readers, upkeep::Upkeep};
use crate::{lock, sqlite::writer::Writer};

/// A [`TaskStore`] in one SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    synchronous: Synchronous,
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
            Ok((lock, Writer::new(config.writer(), statement::GUARD, connection).await?))
        };
        let (lock, writer) = open.await.map_err(during("open", &config.path))?;
        let writer = Arc::new(writer);
        Ok(Self {
            upkeep: Upkeep::start(config.checkpointer(), Arc::clone(&writer)),
            readers: Readers::new(&config),
            synchronous: config.synchronous,
            path: config.path,
            writer,
            lock: Mutex::new(Some(lock)),
        })
    }

    /// Forgets the idempotency keys of tasks that ended a day or longer before `now`, and says how many there were. The store does this
    /// by itself every quarter of an hour.
    pub async fn forget_keys(&self, now: Timestamp) -> Result<u64> {
        write::forget_keys(&self.writer, now).await.map_err(self.during("forget keys"))
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
        StoreInfo { name: "sqlite", durable: self.synchronous == Synchronous::Full }
    }

    async fn write(&self, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
        let outcomes = write::write(&self.writer, batch).await.map_err(self.during("write tasks"))?;
        self.upkeep.committed();
        Ok(outcomes)
    }

    async fn claim(&self, claim: &Claim) -> Result<Vec<Task>> {
        let tasks = write::claim(&self.writer, claim).await.map_err(self.during("claim tasks"))?;
        if !tasks.is_empty() {
            self.upkeep.committed();
        }
        Ok(tasks)
    }

    async fn load(&self, ids: &[TaskId]) -> Result<Vec<Option<Task>>> {
        self.readers.load(ids).await.map_err(self.during("load tasks"))
    }

    async fn list(&self, query: &TaskQuery) -> Result<Page<Task>> {
        self.readers.list(query).await.map_err(self.during("list tasks"))
    }

    async fn events(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Event>> {
        self.readers.events(task, after, limit).await.map_err(self.during("read events"))
    }

    async fn held_by(&self, node: &NodeId, limit: usize) -> Result<Vec<Task>> {
        self.readers.held_by(node, limit).await.map_err(self.during("read held tasks"))
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
