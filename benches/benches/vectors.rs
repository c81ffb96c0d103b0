//! How well and how quickly are the ten nearest of 100,000 vectors found?
//!
//! The vectors lie around 200 centres, with seed 42; the queries are drawn in the same way and are none of them. Figures
//! come from the public API of the store, payloads included, one caller at a time, with everything in the index. The peer
//! is HNSW of faiss-cpu on the same vectors, where `benches/peers/faiss/install.sh` was run.

use std::{
    error::Error,
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};
use sutazai_benches::{disk::directory, figures::Figure, notes::peer};
use sutazai_core::store::{CollectionSpec, VectorQuery, VectorRecord, VectorStore};
use sutazai_store::vector::{UsearchConfig, UsearchStore};

const DIMENSION: usize = 384;
const RECORDS: usize = 100_000;
const QUERIES: usize = 1_000;
const CENTRES: usize = 200;
const NOISE: f64 = 0.7;
const SEED: u64 = 42;
const LIMIT: usize = 10;
const BATCH: usize = 1_000;

/// Searches before the clock runs, so that pages and processors are awake.
const WARM_UP: usize = 100;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut draw = Draw::new();
    let (records, queries) = (draw.vectors(RECORDS), draw.vectors(QUERIES));
    let lengths: Vec<f64> = records.iter().map(|record| length(record)).collect();
    let truth: Vec<Vec<u32>> = parallel(&queries, |query| nearest(&records, &lengths, query));
    let directory = directory()?;
    let ours = measure(directory.path(), &records, &queries, &truth).await?;
    let peer = peer("vectors", "faiss", faiss(directory.path(), &records, &queries, &truth));
    let of = |case: &str| peer.as_ref().and_then(|peer| peer.get(case)?.as_f64());
    for (case, value, unit) in [
        ("recall_at_10", ours.recall, "ratio"),
        ("p50", micros(ours.p50), "us"),
        ("p99", micros(ours.p99), "us"),
        ("upsert", ours.upsert, "records/s"),
        ("build", ours.build.as_secs_f64(), "s"),
    ] {
        Figure::new("vectors", case, value, unit).against("faiss", of(case)).print();
    }
    Ok(())
}

struct Measured {
    recall: f64,
    p50: Duration,
    p99: Duration,
    upsert: f64,
    build: Duration,
}

async fn measure(
    directory: &Path,
    records: &[Vec<f32>],
    queries: &[Vec<f32>],
    truth: &[Vec<u32>],
) -> Outcome<Measured> {
    let mut config = UsearchConfig::new(directory);
    config.build_threads = threads();
    // Nothing is built beside the upserts, whose speed is a figure of its own.
    config.settle = Duration::from_secs(3_600);
    let store = UsearchStore::open(config).await?;
    store.create_collection("bench", &CollectionSpec { dimension: DIMENSION }).await?;
    let began = Instant::now();
    for (i, batch) in records.chunks(BATCH).enumerate() {
        let batch = batch.iter().zip(i * BATCH..).map(|(vector, id)| record(id, vector)).collect();
        store.upsert("bench", batch).await?;
    }
    let upsert = records.len() as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    store.build_index("bench").await?;
    let build = began.elapsed();
    for query in &queries[..WARM_UP] {
        store.search("bench", &[self::query(query)]).await?;
    }
    let (mut times, mut hits) = (Vec::with_capacity(queries.len()), 0);
    for (vector, expected) in queries.iter().zip(truth) {
        let query = [query(vector)];
        let began = Instant::now();
        let found = store.search("bench", &query).await?;
        times.push(began.elapsed());
        hits += found[0].iter().filter(|hit| hit.id.parse().is_ok_and(|id: u32| expected.contains(&id))).count();
    }
    store.close().await;
    times.sort_unstable();
    let recall = hits as f64 / (queries.len() * LIMIT) as f64;
    Ok(Measured { recall, p50: times[times.len() / 2], p99: times[times.len() * 99 / 100], upsert, build })
}

fn record(id: usize, vector: &[f32]) -> VectorRecord {
    let payload = Map::from_iter([
        ("path".to_owned(), Value::from(format!("docs/{}.md", id / 10))),
        ("chunk".to_owned(), Value::from(id % 10)),
    ]);
    VectorRecord { id: id.to_string(), vector: vector.to_vec(), payload }
}

fn query(vector: &[f32]) -> VectorQuery {
    VectorQuery { vector: vector.to_vec(), limit: LIMIT, filter: None }
}

/// What the peer printed, where it is installed.
fn faiss(directory: &Path, records: &[Vec<f32>], queries: &[Vec<f32>], truth: &[Vec<u32>]) -> Outcome<Value> {
    let peer = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/faiss");
    let python = peer.join("venv/bin/python");
    if !python.exists() {
        return Err("it is not installed; benches/peers/faiss/install.sh does".into());
    }
    let [records_at, queries_at, truth_at] = ["records", "queries", "truth"].map(|name| directory.join(name));
    fs::write(&records_at, records.iter().flatten().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
    fs::write(&queries_at, queries.iter().flatten().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
    fs::write(&truth_at, truth.iter().flatten().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
    let numbers = [DIMENSION.to_string(), threads().to_string()];
    let output = Command::new(python)
        .arg(peer.join("run.py"))
        .args([records_at, queries_at, truth_at])
        .args(numbers)
        .output()?;
    if !output.status.success() {
        return Err(format!("it failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Vectors of unit length around centres of unit length.
struct Draw {
    random: fastrand::Rng,
    centres: Vec<Vec<f64>>,
}

impl Draw {
    fn new() -> Self {
        let mut draw = Self { random: fastrand::Rng::with_seed(SEED), centres: Vec::new() };
        draw.centres = (0..CENTRES).map(|_| unit((0..DIMENSION).map(|_| draw.gaussian()).collect())).collect();
        draw
    }

    fn vectors(&mut self, count: usize) -> Vec<Vec<f32>> {
        (0..count).map(|_| self.vector()).collect()
    }

    fn vector(&mut self) -> Vec<f32> {
        let centre = self.centres[self.random.usize(..CENTRES)].clone();
        let deviation = NOISE / (DIMENSION as f64).sqrt();
        let noisy = centre.into_iter().map(|x| x + deviation * self.gaussian()).collect();
        unit(noisy).into_iter().map(|x| x as f32).collect()
    }

    /// Box and Muller's.
    fn gaussian(&mut self) -> f64 {
        let (radius, angle) = (1.0 - self.random.f64(), self.random.f64());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }
}

fn unit(vector: Vec<f64>) -> Vec<f64> {
    let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    vector.into_iter().map(|x| x / length).collect()
}

/// The exact answer, in double precision: as 32-bit floats the vectors are only nearly of unit length.
fn nearest(records: &[Vec<f32>], lengths: &[f64], query: &[f32]) -> Vec<u32> {
    let dot = |record: &[f32]| record.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosines = records.iter().zip(lengths).map(|(record, length)| dot(record) / length);
    let mut scored: Vec<(f64, u32)> = cosines.zip(0..).collect();
    scored.select_nth_unstable_by(LIMIT, |a, b| b.0.total_cmp(&a.0));
    scored[..LIMIT].iter().map(|(_, id)| *id).collect()
}

fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt()
}

fn parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let share = items.len().div_ceil(threads());
    thread::scope(|scope| {
        let parts: Vec<_> =
            items.chunks(share).map(|part| scope.spawn(|| part.iter().map(&work).collect::<Vec<_>>())).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap_or_default()).collect()
    })
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
