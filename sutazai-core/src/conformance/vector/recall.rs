//! A collection that is large enough for an index to be worth it.

use serde_json::json;

use super::{NAME, Store, ids, object};
use crate::{
    error::Result,
    store::{CollectionSpec, Filter, VectorQuery, VectorRecord},
};

const RECORDS: usize = 2_000;
const DIMENSION: usize = 16;
const QUERIES: usize = 50;
const LIMIT: usize = 5;

/// Of the nearest among 2,000 an approximate search misses at most one in twenty, with a filter as without.
pub async fn the_nearest_of_many_are_found(store: Store) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(11);
    let mut vector = || -> Vec<f32> { (0..DIMENSION).map(|_| random.f32() - 0.5).collect() };
    let record = |i: usize, vector| VectorRecord {
        id: format!("{i:04}"),
        vector,
        payload: object(json!({"half": i.is_multiple_of(2)})),
    };
    let records: Vec<_> = (0..RECORDS).map(|i| record(i, vector())).collect();
    store.create_collection(NAME, &CollectionSpec { dimension: DIMENSION }).await?;
    store.upsert(NAME, records.clone()).await?;
    let half = store.capabilities().filter.then(|| Filter::Equals("half".into(), json!(true)));
    for filter in [None, half] {
        let query = |vector| VectorQuery { vector, limit: LIMIT, filter: filter.clone() };
        let queries: Vec<_> = (0..QUERIES).map(|_| query(vector())).collect();
        let mut found = 0;
        for (query, hits) in queries.iter().zip(store.search(NAME, &queries).await?) {
            assert_eq!(hits.len(), LIMIT);
            let nearest = nearest(&records, query);
            found += ids(hits).iter().filter(|id| nearest.contains(id)).count();
        }
        assert!(found * 20 >= QUERIES * LIMIT * 19, "{found} of {} were found with {filter:?}", QUERIES * LIMIT);
    }
    Ok(())
}

fn nearest(records: &[VectorRecord], query: &VectorQuery) -> Vec<String> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let matching = records.iter().filter(|record| query.filter.as_ref().is_none_or(|f| f.matches(&record.payload)));
    let mut scored: Vec<_> = matching
        .map(|record| (dot(&record.vector, &query.vector) / dot(&record.vector, &record.vector).sqrt(), &record.id))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(query.limit).map(|(_, id)| id.clone()).collect()
}
