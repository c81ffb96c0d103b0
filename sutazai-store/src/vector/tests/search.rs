//! What is found through a graph is what an exact search finds.

use super::*;

fn equals(field: &str, value: impl Into<serde_json::Value>) -> Filter {
    Filter::Equals(field.into(), value.into())
}

#[tokio::test]
async fn five_thousand_are_found_as_by_an_exact_search() {
    let directory = tempfile::tempdir().unwrap();
    let mut pair = Pair::open(patient(directory.path())).await;
    pair.upsert(0..5_000).await;
    pair.store.build_index(NAME).await.unwrap();
    assert!(index_file(directory.path()).exists());
    let walked = pair.store.shared.loaded(NAME).await.unwrap();
    assert_eq!(walked.read().unwrap().sealed_len(), 5_000, "everything must be searched through the graph");
    pair.agree(None).await;
    for filter in [
        equals("half", true),
        Filter::Not(Box::new(equals("ten", 3))),
        Filter::Not(Box::new(equals("id", 7))),
        equals("ten", 3),
        equals("id", 77),
        equals("id", -1),
        Filter::All(vec![equals("half", true), Filter::OneOf("ten".into(), vec![1.into(), 2.into(), 4.into()])]),
    ] {
        pair.agree(Some(filter)).await;
    }
    // Also where the graph has a part only, and some of that is gone.
    pair.upsert(4_500..5_050).await;
    pair.delete(Selector::Matching(equals("ten", 9))).await;
    pair.delete(Selector::Ids((0..300).map(|id| format!("{id:05}")).collect())).await;
    pair.agree(None).await;
    pair.agree(Some(equals("half", true))).await;
    pair.store.build_index(NAME).await.unwrap();
    pair.agree(None).await;
    pair.agree(Some(equals("half", true))).await;
    pair.hold_the_same().await;
}

#[tokio::test]
async fn large_limits_are_met_in_full() {
    let directory = tempfile::tempdir().unwrap();
    let mut pair = Pair::open(patient(directory.path())).await;
    pair.upsert(0..1_000).await;
    pair.store.build_index(NAME).await.unwrap();
    for limit in [0, 1, 15, 30, 100, 999, 1_000, 5_000, usize::MAX] {
        let found = pair.store.search(NAME, &[query(vec![1.0; DIMENSION], limit, None)]).await.unwrap();
        assert_eq!(found[0].len(), limit.min(1_000));
    }
}

#[tokio::test]
async fn an_index_that_is_mostly_dead_is_compacted() {
    let directory = tempfile::tempdir().unwrap();
    let mut pair = Pair::open(patient(directory.path())).await;
    pair.upsert(0..1_000).await;
    pair.store.build_index(NAME).await.unwrap();
    let before = std::fs::metadata(index_file(directory.path())).unwrap().len();
    pair.agree(Some(equals("half", true))).await;
    pair.delete(Selector::Ids((100..700).map(|id| format!("{id:05}")).collect())).await;
    pair.store.build_index(NAME).await.unwrap();
    assert!(std::fs::metadata(index_file(directory.path())).unwrap().len() < before / 2);
    pair.agree(None).await;
    pair.agree(Some(equals("half", true))).await;
    pair.upsert(50..250).await;
    let mut pair = pair.reopened(patient(directory.path()), || {}).await;
    pair.agree(None).await;
    pair.delete(Selector::Matching(Filter::All(Vec::new()))).await;
    pair.store.build_index(NAME).await.unwrap();
    assert!(!index_file(directory.path()).exists(), "an index of nothing is no file");
    pair.upsert(0..300).await;
    pair.agree(None).await;
    pair.hold_the_same().await;
}

#[tokio::test]
async fn replacing_the_same_records_forever_takes_no_more_memory() {
    let directory = tempfile::tempdir().unwrap();
    let mut pair = Pair::open(patient(directory.path())).await;
    for _ in 0..100 {
        pair.upsert(0..50).await;
    }
    let slots = pair.store.shared.loaded(NAME).await.unwrap().read().unwrap().len();
    assert!(slots <= 1_150, "{slots} slots for 50 records");
    pair.agree(None).await;
}

#[tokio::test]
async fn searches_go_on_while_the_index_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = patient(directory.path());
    config.settle = Duration::ZERO;
    let mut pair = Pair::open(config).await;
    for i in 0..40 {
        pair.upsert(i * 50..i * 50 + 70).await;
        if i % 3 == 0 {
            pair.delete(Selector::Ids((i * 20..i * 20 + 30).map(|id| format!("{id:05}")).collect())).await;
        }
        pair.agree(None).await;
        pair.agree(Some(equals("half", true))).await;
    }
    pair.hold_the_same().await;
}
