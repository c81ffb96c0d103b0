//! The store as a whole: the suite of all vector stores, and what happens to its files.

mod faults;
mod files;
mod golden;
mod kill;
mod search;

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use serde_json::{Map, json};
use sutazai_core::{
    Result, conformance,
    memory::MemoryVectorStore,
    store::{
        CollectionSpec, Filter, Page, Selector, VectorCapabilities, VectorHit, VectorQuery, VectorRecord, VectorStore,
    },
};
use tempfile::TempDir;

use super::{UsearchConfig, UsearchStore};

const NAME: &str = "documents";
const DIMENSION: usize = 24;

/// A store in a directory that goes with it.
struct Temporary {
    store: UsearchStore,
    /// Every search walks the graph, also of what was just written.
    indexed: bool,
    _directory: TempDir,
}

impl Temporary {
    async fn new(config: impl FnOnce(&Path) -> UsearchConfig, indexed: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = UsearchStore::open(config(directory.path())).await.unwrap();
        Self { store, indexed, _directory: directory }
    }

    async fn settled(&self, collection: &str) -> Result<()> {
        if self.indexed { self.store.build_index(collection).await } else { Ok(()) }
    }
}

#[async_trait]
impl VectorStore for Temporary {
    fn capabilities(&self) -> VectorCapabilities {
        self.store.capabilities()
    }

    async fn create_collection(&self, name: &str, spec: &CollectionSpec) -> Result<()> {
        self.store.create_collection(name, spec).await
    }

    async fn drop_collection(&self, name: &str) -> Result<()> {
        self.store.drop_collection(name).await
    }

    async fn upsert(&self, collection: &str, records: Vec<VectorRecord>) -> Result<()> {
        self.store.upsert(collection, records).await?;
        self.settled(collection).await
    }

    async fn delete(&self, collection: &str, selector: Selector) -> Result<u64> {
        let gone = self.store.delete(collection, selector).await?;
        self.settled(collection).await?;
        Ok(gone)
    }

    async fn search(&self, collection: &str, queries: &[VectorQuery]) -> Result<Vec<Vec<VectorHit>>> {
        self.store.search(collection, queries).await
    }

    async fn scan(&self, collection: &str, after: Option<&str>, limit: usize) -> Result<Page<VectorRecord>> {
        self.store.scan(collection, after, limit).await
    }

    async fn count(&self, collection: &str) -> Result<u64> {
        self.store.count(collection).await
    }
}

/// As it comes: small collections are measured exactly.
mod exact {
    use super::*;

    sutazai_core::vector_conformance!(Temporary::new(|directory| directory.into(), false).await);
}

/// With index files and graphs from the first record on.
mod indexed {
    use super::*;

    sutazai_core::vector_conformance!(Temporary::new(eager, true).await);

    #[tokio::test]
    async fn its_searches_walk_the_graph() {
        let temporary = Temporary::new(eager, true).await;
        temporary.create_collection(NAME, &CollectionSpec { dimension: DIMENSION }).await.unwrap();
        temporary.upsert(NAME, Draw::new().records(0..5)).await.unwrap();
        let collection = temporary.store.shared.loaded(NAME).await.unwrap();
        let state = collection.read().unwrap();
        let near = state.near(&[1.0; DIMENSION], &state.alive, 3).unwrap();
        assert!(near.len() >= 3 && state.sealed_len() == 5);
    }
}

#[tokio::test]
async fn what_is_filled_survives_reopening() {
    let plain: fn(&Path) -> UsearchConfig = |directory| directory.into();
    for config in [plain, eager] {
        let directory = tempfile::tempdir().unwrap();
        let store = UsearchStore::open(config(directory.path())).await.unwrap();
        conformance::vector::fill(std::sync::Arc::new(store)).await.unwrap();
        // Dropped the first time, closed the second.
        for _ in 0..2 {
            let store = std::sync::Arc::new(UsearchStore::open(config(directory.path())).await.unwrap());
            conformance::vector::still_there(store.clone()).await.unwrap();
            store.close().await;
        }
    }
}

/// Builds as soon as it can, from the first record on.
fn eager(directory: &Path) -> UsearchConfig {
    let mut config = UsearchConfig::new(directory);
    (config.exact_below, config.settle, config.scan_gain) = (0, Duration::ZERO, 0);
    config
}

/// Builds when told to, and at close.
fn patient(directory: &Path) -> UsearchConfig {
    let mut config = UsearchConfig::new(directory);
    (config.exact_below, config.settle) = (100, Duration::from_secs(3_600));
    config
}

/// Vectors around ten centres.
struct Draw(fastrand::Rng);

impl Draw {
    fn new() -> Self {
        Self(fastrand::Rng::with_seed(42))
    }

    fn vector(&mut self) -> Vec<f32> {
        let centre = self.0.usize(..10);
        (0..DIMENSION).map(|i| self.0.f32() - 0.5 + if i == centre { 1.5 } else { 0.0 }).collect()
    }

    fn record(&mut self, id: usize) -> VectorRecord {
        let payload = json!({"ten": id % 10, "half": id.is_multiple_of(2), "id": id, "text": format!("text of {id}")});
        let Some(payload) = payload.as_object().cloned() else { unreachable!() };
        VectorRecord { id: format!("{id:05}"), vector: self.vector(), payload }
    }

    fn records(&mut self, ids: std::ops::Range<usize>) -> Vec<VectorRecord> {
        ids.map(|id| self.record(id)).collect()
    }
}

fn query(vector: Vec<f32>, limit: usize, filter: Option<Filter>) -> VectorQuery {
    VectorQuery { vector, limit, filter }
}

/// The store beside the reference: both get the same, and must answer the same.
struct Pair {
    store: UsearchStore,
    reference: MemoryVectorStore,
    draw: Draw,
}

impl Pair {
    async fn open(config: UsearchConfig) -> Self {
        let (store, reference) = (UsearchStore::open(config).await.unwrap(), MemoryVectorStore::new());
        let spec = CollectionSpec { dimension: DIMENSION };
        store.create_collection(NAME, &spec).await.unwrap();
        reference.create_collection(NAME, &spec).await.unwrap();
        Self { store, reference, draw: Draw::new() }
    }

    /// Closes the store and opens it again, with what `between` does to its files.
    async fn reopened(self, config: UsearchConfig, between: impl FnOnce()) -> Self {
        self.store.close().await;
        drop(self.store);
        between();
        Self { store: UsearchStore::open(config).await.unwrap(), ..self }
    }

    async fn upsert(&mut self, ids: std::ops::Range<usize>) {
        let records = self.draw.records(ids);
        self.store.upsert(NAME, records.clone()).await.unwrap();
        self.reference.upsert(NAME, records).await.unwrap();
    }

    async fn delete(&self, selector: Selector) {
        let gone = self.store.delete(NAME, selector.clone()).await.unwrap();
        assert_eq!(gone, self.reference.delete(NAME, selector).await.unwrap());
    }

    /// Searches as well as the reference, or nearly: every hit is right, and of a hundred at most one is missed.
    async fn agree(&mut self, filter: Option<Filter>) {
        let queries: Vec<_> = (0..100).map(|_| query(self.draw.vector(), 10, filter.clone())).collect();
        let found = self.store.search(NAME, &queries).await.unwrap();
        let expected = self.reference.search(NAME, &queries).await.unwrap();
        let (mut hits, mut all) = (0, 0);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.len(), expected.len(), "{filter:?}");
            all += expected.len();
            for hit in found {
                let same = expected.iter().find(|expected| expected.id == hit.id);
                hits += usize::from(
                    same.is_some_and(|same| same.payload == hit.payload && (same.score - hit.score).abs() < 1e-5),
                );
            }
            assert!(found.is_sorted_by(|a, b| a.score > b.score || (a.score == b.score && a.id < b.id)));
        }
        assert!(hits * 100 >= all * 99, "{hits} of {all} were found with {filter:?}");
        assert_eq!(self.store.count(NAME).await.unwrap(), self.reference.count(NAME).await.unwrap());
    }

    /// Everything that is in the one is in the other.
    async fn hold_the_same(&self) {
        let [found, expected] =
            [&self.store as &dyn VectorStore, &self.reference].map(|store| store.scan(NAME, None, 1_000_000));
        assert_eq!(found.await.unwrap().items, expected.await.unwrap().items);
    }
}

fn index_file(directory: &Path) -> std::path::PathBuf {
    directory.join("vectors-1.index")
}

fn no_payload() -> Map<String, serde_json::Value> {
    Map::new()
}
