//! Where vectors live, with the documents they stand for.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Page;
use crate::error::{Error, ErrorKind, Fault, Result};

/// The longest id of a record, in bytes.
const LONGEST_ID: usize = 512;

/// The most faults that one error lists.
const MOST_FAULTS: usize = 100;

/// What a vector store can do, as data. A call it cannot serve fails first, as unsupported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorCapabilities {
    /// The backend's name, such as `usearch`.
    pub name: &'static str,
    /// Whether upserted vectors survive the end of the process.
    pub durable: bool,
    /// Whether a search may carry a filter.
    pub filter: bool,
    /// The largest dimension.
    pub max_dimension: usize,
}

/// The shape of a collection. Similarity is the cosine: 1 is the same direction, 0 unrelated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionSpec {
    /// Numbers in each vector, at least 1.
    pub dimension: usize,
}

/// One vector with what it stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VectorRecord {
    /// Its name in the collection, 1–512 bytes.
    pub id: String,
    /// Finite numbers, not all zero; need not be of unit length.
    pub vector: Vec<f32>,
    /// Fields to filter by and to give back.
    pub payload: Map<String, Value>,
}

/// One search.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorQuery {
    /// What to search near to.
    pub vector: Vec<f32>,
    /// At most so many hits.
    pub limit: usize,
    /// Only records for which this holds.
    pub filter: Option<Filter>,
}

impl VectorQuery {
    /// The `limit` records nearest to `vector`, of all.
    #[must_use]
    pub fn new(vector: Vec<f32>, limit: usize) -> Self {
        Self { vector, limit, filter: None }
    }

    /// Only records for which `filter` holds.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(filter);
        self
    }
}

/// A condition on a record's payload. A missing field equals nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The field has this value.
    Equals(String, Value),
    /// The field has one of these values.
    OneOf(String, Vec<Value>),
    /// Every condition holds; an empty list holds.
    All(Vec<Filter>),
    /// Some condition holds; an empty list does not hold.
    Any(Vec<Filter>),
    /// The condition does not hold.
    Not(Box<Filter>),
}

impl Filter {
    /// Whether the condition holds for `payload`.
    #[must_use]
    pub fn matches(&self, payload: &Map<String, Value>) -> bool {
        match self {
            Self::Equals(field, value) => payload.get(field) == Some(value),
            Self::OneOf(field, values) => payload.get(field).is_some_and(|found| values.contains(found)),
            Self::All(filters) => filters.iter().all(|filter| filter.matches(payload)),
            Self::Any(filters) => filters.iter().any(|filter| filter.matches(payload)),
            Self::Not(filter) => !filter.matches(payload),
        }
    }
}

/// Which records to delete.
#[derive(Clone, Debug, PartialEq)]
pub enum Selector {
    /// Those with these ids; unknown ids are passed over.
    Ids(Vec<String>),
    /// Those for which this holds.
    Matching(Filter),
}

/// A record found near to a query.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorHit {
    /// Its id.
    pub id: String,
    /// Cosine similarity, −1 to 1, computed from the vector as it was upserted.
    pub score: f32,
    /// Its payload.
    pub payload: Map<String, Value>,
}

/// Vectors by collection.
#[async_trait]
pub trait VectorStore: Send + Sync + 'static {
    /// What this store can do.
    fn capabilities(&self) -> VectorCapabilities;

    /// Makes a collection, or does nothing if it exists with the same spec; another spec is a conflict.
    async fn create_collection(&self, name: &str, spec: &CollectionSpec) -> Result<()>;

    /// Removes a collection with everything in it; does nothing if there is none.
    async fn drop_collection(&self, name: &str) -> Result<()>;

    /// Adds records or replaces those with the same id, all or none; of two with one id in a batch the later counts. Found by searches that begin
    /// after it returns, and durable then where the capabilities say so. A wrong dimension, a zero or a non-finite vector is invalid. An empty batch
    /// does nothing. An unknown collection is not found, here and below.
    async fn upsert(&self, collection: &str, records: Vec<VectorRecord>) -> Result<()>;

    /// Removes records and says how many there were. Not found by searches that begin after it returns.
    async fn delete(&self, collection: &str, selector: Selector) -> Result<u64>;

    /// The records most similar to each query, best first, ties by id; fewer than `limit` only if fewer match. The search may be approximate, the
    /// scores are exact.
    async fn search(&self, collection: &str, queries: &[VectorQuery]) -> Result<Vec<Vec<VectorHit>>>;

    /// Records in the order of their ids, those after `after`, at most `limit`.
    async fn scan(&self, collection: &str, after: Option<&str>, limit: usize) -> Result<Page<VectorRecord>>;

    /// How many records a collection holds.
    async fn count(&self, collection: &str) -> Result<u64>;
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
