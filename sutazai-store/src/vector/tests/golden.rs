//! Files as an earlier build wrote them are read by this one. `SUTAZAI_BLESS=1` writes them anew.

use std::fs;

use super::*;

const RECORDS: usize = 120;

#[tokio::test]
async fn files_of_earlier_builds_are_read() {
    let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/vectors"));
    let names = [("database", "vectors.db"), ("index", "vectors-1.index")];
    if std::env::var_os("SUTAZAI_BLESS").is_some() {
        let directory = tempfile::tempdir().unwrap();
        let mut pair = Pair::open(patient(directory.path())).await;
        pair.upsert(0..RECORDS).await;
        pair.store.build_index(NAME).await.unwrap();
        pair.store.close().await;
        fs::create_dir_all(golden).unwrap();
        for (kept, used) in names {
            fs::copy(directory.path().join(used), golden.join(kept)).unwrap();
        }
    }
    let directory = tempfile::tempdir().unwrap();
    for (kept, used) in names {
        fs::copy(golden.join(kept), directory.path().join(used)).unwrap();
    }
    let store = UsearchStore::open(patient(directory.path())).await.unwrap();
    let collection = store.shared.loaded(NAME).await.unwrap();
    assert_eq!(collection.read().unwrap().sealed_len(), RECORDS, "the index file is used as it is");
    let records = store.scan(NAME, None, 1_000).await.unwrap().items;
    assert_eq!(records.len(), RECORDS);
    assert_eq!(
        records[7].payload,
        json!({"ten": 7, "half": false, "id": 7, "text": "text of 7"}).as_object().cloned().unwrap()
    );
    let queries: Vec<_> = records.iter().map(|record| query(record.vector.clone(), 1, None)).collect();
    for (record, hits) in records.iter().zip(store.search(NAME, &queries).await.unwrap()) {
        assert_eq!((&hits[0].id, &hits[0].payload), (&record.id, &record.payload));
        assert!((hits[0].score - 1.0).abs() < 1e-5);
    }
    let state = collection.read().unwrap();
    let walked =
        state.sealed.as_ref().unwrap().graph().near(&records[3].vector, 20, None::<fn(usize) -> bool>).unwrap();
    assert!(walked.contains(&3), "the graph of the file is walked");
}
