//! Vectors in memory, searched by comparing each: the reference that approximate indexes are measured against.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::{
    error::{Error, ErrorKind, Fault, Result},
    store::{CollectionSpec, Page, Selector, VectorCapabilities, VectorHit, VectorQuery, VectorRecord, VectorStore},
};

/// The longest id of a record, in bytes.
const LONGEST_ID: usize = 512;

/// The most faults that one error lists.
const MOST_FAULTS: usize = 100;

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

/// What every backend checks alike.
impl CollectionSpec {
    /// Refuses a shape that no store, or not this one, can hold.
    pub fn check(&self, capabilities: &VectorCapabilities) -> Result<()> {
        if self.dimension == 0 {
            let fault = Fault::new("/dimension", "0 is not allowed, at least 1 is");
            return Err(Error::invalid("a collection needs a dimension", vec![fault]));
        }
        if self.dimension > capabilities.max_dimension {
            let most = capabilities.max_dimension;
            return Err(Error::new(ErrorKind::Unsupported, format!("vectors of at most {most} numbers can be stored"))
                .about(capabilities.name));
        }
        Ok(())
    }

    /// The error for a collection that exists with this spec when another was asked for.
    #[must_use]
    pub fn conflict(&self, collection: &str) -> Error {
        let message =
            format!("the collection exists with dimension {}: drop it first or use another name", self.dimension);
        Error::new(ErrorKind::Conflict, message).with_code("collection_conflict").about(collection)
    }

    /// Refuses a batch with a record that may not be stored, and names what is wrong with each.
    pub fn check_records(&self, records: &[VectorRecord]) -> Result<()> {
        let faults = records.iter().enumerate().flat_map(|(index, record)| {
            let id = (record.id.is_empty() || record.id.len() > LONGEST_ID).then(|| {
                Fault::new(format!("/{index}/id"), format!("{} bytes, 1 to {LONGEST_ID} are allowed", record.id.len()))
            });
            let vector = self.fault(&record.vector).map(|what| Fault::new(format!("/{index}/vector"), what));
            id.into_iter().chain(vector)
        });
        refuse("records cannot be stored", faults)
    }

    /// Refuses queries that cannot be compared with what a collection of this shape holds.
    pub fn check_queries(&self, queries: &[VectorQuery]) -> Result<()> {
        let faults = queries.iter().enumerate().filter_map(|(index, query)| {
            self.fault(&query.vector).map(|what| Fault::new(format!("/{index}/vector"), what))
        });
        refuse("queries cannot be searched for", faults)
    }

    fn fault(&self, vector: &[f32]) -> Option<String> {
        if vector.len() != self.dimension {
            return Some(format!("{} numbers, the collection has {}", vector.len(), self.dimension));
        }
        if let Some(found) = vector.iter().find(|x| !x.is_finite()) {
            return Some(format!("{found} is not a finite number"));
        }
        vector.iter().all(|x| *x == 0.0).then(|| "all numbers are zero: it has no direction".to_owned())
    }
}

fn refuse(message: &'static str, faults: impl Iterator<Item = Fault>) -> Result<()> {
    let faults: Vec<_> = faults.take(MOST_FAULTS).collect();
    if faults.is_empty() { Ok(()) } else { Err(Error::invalid(message, faults)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::vector_conformance!(MemoryVectorStore::new());

    #[test]
    fn every_fault_of_a_batch_is_named() {
        let spec = CollectionSpec { dimension: 2 };
        let record =
            |id: &str, vector: &[f32]| VectorRecord { id: id.into(), vector: vector.into(), payload: Map::new() };
        let records =
            [record("a", &[1.0, 0.0]), record("", &[1.0]), record("b", &[f32::NAN, 0.0]), record("c", &[0.0, 0.0])];
        let error = spec.check_records(&records).unwrap_err();
        let paths: Vec<_> = error.faults().iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(paths, ["/1/id", "/1/vector", "/2/vector", "/3/vector"]);
    }
}
