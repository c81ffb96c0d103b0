//! Commits that fail, files that cannot be read or written for a while, callers that leave, and changes beside a fold.

use std::{
    cell::{Cell, RefCell},
    fs,
    future::poll_fn,
    sync::Arc,
    task::Poll,
};

use sutazai_core::ErrorKind;
use tokio::{runtime::Handle, task::block_in_place};

use super::*;
use crate::vector::fold;

fn ids(range: std::ops::Range<usize>) -> Selector {
    Selector::Ids(range.map(|id| format!("{id:05}")).collect())
}

fn half() -> Option<Filter> {
    Some(Filter::Equals("half".into(), true.into()))
}

#[tokio::test]
async fn a_commit_that_fails_spoils_no_later_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut pair = Pair::open(patient(directory.path())).await;
    pair.upsert(0..10).await;
    let before = pair.store.shared.collection(NAME).await.unwrap();
    let mut writer = pair.store.shared.database.writer().await.unwrap();
    let mut left = 2;
    // A refused commit ends the transaction, as a full disk does.
    writer.connection().unwrap().lock_handle().await.unwrap().set_commit_hook(move || {
        left -= 1;
        left < 0
    });
    writer.roll_back().await;
    drop(writer);
    for _ in 0..2 {
        pair.store.upsert(NAME, Draw::new().records(500..510)).await.unwrap_err();
    }
    let after = pair.store.shared.collection(NAME).await.unwrap();
    assert!(Arc::ptr_eq(&before, &after), "nothing was committed: what is in memory is right");
    pair.upsert(10..20).await;
    pair.delete(ids(0..5)).await;
    pair.agree(None).await;
    // Another connection sees what was committed.
    let mut other = sqlx::sqlite::SqliteConnectOptions::new();
    other = other.filename(directory.path().join("vectors.db")).read_only(true);
    let mut other = sqlx::ConnectOptions::connect(&other).await.unwrap();
    let found: i64 = sqlx::query_scalar("SELECT count(*) FROM records").fetch_one(&mut other).await.unwrap();
    assert_eq!(found, 15);
    let pair = pair.reopened(patient(directory.path()), || {}).await;
    pair.hold_the_same().await;
}

/// Folds, and does something between the moment that the fold begins at and its end.
#[allow(
    clippy::disallowed_methods,
    reason = "the fold is called as it is, with nothing around it that could move to a thread"
)]
async fn folded(pair: &mut Pair, config: &UsearchConfig, meanwhile: impl AsyncFn(&mut Pair)) {
    let collection = pair.store.shared.loaded(NAME).await.unwrap();
    let (pair, once) = (RefCell::new(pair), Cell::new(false));
    let done = block_in_place(|| {
        fold::fold(&collection, config, || {
            if !once.replace(true) {
                Handle::current().block_on(meanwhile(&mut pair.borrow_mut()));
            }
            false
        })
    });
    assert!(done.unwrap() && once.get());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cleared_away_beside_a_fold_takes_nothing_else_along() {
    let directory = tempfile::tempdir().unwrap();
    let config = patient(directory.path());
    let mut pair = Pair::open(config.clone()).await;
    pair.upsert(0..3_000).await;
    folded(&mut pair, &config, async |pair| {
        pair.delete(ids(0..1_000)).await;
        pair.delete(ids(1_200..2_900)).await;
        let slots = pair.store.shared.loaded(NAME).await.unwrap().read().unwrap().len();
        assert!(slots < 1_000, "the dead are cleared away: {slots}");
    })
    .await;
    pair.agree(None).await;
    pair.agree(half()).await;
    let pair = pair.reopened(patient(directory.path()), || {}).await;
    pair.hold_the_same().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_beside_a_fold_keeps_its_fields() {
    let directory = tempfile::tempdir().unwrap();
    let config = patient(directory.path());
    let mut pair = Pair::open(config.clone()).await;
    pair.upsert(0..3_000).await;
    folded(&mut pair, &config, async |pair| {
        pair.delete(ids(600..3_000)).await;
        pair.agree(half()).await; // makes the sets of fields
        pair.upsert(5_000..5_101).await;
    })
    .await;
    pair.agree(half()).await;
    pair.delete(Selector::Matching(half().unwrap())).await;
    pair.agree(None).await;
    pair.hold_the_same().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_cannot_be_read_now_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (file, kept) = (index_file(directory.path()), directory.path().join("kept"));
    let mut pair = Pair::open(patient(directory.path())).await;
    pair.upsert(0..600).await;
    pair.store.build_index(NAME).await.unwrap();
    let pair = pair
        .reopened(patient(directory.path()), || {
            fs::rename(&file, &kept).unwrap();
            // Opening it fails, for as long as it leads in a circle.
            std::os::unix::fs::symlink(&file, &file).unwrap();
        })
        .await;
    let error = pair.store.search(NAME, &[query(vec![1.0; DIMENSION], 1, None)]).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "store_unavailable"), "{error:?}");
    assert!(fs::symlink_metadata(&file).is_ok(), "it is left where it is");
    fs::remove_file(&file).unwrap();
    fs::rename(&kept, &file).unwrap();
    let mut pair = pair;
    pair.agree(None).await;
    let collection = pair.store.shared.loaded(NAME).await.unwrap();
    assert_eq!(collection.read().unwrap().sealed_len(), 600, "the next use tries again");
}

#[tokio::test]
async fn a_load_goes_on_when_its_caller_leaves() {
    let directory = tempfile::tempdir().unwrap();
    let mut pair = Pair::open(patient(directory.path())).await;
    pair.upsert(0..600).await;
    let pair = pair.reopened(patient(directory.path()), || {}).await;
    let collection = pair.store.shared.collection(NAME).await.unwrap();
    {
        let mut load = std::pin::pin!(pair.store.shared.loaded(NAME));
        poll_fn(|context| Poll::Ready(load.as_mut().poll(context).is_ready())).await;
    }
    for _ in 0..6_000 {
        if collection.is_loaded() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody goes on loading");
}

/// Folds of ten records, so that eighty are many.
fn narrow(directory: &Path) -> UsearchConfig {
    let mut config = patient(directory);
    (config.exact_below, config.fold) = (1, 10);
    config
}

#[tokio::test]
async fn an_import_waits_for_the_index() {
    let directory = tempfile::tempdir().unwrap();
    let mut pair = Pair::open(narrow(directory.path())).await;
    for i in 0..30 {
        pair.upsert(i * 30..(i + 1) * 30).await;
        let collection = pair.store.shared.loaded(NAME).await.unwrap();
        let waiting = collection.read().unwrap().tail_live();
        assert!(waiting <= 80 + 30, "{waiting} records are in memory only");
    }
    pair.agree(None).await;
}

#[tokio::test]
async fn an_import_fails_when_the_index_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let pair = Pair::open(narrow(directory.path())).await;
    let obstacle = directory.path().join("vectors-1.tmp");
    fs::create_dir(&obstacle).unwrap();
    let mut draw = Draw::new();
    let mut written = 0;
    let error = loop {
        match pair.store.upsert(NAME, draw.records(written..written + 30)).await {
            Ok(()) => written += 30,
            Err(error) => break error,
        }
        assert!(written < 1_000, "memory grows without bound");
    };
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "store_unavailable"), "{error:?}");
    assert_eq!(pair.store.count(NAME).await.unwrap(), written as u64);
    fs::remove_dir(&obstacle).unwrap();
    pair.store.build_index(NAME).await.unwrap();
    pair.store.upsert(NAME, draw.records(written..written + 30)).await.unwrap();
}
