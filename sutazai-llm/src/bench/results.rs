//! `benches.json`: what benches found out, kept beside the models for whoever has to choose one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sutazai_core::{Error, ErrorKind, Result, clock::Timestamp, model::ModelInfo};

use super::{machine::Machine, measured::Measured, questions::QUESTIONS_VERSION};
use crate::registry::{Lock, ModelStore, blocking, io_error, write_atomically};

/// The form of the file; another number means another form.
const VERSION: u32 = 1;

/// What a result is about: it says nothing about other weights, another length of context or another machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchKey {
    /// The name of the model when it was measured.
    pub model: String,
    /// The backend that served it.
    pub backend: String,
    /// The digest of its weights, where that is known.
    pub digest: Option<String>,
    /// Tokens of context that it had.
    pub context_length: usize,
    /// Where the bench ran.
    pub machine: Machine,
}

impl BenchKey {
    /// The key of a model as it is served now, on `machine`.
    #[must_use]
    pub fn new(info: &ModelInfo, machine: &Machine) -> Self {
        Self {
            model: info.name.clone(),
            backend: info.backend.clone(),
            digest: info.digest.clone(),
            context_length: info.context_length,
            machine: machine.clone(),
        }
    }

    /// Whether both are about the same: names do not matter where both have a digest.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let weights = match (&self.digest, &other.digest) {
            (Some(one), Some(other)) => one == other,
            (None, None) => self.model == other.model,
            _ => false,
        };
        weights
            && self.backend == other.backend
            && self.context_length == other.context_length
            && self.machine == other.machine
    }
}

/// What a bench found out, about what, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchResult {
    /// What it is about.
    pub key: BenchKey,
    /// When it was measured.
    pub at: Timestamp,
    /// Which [version](QUESTIONS_VERSION) of the questions was asked.
    pub questions: u32,
    /// What was found out.
    pub measured: Measured,
}

impl BenchResult {
    /// A result of the questions that are asked now.
    #[must_use]
    pub fn new(key: BenchKey, at: Timestamp, measured: Measured) -> Self {
        Self { key, at, questions: QUESTIONS_VERSION, measured }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    version: u32,
    results: Vec<BenchResult>,
}

/// The results that a store of models keeps, in the file `benches.json` in its directory.
///
/// A file that cannot be read, or has another form, is left as it is, and every call fails with the code `bench_results_damaged` until somebody has moved
/// it away.
#[derive(Clone, Debug)]
pub struct BenchResults {
    path: PathBuf,
    lock: PathBuf,
}

impl BenchResults {
    /// Those of this store. Touches nothing.
    #[must_use]
    pub fn of(store: &ModelStore) -> Self {
        // No model's directory or lock has these names.
        Self { path: store.root().join("benches.json"), lock: store.root().join(".benches") }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of them; none where nothing was ever measured.
    pub async fn read(&self) -> Result<Vec<BenchResult>> {
        let path = self.path.clone();
        blocking(move || read(&path)).await?
    }

    /// Keeps a result in the place of an earlier one about the same. It is on the disk then, whole; others that write at the same time lose nothing.
    pub async fn put(&self, result: BenchResult) -> Result<()> {
        let lock = Lock::acquire(self.lock.clone(), || {}).await?;
        let path = self.path.clone();
        blocking(move || {
            let _lock = lock;
            let mut results = read(&path)?;
            results.retain(|other| !other.key.is_same(&result.key));
            results.push(result);
            write(&path, results)
        })
        .await?
    }
}

/// The newest result about `key`, of the questions that are asked now.
#[must_use]
pub fn result_of<'a>(results: &'a [BenchResult], key: &BenchKey) -> Option<&'a BenchResult> {
    let fitting = results.iter().filter(|result| result.questions == QUESTIONS_VERSION && result.key.is_same(key));
    fitting.max_by_key(|result| result.at)
}

fn read(path: &Path) -> Result<Vec<BenchResult>> {
    let damaged = || {
        let message = "these are no results of benches in a form that is known; move the file away, and measure again";
        Error::new(ErrorKind::Corrupt, message)
            .with_code("bench_results_damaged")
            .during("read results of benches")
            .about(path.display())
    };
    match fs::read(path) {
        Ok(bytes) => {
            let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| damaged().because(error))?;
            if stored.version == VERSION { Ok(stored.results) } else { Err(damaged()) }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io_error(&error, "read results of benches", path)),
    }
}

fn write(path: &Path, results: Vec<BenchResult>) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(&Stored { version: VERSION, results })
        .map_err(|error| Error::new(ErrorKind::Internal, "the results do not serialise").because(error))?;
    write_atomically(path, &bytes).map_err(|error| io_error(&error, "write results of benches", path))
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::{bench::Marks, tier::Tier};

    fn key(model: &str, digest: Option<&str>) -> BenchKey {
        BenchKey {
            model: model.into(),
            backend: "ollama".into(),
            digest: digest.map(str::to_owned),
            context_length: 4096,
            machine: Machine { cpu: "A Processor".into(), threads: 2 },
        }
    }

    fn result(key: BenchKey, at: i64, right: u32) -> BenchResult {
        let mut measured = Measured {
            prompt_tokens_per_s: Some(512.5),
            generation_tokens_per_s: Some(64.0),
            first_token_ms: None,
            memory_bytes: Some(858_993_459),
            json: Marks::new(7, 8),
            wrong: vec!["sheep".into()],
            ..Measured::default()
        };
        measured.quality.insert(Tier::General, Marks::new(right, 5));
        measured.quality.insert(Tier::Code, Marks::new(1, 5));
        BenchResult::new(key, Timestamp::from_millis(at), measured)
    }

    fn results(directory: &Path) -> BenchResults {
        BenchResults::of(&ModelStore::new(directory))
    }

    #[test]
    fn the_form_on_disk_is_this_one() {
        let golden = include_str!("../../tests/goldens/benches-v1.json");
        let stored: Stored = serde_json::from_str(golden).unwrap();
        let tinyllama = result(key("tinyllama:latest", Some("2644915ede35")), 1_796_083_200_007, 4);
        assert_eq!(stored.results, [tinyllama, result(key("hosted", None), 1_796_083_200_008, 5)]);
        assert_eq!(serde_json::to_string_pretty(&stored).unwrap(), golden.trim_end());
    }

    #[tokio::test]
    async fn a_result_takes_the_place_of_the_one_about_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let results = results(&dir.path().join("models"));
        assert_eq!(results.read().await.unwrap(), []);
        assert!(!dir.path().join("models").exists(), "reading makes nothing");
        let (first, other, again) =
            (result(key("a", Some("1")), 1, 1), result(key("a", Some("2")), 2, 2), result(key("b", Some("1")), 3, 3));
        for result in [&first, &other, &again] {
            results.put(result.clone()).await.unwrap();
        }
        assert_eq!(results.read().await.unwrap(), [other, again]);
        let names: Vec<_> =
            fs::read_dir(dir.path().join("models")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "the results and their lock: {names:?}");
    }

    #[tokio::test]
    async fn those_who_write_at_the_same_time_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let results = results(dir.path());
        let puts = (0..4_u32).map(|number| results.put(result(key(&number.to_string(), None), 1, number)));
        join_all(puts).await.into_iter().for_each(|put| put.unwrap());
        assert_eq!(results.read().await.unwrap().len(), 4);
    }

    #[tokio::test]
    async fn a_damaged_file_is_named_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let results = results(dir.path());
        for text in ["", "{", "[]", r#"{"version":2,"results":[]}"#, r#"{"version":1,"results":[{}]}"#] {
            fs::write(results.path(), text).unwrap();
            let read = results.read().await.unwrap_err();
            let put = results.put(result(key("a", None), 1, 1)).await.unwrap_err();
            for error in [read, put] {
                assert_eq!((error.kind(), error.code()), (ErrorKind::Corrupt, "bench_results_damaged"));
                assert!(error.to_string().contains("benches.json"), "{error}");
            }
            assert_eq!(fs::read_to_string(results.path()).unwrap(), text);
        }
    }

    #[test]
    fn a_result_is_about_weights_context_and_machine() {
        let found =
            |results: &[BenchResult], key: &BenchKey| result_of(results, key).map(|result| result.at.as_millis());
        let stored = [
            result(key("a", Some("1")), 1, 1),
            result(key("hosted", None), 2, 1),
            BenchResult { questions: QUESTIONS_VERSION + 1, ..result(key("new", Some("9")), 3, 1) },
        ];
        assert_eq!(found(&stored, &key("another name", Some("1"))), Some(1));
        assert_eq!(found(&stored, &key("hosted", None)), Some(2));
        for other in [
            key("a", Some("2")),
            key("a", None),
            key("hosted", Some("3")),
            key("other", None),
            key("new", Some("9")),
            BenchKey { context_length: 2048, ..key("a", Some("1")) },
            BenchKey { backend: "local".into(), ..key("a", Some("1")) },
            BenchKey { machine: Machine { cpu: "A Processor".into(), threads: 4 }, ..key("a", Some("1")) },
        ] {
            assert_eq!(found(&stored, &other), None, "{other:?}");
        }
    }
}
