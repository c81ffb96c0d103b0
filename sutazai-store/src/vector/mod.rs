//! Vectors in SQLite, searched through a graph of neighbours (`usearch`).
//!
//! `vectors.db` holds the records and is the truth: an upsert is durable when its commit is. Beside it lies one index file
//! for each larger collection, written in the background, checked when it is first used, and read in place. What the file
//! does not hold yet is in memory, and every search measures it exactly: a search is complete at any time, also while the
//! index is behind, being built, or was found damaged and thrown away.

mod backoff;
mod bits;
mod collection;
mod config;
mod database;
mod error;
mod fields;
mod fold;
mod graph;
mod sealed;
mod shared;
mod similarity;
mod state;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Instant,
};

use async_trait::async_trait;
use sutazai_core::{
    Error, ErrorKind, Result,
    store::{CollectionSpec, Page, Selector, VectorCapabilities, VectorHit, VectorQuery, VectorRecord, VectorStore},
};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::{AbortHandle, block_in_place, spawn_blocking},
};

use self::{error::Failure, shared::Shared};

pub use self::config::UsearchConfig;

/// A [`VectorStore`] of one process in one directory: durable, and quick for a million records.
///
/// ```
/// # async fn example(directory: &std::path::Path) -> sutazai_core::Result<()> {
/// use sutazai_core::store::{CollectionSpec, VectorQuery, VectorRecord, VectorStore};
/// use sutazai_store::vector::UsearchStore;
///
/// let store = UsearchStore::open(directory).await?;
/// store.create_collection("notes", &CollectionSpec { dimension: 2 }).await?;
/// let note = VectorRecord { id: "a".into(), vector: vec![0.6, 0.8], payload: Default::default() };
/// store.upsert("notes", vec![note]).await?;
/// let query = VectorQuery { vector: vec![1.0, 1.0], limit: 10, filter: None };
/// assert_eq!(store.search("notes", &[query]).await?[0][0].id, "a");
/// store.close().await;
/// # Ok(()) }
/// # let directory = tempfile::tempdir().unwrap();
/// # tokio::runtime::Runtime::new().unwrap().block_on(example(directory.path())).unwrap();
/// ```
pub struct UsearchStore {
    shared: Arc<Shared>,
    /// Writes index files in the background.
    keeper: AbortHandle,
}

impl UsearchStore {
    /// Opens the directory, or begins one. Nothing is loaded before a collection is used. Needs a Tokio runtime.
    ///
    /// Fails if another store has the directory open, or a newer program wrote it.
    pub async fn open(config: impl Into<UsearchConfig>) -> Result<Self> {
        let shared = Arc::new(Shared::open(config.into()).await?);
        let keeper = tokio::spawn(keep(Arc::downgrade(&shared))).abort_handle();
        Ok(Self { shared, keeper })
    }

    /// Waits until the index of a collection holds all of its records: after a large import, say. Searches are as complete
    /// before, only slower.
    pub async fn build_index(&self, collection: &str) -> Result<()> {
        let collection = self.shared.loaded(collection).await?;
        let shared = self.shared.clone();
        self.shared.fold(&collection, true, move || shared.stop.load(Ordering::Relaxed)).await
    }

    /// Ends the background work, writes index files that are due as far as time allows, and closes the database. A store
    /// that is dropped instead loses nothing, but may have more to do when it is opened again.
    pub async fn close(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // A file that is being written is finished by itself; the next fold waits for that.
        self.keeper.abort();
        self.shared.fold_due(Some(Instant::now() + self.shared.config.close_within)).await;
        self.shared.database.close().await;
    }
}

impl Drop for UsearchStore {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.keeper.abort();
    }
}

#[async_trait]
impl VectorStore for UsearchStore {
    fn capabilities(&self) -> VectorCapabilities {
        VectorCapabilities { name: "usearch", durable: true, filter: true, max_dimension: 65_536 }
    }

    async fn create_collection(&self, name: &str, spec: &CollectionSpec) -> Result<()> {
        spec.check(&self.capabilities())?;
        let (shared, name, spec) = (self.shared.clone(), name.to_owned(), spec.clone());
        whole(async move { shared.create(name, spec).await }).await
    }

    async fn drop_collection(&self, name: &str) -> Result<()> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        whole(async move { shared.drop_collection(name).await }).await
    }

    async fn upsert(&self, collection: &str, records: Vec<VectorRecord>) -> Result<()> {
        let found = self.shared.collection(collection).await?;
        found.spec().check_records(&records)?;
        if records.is_empty() {
            return Ok(());
        }
        let (shared, name) = (self.shared.clone(), found.name.clone());
        whole(async move { shared.upsert(name, records).await }).await
    }

    async fn delete(&self, collection: &str, selector: Selector) -> Result<u64> {
        let (shared, name) = (self.shared.clone(), collection.to_owned());
        whole(async move { shared.delete(name, selector).await }).await
    }

    async fn search(&self, collection: &str, queries: &[VectorQuery]) -> Result<Vec<Vec<VectorHit>>> {
        let collection = self.shared.loaded(collection).await?;
        collection.spec().check_queries(queries)?;
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        let permit = self.shared.searches.clone().acquire_owned().await;
        // Changes may come in between two queries.
        let search = move |queries: &[VectorQuery]| {
            let _permit = permit;
            let search = |query| collection.read().map_or(Ok(Vec::new()), |state| state.search(query));
            queries.iter().map(search).collect::<Result<Vec<_>, Failure>>()
        };
        if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
            // The other tasks of this worker go to another one: that takes less than going there with the queries and coming back.
            return in_place(|| search(queries)).map_err(|failure| failure.told("", &"").during("search vectors"));
        }
        let queries = queries.to_vec();
        blocking(move || search(&queries)).await.map_err(|error| error.during("search vectors"))
    }

    async fn scan(&self, collection: &str, after: Option<&str>, limit: usize) -> Result<Page<VectorRecord>> {
        let collection = self.shared.collection(collection).await?;
        self.shared.database.scan(collection.identity, after, limit).await
    }

    async fn count(&self, collection: &str) -> Result<u64> {
        let collection = self.shared.collection(collection).await?;
        match collection.count() {
            Some(count) => Ok(count),
            None => self.shared.database.count(collection.identity).await,
        }
    }
}

/// Runs to its end even if the caller goes away: memory must follow what was committed.
async fn whole<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(broken(error)))
}

/// Runs here, on a runtime of many threads, whose other tasks go elsewhere meanwhile.
#[allow(clippy::disallowed_methods, reason = "the caller has looked at the runtime's flavour")]
fn in_place<T>(work: impl FnOnce() -> T) -> T {
    block_in_place(work)
}

/// Runs where blocking is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(|failure| failure.told("", &"")),
        Err(error) => Err(broken(error)),
    }
}

fn broken(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "the work on vectors broke off").because(error)
}

/// Folds what is due whenever it may be, a moment after: more often comes at once.
async fn keep(shared: Weak<Shared>) {
    let Some((wake, settle)) = shared.upgrade().map(|shared| (shared.wake.clone(), shared.config.settle)) else {
        return;
    };
    let mut again = None;
    loop {
        match again {
            Some(pause) => drop(tokio::time::timeout(pause, wake.notified()).await),
            None => wake.notified().await,
        }
        let Some(now) = shared.upgrade() else { return };
        if now.stop.load(Ordering::Relaxed) {
            return;
        }
        drop(now);
        tokio::time::sleep(settle).await;
        let Some(now) = shared.upgrade() else { return };
        if now.stop.load(Ordering::Relaxed) {
            return;
        }
        again = now.fold_due(None).await;
    }
}
