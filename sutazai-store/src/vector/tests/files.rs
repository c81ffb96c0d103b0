//! Index files that are damaged, old, too new or somebody else's are never believed, and nothing is lost by it.

use std::fs;

use sutazai_core::ErrorKind;

use super::*;

/// A closed store with 600 records and an index of all of them.
async fn indexed(directory: &Path) -> Pair {
    let mut pair = Pair::open(patient(directory)).await;
    pair.upsert(0..600).await;
    pair.store.build_index(NAME).await.unwrap();
    pair
}

fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    fs::copy(from, to).unwrap();
}

async fn sealed(pair: &Pair) -> usize {
    pair.store.shared.loaded(NAME).await.unwrap().read().unwrap().sealed_len()
}

#[tokio::test]
async fn a_good_file_is_used_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let mut pair = indexed(directory.path()).await.reopened(patient(directory.path()), || {}).await;
    assert!(pair.store.shared.collection(NAME).await.unwrap().read().is_none(), "nothing is loaded before it is used");
    assert_eq!(sealed(&pair).await, 600);
    pair.agree(None).await;
    pair.upsert(590..700).await;
    let mut pair = pair.reopened(patient(directory.path()), || {}).await;
    assert_eq!(sealed(&pair).await, 710, "closing writes what is due, the replaced ten included");
    pair.agree(None).await;
    pair.hold_the_same().await;
}

#[tokio::test]
async fn a_damaged_file_is_rebuilt() {
    let directory = tempfile::tempdir().unwrap();
    let file = index_file(directory.path());
    let mut pair = indexed(directory.path()).await;
    let length = fs::metadata(&file).unwrap().len() as usize;
    type Damage = Box<dyn Fn(&mut Vec<u8>)>;
    let mut damages: Vec<Damage> = vec![
        Box::new(|bytes| bytes.clear()),
        Box::new(|bytes| bytes.truncate(40)),
        Box::new(|bytes| bytes.truncate(bytes.len() / 2)),
        Box::new(|bytes| bytes.truncate(bytes.len() - 1)),
        Box::new(|bytes| bytes.push(0)),
        Box::new(|bytes| bytes.iter_mut().for_each(|byte| *byte = 0)),
    ];
    for at in [0, 9, 17, 33, 57, 70, 4_000, length / 2, length - 1_000, length - 1] {
        damages.push(Box::new(move |bytes| bytes[at] ^= 0x10));
    }
    for damage in damages {
        pair = pair
            .reopened(patient(directory.path()), || {
                let mut bytes = fs::read(&file).unwrap();
                damage(&mut bytes);
                fs::write(&file, bytes).unwrap();
            })
            .await;
        assert_eq!(sealed(&pair).await, 0, "a damaged file must not be believed");
        pair.agree(None).await;
        pair.store.build_index(NAME).await.unwrap();
        assert_eq!(sealed(&pair).await, 600);
    }
    pair.hold_the_same().await;
}

#[tokio::test]
async fn an_older_file_is_caught_up_with() {
    let directory = tempfile::tempdir().unwrap();
    let (file, older) = (index_file(directory.path()), directory.path().join("older"));
    let mut pair = indexed(directory.path()).await;
    fs::copy(&file, &older).unwrap();
    pair.upsert(300..900).await;
    pair.delete(Selector::Ids((0..50).map(|id| format!("{id:05}")).collect())).await;
    pair.store.build_index(NAME).await.unwrap();
    let mut pair = pair.reopened(patient(directory.path()), || copy(&older, &file)).await;
    assert_eq!(sealed(&pair).await, 600, "what an older file holds is right, as far as it goes");
    pair.agree(None).await;
    pair.store.build_index(NAME).await.unwrap();
    pair.agree(None).await;
    pair.hold_the_same().await;
}

#[tokio::test]
async fn a_file_ahead_of_a_restored_database_is_rebuilt() {
    let directory = tempfile::tempdir().unwrap();
    let (database, backup) = (directory.path().join("vectors.db"), directory.path().join("backup"));
    let pair = indexed(directory.path()).await;
    let pair = pair.reopened(patient(directory.path()), || copy(&database, &backup)).await;
    let more = Draw::new().records(600..900);
    pair.store.upsert(NAME, more).await.unwrap();
    pair.store.build_index(NAME).await.unwrap();
    let mut pair = pair.reopened(patient(directory.path()), || copy(&backup, &database)).await;
    assert_eq!(sealed(&pair).await, 0);
    pair.agree(None).await;
    pair.hold_the_same().await;
}

#[tokio::test]
async fn a_file_of_another_database_is_rebuilt() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pair = indexed(directory.path()).await;
    let mut another = Pair::open(patient(other.path())).await;
    another.upsert(10_000..10_600).await;
    another.store.build_index(NAME).await.unwrap();
    let take = || copy(index_file(other.path()), index_file(directory.path()));
    let mut pair = pair.reopened(patient(directory.path()), take).await;
    assert_eq!(sealed(&pair).await, 0);
    pair.agree(None).await;
}

#[tokio::test]
async fn files_of_nobody_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let pair = indexed(directory.path()).await;
    let [unfinished, orphan, foreign] =
        ["vectors-1.tmp", "vectors-99.index", "vectors-mine.txt"].map(|name| directory.path().join(name));
    let leave = || [&unfinished, &orphan, &foreign].into_iter().for_each(|path| fs::write(path, "left").unwrap());
    let pair = pair.reopened(patient(directory.path()), leave).await;
    assert!(!unfinished.exists() && !orphan.exists() && foreign.exists());
    assert!(index_file(directory.path()).exists());
    pair.store.drop_collection(NAME).await.unwrap();
    assert!(!index_file(directory.path()).exists(), "a dropped collection leaves no file");
}

#[tokio::test]
async fn a_newer_layout_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = UsearchStore::open(directory.path()).await.unwrap();
    let mut writer = store.shared.database.writer().await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 2").execute(writer.connection().unwrap()).await.unwrap();
    drop(writer);
    store.close().await;
    drop(store);
    let error = UsearchStore::open(directory.path()).await.err().unwrap();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unsupported, "newer_layout"), "{error:?}");
}

#[tokio::test]
async fn a_second_store_on_a_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let first = UsearchStore::open(directory.path()).await.unwrap();
    let error = UsearchStore::open(directory.path()).await.err().unwrap();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "vectors_in_use"), "{error:?}");
    drop(first);
    UsearchStore::open(directory.path()).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_cannot_be_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "no directory").unwrap();
    let error = UsearchStore::open(file.as_path()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    fs::write(directory.path().join("vectors.db"), "no database, and longer than a page header".repeat(200)).unwrap();
    let error = UsearchStore::open(directory.path()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let pair = indexed(directory.path()).await;
    pair.store.close().await;
    let late = VectorRecord { id: "late".into(), vector: vec![1.0; DIMENSION], payload: no_payload() };
    let error = pair.store.upsert(NAME, vec![late]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}
