//! What every [`VectorStore`] must do.

mod recall;
mod samples;

use std::sync::Arc;

use futures_util::future::try_join_all;
use serde_json::{Map, Value, json};

pub use self::recall::the_nearest_of_many_are_found;
use self::samples::{fields, filters};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{CollectionSpec, Filter, Selector, VectorHit, VectorQuery, VectorRecord, VectorStore},
};

/// Every case as one `#[tokio::test]`, against the empty store that the expression makes (it may use `.await`).
///
/// A durable store is also held to [`fill`](crate::conformance::vector::fill) and
/// [`still_there`](crate::conformance::vector::still_there), with the store opened anew between them.
///
/// ```ignore
/// sutazai_core::vector_conformance!(MemoryVectorStore::new());
/// ```
#[macro_export]
macro_rules! vector_conformance {
    ($make:expr) => {
        $crate::vector_conformance!(@ $make;
            describes_itself, creating_twice_is_once, another_spec_is_a_conflict, impossible_specs_are_refused,
            dropping_removes_everything, collections_are_apart, unknown_collections_are_not_found, empty_batches_do_nothing,
            the_nearest_come_first, scores_are_exact, ties_stand_by_id, limits_are_kept, queries_are_answered_in_order,
            bad_queries_are_refused, upsert_replaces, the_later_of_two_counts, a_bad_record_spoils_the_batch,
            payloads_come_back, filters_hold, filters_narrow_before_the_limit, deleting_by_id, deleting_by_filter,
            what_was_deleted_can_return, scans_turn_pages, callers_do_not_mix, what_is_filled_is_there,
            the_nearest_of_many_are_found);
    };
    (@ $make:expr; $($case:ident),*) => {
        mod vector_conformance {
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    let store: ::std::sync::Arc<dyn $crate::store::VectorStore> = ::std::sync::Arc::new($make);
                    $crate::conformance::vector::$case(store).await.map_err(|error| error.report()).unwrap();
                }
            )*
        }
    };
}

/// How exact a score must be.
const NEAR: f32 = 1e-5;

const NAME: &str = "documents";
const SPEC: CollectionSpec = CollectionSpec { dimension: 3 };

type Store = Arc<dyn VectorStore>;

/// It has a name and can hold something.
pub async fn describes_itself(store: Store) -> Result<()> {
    let capabilities = store.capabilities();
    assert!(!capabilities.name.is_empty() && capabilities.max_dimension > 0, "{capabilities:?}");
    Ok(())
}

/// Creating what exists with the same spec does nothing, and keeps what is in it.
pub async fn creating_twice_is_once(store: Store) -> Result<()> {
    made(&store, [record("a", [1.0, 0.0, 0.0], json!({}))]).await?;
    store.create_collection(NAME, &SPEC).await?;
    assert_eq!(store.count(NAME).await?, 1);
    Ok(())
}

/// Creating what exists with another spec is a conflict, and changes nothing.
pub async fn another_spec_is_a_conflict(store: Store) -> Result<()> {
    made(&store, [record("a", [1.0, 0.0, 0.0], json!({}))]).await?;
    refused(store.create_collection(NAME, &CollectionSpec { dimension: 4 }).await, ErrorKind::Conflict);
    assert_eq!(found(&store, [1.0, 0.0, 0.0], 5).await?, ["a"]);
    Ok(())
}

/// Nothing of no dimension, and nothing larger than the capabilities say.
pub async fn impossible_specs_are_refused(store: Store) -> Result<()> {
    refused(store.create_collection(NAME, &CollectionSpec { dimension: 0 }).await, ErrorKind::Invalid);
    let dimension = store.capabilities().max_dimension.saturating_add(1);
    refused(store.create_collection(NAME, &CollectionSpec { dimension }).await, ErrorKind::Unsupported);
    refused(store.count(NAME).await, ErrorKind::NotFound);
    Ok(())
}

/// A dropped collection is gone; its name may come back with another spec, and empty. Dropping nothing does nothing.
pub async fn dropping_removes_everything(store: Store) -> Result<()> {
    store.drop_collection(NAME).await?;
    made(&store, [record("a", [1.0, 0.0, 0.0], json!({}))]).await?;
    store.drop_collection(NAME).await?;
    refused(store.count(NAME).await, ErrorKind::NotFound);
    store.create_collection(NAME, &CollectionSpec { dimension: 2 }).await?;
    assert_eq!(store.count(NAME).await?, 0);
    assert!(search(&store, &[1.0, 0.0], 5, None).await?.is_empty());
    Ok(())
}

/// The same id in two collections is two records.
pub async fn collections_are_apart(store: Store) -> Result<()> {
    made(&store, [record("a", [1.0, 0.0, 0.0], json!({"of": 1}))]).await?;
    store.create_collection("other", &SPEC).await?;
    store.upsert("other", vec![record("a", [0.0, 1.0, 0.0], json!({"of": 2}))]).await?;
    let hits = search(&store, &[1.0, 0.0, 0.0], 5, None).await?;
    assert_eq!((hits.len(), &hits[0].payload["of"]), (1, &json!(1)));
    assert_eq!(store.delete("other", Selector::Matching(Filter::All(Vec::new()))).await?, 1);
    assert_eq!((store.count(NAME).await?, store.count("other").await?), (1, 0));
    Ok(())
}

/// Every call but create and drop says that a collection is not there, also where there is nothing to do.
pub async fn unknown_collections_are_not_found(store: Store) -> Result<()> {
    let query = VectorQuery { vector: vec![1.0, 0.0, 0.0], limit: 1, filter: None };
    refused(store.upsert(NAME, vec![record("a", [1.0, 0.0, 0.0], json!({}))]).await, ErrorKind::NotFound);
    refused(store.upsert(NAME, Vec::new()).await, ErrorKind::NotFound);
    refused(store.delete(NAME, Selector::Ids(vec!["a".into()])).await, ErrorKind::NotFound);
    refused(store.delete(NAME, Selector::Ids(Vec::new())).await, ErrorKind::NotFound);
    refused(store.search(NAME, &[query]).await, ErrorKind::NotFound);
    refused(store.search(NAME, &[]).await, ErrorKind::NotFound);
    refused(store.scan(NAME, None, 1).await, ErrorKind::NotFound);
    refused(store.count(NAME).await, ErrorKind::NotFound);
    Ok(())
}

/// Empty batches and empty collections give empty answers.
pub async fn empty_batches_do_nothing(store: Store) -> Result<()> {
    made(&store, []).await?;
    store.upsert(NAME, Vec::new()).await?;
    assert_eq!(store.delete(NAME, Selector::Ids(Vec::new())).await?, 0);
    assert!(store.search(NAME, &[]).await?.is_empty());
    assert!(search(&store, &[1.0, 0.0, 0.0], 5, None).await?.is_empty());
    let page = store.scan(NAME, None, 10).await?;
    assert!(page.items.is_empty() && !page.more);
    assert_eq!(store.count(NAME).await?, 0);
    Ok(())
}

/// Best first, by angle and not by length.
pub async fn the_nearest_come_first(store: Store) -> Result<()> {
    made(
        &store,
        [
            record("far", [-1.0, 0.1, 0.0], json!({})),
            record("near", [0.9, 0.1, 0.0], json!({})),
            record("long", [50.0, 50.0, 0.0], json!({})),
            record("same", [0.001, 0.0, 0.0], json!({})),
        ],
    )
    .await?;
    assert_eq!(found(&store, [2.0, 0.0, 0.0], 10).await?, ["same", "near", "long", "far"]);
    Ok(())
}

/// Scores are the cosine, whatever the lengths, from one end to the other.
pub async fn scores_are_exact(store: Store) -> Result<()> {
    made(
        &store,
        [
            record("same", [3.0, 4.0, 0.0], json!({})),
            record("half", [3e-20, 4e-20, 5e-20], json!({})),
            record("none", [0.0, 0.0, 1e20], json!({})),
            record("away", [-6.0, -8.0, 0.0], json!({})),
        ],
    )
    .await?;
    let hits = search(&store, &[0.3, 0.4, 0.0], 10, None).await?;
    let scores: Vec<_> = hits.iter().map(|hit| (hit.id.as_str(), hit.score)).collect();
    let expected = [("same", 1.0), ("half", 0.5_f32.sqrt()), ("none", 0.0), ("away", -1.0)];
    assert_eq!(scores.len(), expected.len(), "{scores:?}");
    for ((id, score), (expected_id, expected)) in scores.into_iter().zip(expected) {
        assert!(
            id == expected_id && (score - expected).abs() < NEAR,
            "{id} {score}, expected {expected_id} {expected}"
        );
        assert!((-1.0..=1.0).contains(&score));
    }
    Ok(())
}

/// Of equal scores the smaller id comes first, and is kept where the limit cuts between them.
pub async fn ties_stand_by_id(store: Store) -> Result<()> {
    let ids = ["m", "b", "z", "a", "ä", "B", "10", "9"];
    made(&store, ids.map(|id| record(id, [1.0, 2.0, 3.0], json!({})))).await?;
    let mut sorted = ids;
    sorted.sort_unstable();
    assert_eq!(found(&store, [1.0, 1.0, 1.0], 20).await?, sorted);
    assert_eq!(found(&store, [1.0, 1.0, 1.0], 3).await?, sorted[..3]);
    Ok(())
}

/// Never more than the limit, and fewer only if there are fewer.
pub async fn limits_are_kept(store: Store) -> Result<()> {
    made(&store, (0..20).map(|i| record(&format!("{i:02}"), [1.0, i as f32, 0.0], json!({})))).await?;
    for (limit, expected) in [(0, 0), (1, 1), (19, 19), (20, 20), (21, 20), (100_000, 20)] {
        assert_eq!(found(&store, [1.0, 0.0, 0.0], limit).await?.len(), expected, "limit {limit}");
    }
    Ok(())
}

/// A batch of queries is answered in its order, each by its own limit and filter.
pub async fn queries_are_answered_in_order(store: Store) -> Result<()> {
    made(&store, [record("x", [1.0, 0.0, 0.0], json!({})), record("y", [0.0, 1.0, 0.0], json!({}))]).await?;
    let query = |vector: [f32; 3], limit| VectorQuery { vector: vector.into(), limit, filter: None };
    let queries = [query([0.0, 1.0, 0.0], 1), query([1.0, 0.0, 0.0], 2), query([1.0, 0.0, 0.0], 0)];
    let answers: Vec<Vec<_>> = store.search(NAME, &queries).await?.into_iter().map(ids).collect();
    assert_eq!(answers, [vec!["y"], vec!["x", "y"], vec![]]);
    Ok(())
}

/// A query of another dimension, of no direction or not of numbers is invalid.
pub async fn bad_queries_are_refused(store: Store) -> Result<()> {
    made(&store, [record("a", [1.0, 0.0, 0.0], json!({}))]).await?;
    for vector in [vec![1.0, 0.0], vec![], vec![0.0; 3], vec![f32::NAN, 0.0, 1.0], vec![f32::INFINITY, 0.0, 0.0]] {
        refused(search(&store, &vector, 1, None).await, ErrorKind::Invalid);
    }
    Ok(())
}

/// The same id again replaces the vector and the whole payload.
pub async fn upsert_replaces(store: Store) -> Result<()> {
    made(&store, [record("a", [1.0, 0.0, 0.0], json!({"old": 1, "both": 1})), record("b", [0.9, 0.1, 0.0], json!({}))])
        .await?;
    store.upsert(NAME, vec![record("a", [0.0, 0.0, 1.0], json!({"both": 2}))]).await?;
    assert_eq!(store.count(NAME).await?, 2);
    let hits = search(&store, &[0.0, 0.0, 1.0], 5, None).await?;
    assert_eq!(hits.len(), 2);
    assert_eq!((hits[0].id.as_str(), &hits[0].payload), ("a", &object(json!({"both": 2}))));
    assert_eq!(found(&store, [1.0, 0.0, 0.0], 1).await?, ["b"]);
    if store.capabilities().filter {
        let old = Filter::Equals("old".into(), json!(1));
        assert!(search(&store, &[1.0, 0.0, 0.0], 5, Some(old)).await?.is_empty());
    }
    Ok(())
}

/// Of two records with one id in a batch the later counts.
pub async fn the_later_of_two_counts(store: Store) -> Result<()> {
    made(
        &store,
        [
            record("a", [1.0, 0.0, 0.0], json!({"v": 1})),
            record("b", [1.0, 1.0, 0.0], json!({})),
            record("a", [0.0, 1.0, 0.0], json!({"v": 2})),
        ],
    )
    .await?;
    assert_eq!(store.count(NAME).await?, 2);
    let hits = search(&store, &[0.0, 1.0, 0.0], 5, None).await?;
    assert_eq!((hits[0].id.as_str(), &hits[0].payload["v"], hits.len()), ("a", &json!(2), 2));
    Ok(())
}

/// All or none: one record that may not be stored, and none of its batch is.
pub async fn a_bad_record_spoils_the_batch(store: Store) -> Result<()> {
    made(&store, [record("a", [1.0, 0.0, 0.0], json!({}))]).await?;
    let mut bad = [vec![1.0, 0.0], vec![0.0; 3], vec![f32::NAN, 0.0, 1.0], vec![f32::NEG_INFINITY, 0.0, 0.0]]
        .map(|vector| VectorRecord { id: "bad".into(), vector, payload: Map::new() })
        .to_vec();
    bad.push(record("", [1.0, 0.0, 0.0], json!({})));
    bad.push(record(&"x".repeat(513), [1.0, 0.0, 0.0], json!({})));
    for bad in bad {
        let batch = vec![record("good", [0.0, 1.0, 0.0], json!({})), record("a", [0.0, 1.0, 0.0], json!({})), bad];
        let error = store.upsert(NAME, batch).await.expect_err("a bad record must be refused");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
        assert!(
            error.faults().iter().all(|fault| fault.path.starts_with("/2/")) && !error.faults().is_empty(),
            "{error:?}"
        );
    }
    let page = store.scan(NAME, None, 10).await?;
    assert_eq!(page.items, [record("a", [1.0, 0.0, 0.0], json!({}))]);
    store.upsert(NAME, vec![record(&"x".repeat(512), [1.0, 0.0, 0.0], json!({}))]).await
}

/// Ids, vectors and payloads come back as they were given.
pub async fn payloads_come_back(store: Store) -> Result<()> {
    let payload = json!({
        "text": "Köln \u{0} 東京 \"quoted\" \n", "empty": "", "number": 0.1, "precise": 1.000_000_000_000_000_2, "large": u64::MAX,
        "negative": -7, "none": null, "list": [1, [2.5, {"deep": [true]}]], "": "a field without a name", "a.b": {"$c": 1}
    });
    let given = record("odd id: ä/%_'\"\u{0}", [0.1, -0.2, 1e-30], payload);
    made(&store, [given.clone(), record("plain", [1.0, 0.0, 0.0], json!({}))]).await?;
    let page = store.scan(NAME, None, 1).await?;
    assert_eq!(page.items, std::slice::from_ref(&given));
    let hits = search(&store, &[0.1, -0.2, 0.0], 1, None).await?;
    assert_eq!((&hits[0].id, &hits[0].payload), (&given.id, &given.payload));
    assert_eq!(store.delete(NAME, Selector::Ids(vec![given.id])).await?, 1);
    Ok(())
}

/// Every kind of condition, alone and nested, holds as [`Filter::matches`] says.
pub async fn filters_hold(store: Store) -> Result<()> {
    if !store.capabilities().filter {
        return filters_are_refused(&store).await;
    }
    let records = fields();
    made(&store, records.clone()).await?;
    for filter in filters() {
        let expected: Vec<_> = records.iter().filter(|r| filter.matches(&r.payload)).map(|r| r.id.clone()).collect();
        let mut ids = ids(search(&store, &[1.0, 0.0, 0.0], 100, Some(filter.clone())).await?);
        ids.sort();
        assert_eq!(ids, expected, "{filter:?}");
    }
    Ok(())
}

/// A filtered search still finds as many as there are, best first, however many nearer ones do not match.
pub async fn filters_narrow_before_the_limit(store: Store) -> Result<()> {
    if !store.capabilities().filter {
        return filters_are_refused(&store).await;
    }
    made(&store, (0..500).map(|i| record(&format!("{i:03}"), [1.0, i as f32, 0.0], json!({"rare": i % 100 == 99}))))
        .await?;
    let rare = Filter::Equals("rare".into(), json!(true));
    let hits = search(&store, &[1.0, 0.0, 0.0], 3, Some(rare.clone())).await?;
    assert_eq!(ids(hits), ["099", "199", "299"]);
    assert_eq!(search(&store, &[1.0, 0.0, 0.0], 50, Some(rare)).await?.len(), 5);
    Ok(())
}

/// Unknown ids are passed over, and an id named twice counts once.
pub async fn deleting_by_id(store: Store) -> Result<()> {
    made(&store, ["a", "b", "c"].map(|id| record(id, [1.0, 0.0, 0.0], json!({})))).await?;
    let selector = Selector::Ids(["b", "nobody", "b", "c"].map(String::from).into());
    assert_eq!(store.delete(NAME, selector.clone()).await?, 2);
    assert_eq!(store.delete(NAME, selector).await?, 0);
    assert_eq!(found(&store, [1.0, 0.0, 0.0], 5).await?, ["a"]);
    assert_eq!((store.count(NAME).await?, store.scan(NAME, None, 5).await?.items.len()), (1, 1));
    Ok(())
}

/// Deleting by a condition removes those for which it holds, and says how many.
pub async fn deleting_by_filter(store: Store) -> Result<()> {
    if !store.capabilities().filter {
        return filters_are_refused(&store).await;
    }
    for filter in filters() {
        store.drop_collection(NAME).await?;
        made(&store, fields()).await?;
        let (gone, kept): (Vec<_>, Vec<_>) = fields().into_iter().partition(|r| filter.matches(&r.payload));
        assert_eq!(store.delete(NAME, Selector::Matching(filter.clone())).await?, gone.len() as u64, "{filter:?}");
        let mut left = found(&store, [1.0, 0.0, 0.0], 100).await?;
        left.sort();
        assert_eq!(left, kept.into_iter().map(|r| r.id).collect::<Vec<_>>(), "{filter:?}");
    }
    Ok(())
}

/// A deleted id may be used again.
pub async fn what_was_deleted_can_return(store: Store) -> Result<()> {
    made(&store, [record("a", [1.0, 0.0, 0.0], json!({"v": 1}))]).await?;
    assert_eq!(store.delete(NAME, Selector::Ids(vec!["a".into()])).await?, 1);
    store.upsert(NAME, vec![record("a", [0.0, 1.0, 0.0], json!({"v": 2}))]).await?;
    let hits = search(&store, &[0.0, 1.0, 0.0], 5, None).await?;
    assert_eq!((hits.len(), &hits[0].payload["v"]), (1, &json!(2)));
    Ok(())
}

/// Pages follow each other in the order of ids, whole and without repetition, and the last says so.
pub async fn scans_turn_pages(store: Store) -> Result<()> {
    let mut expected: Vec<_> = (0..25).map(|i| format!("{}", i * 7)).collect();
    made(&store, expected.iter().map(|id| record(id, [1.0, 0.0, 0.0], json!({"id": id})))).await?;
    expected.sort();
    for limit in [1, 10, 24, 25, 100] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = store.scan(NAME, after.as_deref(), limit).await?;
            assert!(page.items.len() <= limit && page.items.iter().all(|r| r.payload["id"] == json!(r.id)));
            seen.extend(page.items.into_iter().map(|record| record.id));
            after = seen.last().cloned();
            if !page.more {
                break;
            }
        }
        assert_eq!(seen, expected, "limit {limit}");
    }
    let page = store.scan(NAME, Some("zzz"), 5).await?;
    assert!(page.items.is_empty() && !page.more);
    let none = store.scan(NAME, None, 0).await?;
    assert!(none.items.is_empty() && none.more);
    Ok(())
}

/// Callers at the same time lose nothing of each other, and see what they themselves wrote.
pub async fn callers_do_not_mix(store: Store) -> Result<()> {
    made(&store, []).await?;
    let calls = (0..16).map(|caller: usize| {
        let store = store.clone();
        async move {
            for i in 0..8 {
                let vector = [1.0 + caller as f32, i as f32, 1.0];
                let id = format!("{caller}-{i}");
                store.upsert(NAME, vec![record(&id, vector, json!({})), record("shared", vector, json!({}))]).await?;
                let hits = search(&store, &vector, 1_000, None).await?;
                assert!(hits.iter().any(|hit| hit.id == id), "{id} was written and is not found");
            }
            let gone = Selector::Ids(vec![format!("{caller}-0")]);
            assert_eq!(store.delete(NAME, gone).await?, 1);
            Ok::<_, Error>(())
        }
    });
    try_join_all(calls).await?;
    assert_eq!(store.count(NAME).await?, 16 * 7 + 1);
    Ok(())
}

/// [`fill`] and [`still_there`] agree with each other.
pub async fn what_is_filled_is_there(store: Store) -> Result<()> {
    fill(store.clone()).await?;
    still_there(store).await
}

/// First half of the case for durable stores: open the store anew, then call [`still_there`].
pub async fn fill(store: Store) -> Result<()> {
    made(&store, fields()).await?;
    store.upsert(NAME, vec![record("late", [0.0, 0.0, 1.0], json!({"kind": "late"}))]).await?;
    store.upsert(NAME, vec![record("late", [0.0, 1.0, 1.0], json!({"kind": "later"}))]).await?;
    store.upsert(NAME, vec![record("brief", [0.0, 0.0, 1.0], json!({}))]).await?;
    store.delete(NAME, Selector::Ids(vec!["brief".into()])).await?;
    store.create_collection("dropped", &SPEC).await?;
    store.upsert("dropped", vec![record("a", [1.0, 0.0, 0.0], json!({}))]).await?;
    store.drop_collection("dropped").await?;
    store.create_collection("empty", &CollectionSpec { dimension: 7 }).await
}

/// Second half: everything that [`fill`] left is there, and nothing else.
pub async fn still_there(store: Store) -> Result<()> {
    let mut expected = fields();
    expected.push(record("late", [0.0, 1.0, 1.0], json!({"kind": "later"})));
    expected.sort_by(|a, b| a.id.cmp(&b.id));
    let page = store.scan(NAME, None, 100).await?;
    assert_eq!((page.items, page.more), (expected.clone(), false));
    assert_eq!(store.count(NAME).await?, expected.len() as u64);
    let hits = search(&store, &[0.0, 1.0, 1.0], 100, None).await?;
    assert_eq!((hits.len(), hits[0].id.as_str(), &hits[0].payload["kind"]), (expected.len(), "late", &json!("later")));
    assert!((hits[0].score - 1.0).abs() < NEAR);
    refused(store.count("dropped").await, ErrorKind::NotFound);
    assert_eq!(store.count("empty").await?, 0);
    store.create_collection("empty", &CollectionSpec { dimension: 7 }).await?;
    refused(store.create_collection("empty", &CollectionSpec { dimension: 8 }).await, ErrorKind::Conflict);
    Ok(())
}

/// A store that cannot filter says so before it does anything.
async fn filters_are_refused(store: &Store) -> Result<()> {
    made(store, fields()).await?;
    let all = Filter::All(Vec::new());
    refused(search(store, &[1.0, 0.0, 0.0], 1, Some(all.clone())).await, ErrorKind::Unsupported);
    refused(store.delete(NAME, Selector::Matching(all)).await, ErrorKind::Unsupported);
    assert_eq!(store.count(NAME).await?, fields().len() as u64);
    Ok(())
}

fn record(id: &str, vector: [f32; 3], payload: Value) -> VectorRecord {
    VectorRecord { id: id.to_owned(), vector: vector.into(), payload: object(payload) }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

async fn made(store: &Store, records: impl IntoIterator<Item = VectorRecord>) -> Result<()> {
    store.create_collection(NAME, &SPEC).await?;
    store.upsert(NAME, records.into_iter().collect()).await
}

async fn search(store: &Store, vector: &[f32], limit: usize, filter: Option<Filter>) -> Result<Vec<VectorHit>> {
    let query = VectorQuery { vector: vector.to_vec(), limit, filter };
    let mut answers = store.search(NAME, &[query]).await?;
    assert_eq!(answers.len(), 1, "one answer a query");
    Ok(answers.remove(0))
}

async fn found(store: &Store, vector: [f32; 3], limit: usize) -> Result<Vec<String>> {
    Ok(ids(search(store, &vector, limit, None).await?))
}

fn ids(hits: Vec<VectorHit>) -> Vec<String> {
    hits.into_iter().map(|hit| hit.id).collect()
}

fn refused<T>(outcome: Result<T>, kind: ErrorKind) {
    match outcome {
        Ok(_) => panic!("this must fail as {kind:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{error:?}"),
    }
}
