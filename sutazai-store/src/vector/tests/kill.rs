//! kill -9 while records are written and index files replaced: what was acknowledged is there, and batches are whole.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use super::*;

/// Set for the process that is killed: where it writes, and what its ids begin with.
const DIRECTORY: &str = "SUTAZAI_TEST_VECTORS";
const ROUND: &str = "SUTAZAI_TEST_ROUND";

const ROUNDS: usize = 6;
const BATCH: usize = 40;

/// A batch is deleted when so many have come after it.
const KEPT: usize = 12;

fn busy(directory: &Path) -> UsearchConfig {
    let mut config = UsearchConfig::new(directory);
    (config.exact_below, config.settle) = (50, Duration::ZERO);
    config
}

fn batch(round: &str, number: usize) -> Vec<VectorRecord> {
    let mut draw = Draw(fastrand::Rng::with_seed(number as u64));
    let payload = json!({"batch": format!("{round}-{number}")});
    let payload = payload.as_object().cloned().unwrap_or_default();
    (0..BATCH)
        .map(|i| VectorRecord { id: format!("{round}-{number}-{i}"), vector: draw.vector(), payload: payload.clone() })
        .collect()
}

fn ids(round: &str, number: usize) -> Selector {
    Selector::Ids((0..BATCH).map(|i| format!("{round}-{number}-{i}")).collect())
}

/// Not a test of its own: what `acknowledged_records_survive_kill_9` starts and kills.
#[tokio::test]
async fn the_writer_that_is_killed() {
    let (Ok(directory), Ok(round)) = (std::env::var(DIRECTORY), std::env::var(ROUND)) else { return };
    let store = UsearchStore::open(busy(directory.as_ref())).await.unwrap();
    store.create_collection(NAME, &CollectionSpec { dimension: DIMENSION }).await.unwrap();
    for number in 0.. {
        store.upsert(NAME, batch(&round, number)).await.unwrap();
        let mut out = std::io::stdout();
        writeln!(out, "\nwritten {number}").and_then(|()| out.flush()).unwrap();
        if number >= KEPT {
            assert_eq!(store.delete(NAME, ids(&round, number - KEPT)).await.unwrap(), BATCH as u64);
            writeln!(out, "\ndeleted {}", number - KEPT).and_then(|()| out.flush()).unwrap();
        }
    }
}

#[tokio::test]
async fn acknowledged_records_survive_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..ROUNDS {
        let round = format!("r{round}");
        let (written, deleted) = killed(directory.path(), &round, 20 + random.usize(..60));
        let store = UsearchStore::open(busy(directory.path())).await.unwrap();
        let mut left: BTreeMap<usize, Vec<VectorRecord>> = BTreeMap::new();
        let records = store.scan(NAME, None, usize::MAX - 1).await.unwrap().items;
        assert_eq!(store.count(NAME).await.unwrap(), records.len() as u64);
        for record in records.into_iter().filter(|record| record.id.starts_with(&round)) {
            let number = record.id.split('-').nth(1).and_then(|number| number.parse().ok()).unwrap();
            left.entry(number).or_default().push(record);
        }
        for number in 0..written {
            assert!(
                left.contains_key(&number) || number <= deleted,
                "batch {number} of {round} was acknowledged and is lost"
            );
        }
        for (number, records) in left {
            assert!(number >= deleted, "batch {number} of {round} was deleted and is back");
            assert_eq!(records.len(), BATCH, "batch {number} of {round} is not whole");
            let queries: Vec<_> = records.iter().map(|record| query(record.vector.clone(), 1, None)).collect();
            for (record, hits) in records.iter().zip(store.search(NAME, &queries).await.unwrap()) {
                assert!((hits[0].score - 1.0).abs() < 1e-5, "{} is stored and is not found", record.id);
            }
        }
        store.close().await;
    }
}

/// Runs the writer until it has acknowledged so many batches, and kills it: how many were written and deleted then.
fn killed(directory: &Path, round: &str, after: usize) -> (usize, usize) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["vector::tests::kill::the_writer_that_is_killed", "--exact", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(ROUND, round)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut written, mut deleted) = (0, 0);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(std::io::Result::ok);
    let mut count = |line: String, killed: bool| {
        match line.split_once(' ') {
            Some(("written", number)) => written = number.parse::<usize>().unwrap() + 1,
            Some(("deleted", number)) => deleted = number.parse::<usize>().unwrap() + 1,
            _ => {}
        }
        !killed && written > after
    };
    assert!(lines.any(|line| count(line, false)), "the writer ended by itself");
    child.kill().unwrap();
    child.wait().unwrap();
    for line in lines {
        count(line, true);
    }
    (written, deleted)
}
