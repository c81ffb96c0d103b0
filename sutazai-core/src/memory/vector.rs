//! Vectors in memory, searched by comparing each: the reference that approximate indexes are measured against.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::{
    error::{Error, ErrorKind, Result},
    store::{CollectionSpec, Page, Selector, VectorCapabilities, VectorHit, VectorQuery, VectorRecord, VectorStore},
};

/// A [`VectorStore`] in memory: exact, and gone with the process. Right for tests and for some ten thousand records.
#[derive(Default)]
pub struct MemoryVectorStore {
    collections: Mutex<HashMap<String, Collection>>,
}

struct Collection {
    spec: CollectionSpec,
    records: BTreeMap<String, Entry>,
}

struct Entry {
    vector: Vec<f32>,
    length: f64,
    payload: Map<String, Value>,
}

impl fmt::Debug for MemoryVectorStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryVectorStore").field("collections", &self.lock().len()).finish()
    }
}

impl MemoryVectorStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A panic elsewhere cannot leave the maps half changed: every change is one call.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Collection>> {
        self.collections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, name: &str, act: impl FnOnce(&mut Collection) -> Result<T>) -> Result<T> {
        let mut collections = self.lock();
        act(collections.get_mut(name).ok_or_else(|| not_found(name))?)
    }
}

#[async_trait]
impl VectorStore for MemoryVectorStore {
    fn capabilities(&self) -> VectorCapabilities {
        VectorCapabilities { name: "memory", durable: false, filter: true, max_dimension: 65_536 }
    }

    async fn create_collection(&self, name: &str, spec: &CollectionSpec) -> Result<()> {
        spec.check(&self.capabilities())?;
        let mut collections = self.lock();
        match collections.get(name) {
            Some(found) if found.spec == *spec => Ok(()),
            Some(found) => Err(found.spec.conflict(name)),
            None => {
                let collection = Collection { spec: spec.clone(), records: BTreeMap::new() };
                collections.insert(name.to_owned(), collection);
                Ok(())
            }
        }
    }

    async fn drop_collection(&self, name: &str) -> Result<()> {
        self.lock().remove(name);
        Ok(())
    }

    async fn upsert(&self, collection: &str, records: Vec<VectorRecord>) -> Result<()> {
        self.with(collection, |collection| {
            collection.spec.check_records(&records)?;
            collection.records.extend(records.into_iter().map(|VectorRecord { id, vector, payload }| {
                let length = length(&vector);
                (id, Entry { vector, length, payload })
            }));
            Ok(())
        })
    }

    async fn delete(&self, collection: &str, selector: Selector) -> Result<u64> {
        self.with(collection, |Collection { records, .. }| {
            let before = records.len();
            match selector {
                Selector::Ids(ids) => {
                    let ids: BTreeSet<String> = ids.into_iter().collect();
                    ids.iter().for_each(|id| drop(records.remove(id)));
                }
                Selector::Matching(filter) => records.retain(|_, entry| !filter.matches(&entry.payload)),
            }
            Ok((before - records.len()) as u64)
        })
    }

    async fn search(&self, collection: &str, queries: &[VectorQuery]) -> Result<Vec<Vec<VectorHit>>> {
        self.with(collection, |collection| {
            collection.spec.check_queries(queries)?;
            Ok(queries.iter().map(|query| collection.search(query)).collect())
        })
    }

    async fn scan(&self, collection: &str, after: Option<&str>, limit: usize) -> Result<Page<VectorRecord>> {
        self.with(collection, |collection| {
            let start = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut rest = collection.records.range::<str, _>((start, Bound::Unbounded));
            let items = rest.by_ref().take(limit).map(|(id, entry)| entry.record(id)).collect();
            Ok(Page { items, more: rest.next().is_some() })
        })
    }

    async fn count(&self, collection: &str) -> Result<u64> {
        self.with(collection, |collection| Ok(collection.records.len() as u64))
    }
}

impl Collection {
    fn search(&self, query: &VectorQuery) -> Vec<VectorHit> {
        let length = length(&query.vector);
        let matching = self
            .records
            .iter()
            .filter(|(_, entry)| query.filter.as_ref().is_none_or(|filter| filter.matches(&entry.payload)));
        let mut scored: Vec<_> =
            matching.map(|(id, entry)| (entry.similarity(&query.vector, length), id, entry)).collect();
        // The sort is stable and the map is in the order of ids: ties stand by id.
        scored.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
        scored.truncate(query.limit);
        let hit = |(score, id, entry): (f32, &String, &Entry)| VectorHit {
            id: id.clone(),
            score,
            payload: entry.payload.clone(),
        };
        scored.into_iter().map(hit).collect()
    }
}

impl Entry {
    fn similarity(&self, query: &[f32], length: f64) -> f32 {
        let dot: f64 = self.vector.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        (dot / (self.length * length)).clamp(-1.0, 1.0) as f32
    }

    fn record(&self, id: &str) -> VectorRecord {
        VectorRecord { id: id.to_owned(), vector: self.vector.clone(), payload: self.payload.clone() }
    }
}

/// In double precision: the square of a finite f32 does not overflow there.
fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt()
}

fn not_found(collection: &str) -> Error {
    Error::new(ErrorKind::NotFound, "there is no such collection: create it first")
        .with_code("collection_not_found")
        .about(collection)
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::vector_conformance!(MemoryVectorStore::new());
}
