//! What the store and its background work share: the database, the collections, and the rule of who changes what.
//!
//! Whoever holds the writing connection is the only one that changes anything. A collection is loaded before it is first
//! written to, and memory follows each commit before the connection is given back: memory is never behind.

use std::{
    collections::HashMap,
    fs::{File, TryLockError},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sutazai_core::{
    Error, ErrorKind, Result,
    store::{CollectionSpec, Selector, VectorRecord},
};
use tokio::sync::{Notify, Semaphore};

use super::{
    UsearchConfig, blocking,
    collection::{self, Collection},
    database::{self, Database, NewRow, Writer},
    error::{Failure, Told},
    fold,
    similarity::normalise,
    state::Texts,
};

/// How long to wait for a process that is about to end to let go of the directory.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Shared {
    pub(super) config: Arc<UsearchConfig>,
    pub(super) database: Database,
    /// Searches under way; as many as the graphs have room for.
    pub(super) searches: Arc<Semaphore>,
    /// Says that something may be due for folding.
    pub(super) wake: Arc<Notify>,
    pub(super) stop: AtomicBool,
    collections: Mutex<HashMap<String, Arc<Collection>>>,
    /// One fold at a time: it takes processors and memory.
    folds: Arc<Semaphore>,
    /// Held for as long as any part of the store lives.
    _lock: File,
}

/// Records made ready to be written.
struct Ready {
    rows: Vec<NewRow>,
    came: Vec<(Texts, Vec<f32>)>,
}

impl Shared {
    pub(super) async fn open(config: UsearchConfig) -> Result<Self> {
        let config = Arc::new(config);
        let directory = config.directory.clone();
        let lock = blocking(move || {
            Ok(std::fs::create_dir_all(&directory).and_then(|()| File::create(directory.join("vectors.lock"))))
        })
        .await?;
        let lock = lock.told("open vectors", &config.directory.display())?;
        held(&lock, &config.directory).await?;
        let database = Database::open(&config.directory.join("vectors.db")).await?;
        let (directory, numbers) = (config.directory.clone(), database.numbers().await?);
        blocking(move || {
            sweep(&directory, &numbers);
            Ok(())
        })
        .await?;
        Ok(Self {
            searches: Arc::new(Semaphore::new(config.search_threads.max(1))),
            wake: Arc::default(),
            stop: AtomicBool::new(false),
            collections: Mutex::default(),
            folds: Arc::new(Semaphore::new(1)),
            config,
            database,
            _lock: lock,
        })
    }

    /// The collection of that name, loaded.
    pub(super) async fn loaded(&self, name: &str) -> Result<Arc<Collection>> {
        let collection = self.collection(name).await?;
        collection.load(&self.database, &self.config).await?;
        self.wake_if_due(&collection);
        Ok(collection)
    }

    /// The collection of that name.
    pub(super) async fn collection(&self, name: &str) -> Result<Arc<Collection>> {
        let known = self.cache().get(name).cloned();
        match known {
            Some(collection) => Ok(collection),
            None => self.resolve(&self.database.writer().await?, name).await,
        }
    }

    /// The collection of that name as of now: nobody can drop it while the writer is held.
    async fn resolve(&self, _held: &Writer, name: &str) -> Result<Arc<Collection>> {
        if let Some(collection) = self.cache().get(name) {
            return Ok(collection.clone());
        }
        let identity = self.database.find(name).await?.ok_or_else(|| not_found(name))?;
        let collection = Arc::new(Collection::new(name, identity));
        self.cache().insert(name.to_owned(), collection.clone());
        Ok(collection)
    }

    pub(super) async fn create(&self, name: String, spec: CollectionSpec) -> Result<()> {
        let mut writer = self.database.writer().await?;
        let identity = database::create(&mut writer, &name, spec.dimension).await?;
        match identity {
            Some(identity) if identity.dimension != spec.dimension => {
                Err(CollectionSpec { dimension: identity.dimension }.conflict(&name))
            }
            _ => self.resolve(&writer, &name).await.map(|_| ()),
        }
    }

    pub(super) async fn drop_collection(&self, name: String) -> Result<()> {
        let mut writer = self.database.writer().await?;
        let number = database::drop(&mut writer, &name).await?;
        if let Some(collection) = self.cache().remove(&name) {
            collection.bury();
        }
        if let Some(number) = number {
            let path = collection::file(&self.config.directory, number);
            blocking(move || {
                let _ = std::fs::remove_file(path); // what is left is swept at the next start
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn upsert(&self, name: String, records: Vec<VectorRecord>) -> Result<()> {
        let spec = CollectionSpec { dimension: records.first().map_or(0, |record| record.vector.len()) };
        let Ready { rows, came } = blocking(move || Ok(ready(records))).await?;
        let mut writer = self.database.writer().await?;
        let collection = self.resolve(&writer, &name).await?;
        if collection.spec() != spec {
            return Err(collection.spec().conflict(&name));
        }
        collection.load(&self.database, &self.config).await?;
        let (gone, first) = self.sure(&name, database::upsert(&mut writer, collection.identity, rows).await)?;
        if let Some(mut state) = collection.write() {
            state.apply(&gone, first, came);
        }
        drop(writer);
        self.wake_if_due(&collection);
        Ok(())
    }

    pub(super) async fn delete(&self, name: String, selector: Selector) -> Result<u64> {
        let mut writer = self.database.writer().await?;
        let collection = self.resolve(&writer, &name).await?;
        collection.load(&self.database, &self.config).await?;
        let ids = match selector {
            Selector::Ids(ids) => ids.into_iter().map(Arc::from).collect(),
            Selector::Matching(filter) => {
                let collection = collection.clone();
                blocking(move || {
                    let state = collection.read();
                    let ids = state.iter().flat_map(|state| {
                        let slots = state.matching(&filter);
                        slots.range(0..state.len()).map(|slot| Arc::from(state.record(slot).id)).collect::<Vec<_>>()
                    });
                    Ok(ids.collect::<Vec<Arc<str>>>())
                })
                .await?
            }
        };
        let gone = self.sure(&name, database::delete(&mut writer, collection.identity, ids).await)?;
        if let Some(mut state) = collection.write() {
            state.apply(&gone, 0, Vec::new());
        }
        drop(writer);
        self.wake_if_due(&collection);
        Ok(gone.len() as u64)
    }

    /// Writes the index of a collection anew where it is due, or with `all`, until it holds everything it may.
    pub(super) async fn fold(
        &self,
        collection: &Arc<Collection>,
        all: bool,
        stop: impl Fn() -> bool + Clone + Send + 'static,
    ) -> Result<()> {
        let permit = self.folds.clone().acquire_owned().await;
        let (collection, config) = (collection.clone(), self.config.clone());
        blocking(move || {
            let _permit = permit;
            let wanted = if all { fold::is_possible } else { fold::is_due };
            while !stop() && collection.read().is_some_and(|state| wanted(&state)) {
                if !fold::fold(&collection, &config, &stop)? {
                    break;
                }
            }
            Ok(())
        })
        .await
        .map_err(|error| error.during("write vector index"))
    }

    /// Folds what is due; what fails is tried again when more comes.
    pub(super) async fn fold_due(self: &Arc<Self>, until: Option<Instant>) {
        let collections: Vec<_> = self.cache().values().cloned().collect();
        for collection in collections {
            let shared = self.clone();
            let stop = move || match until {
                Some(until) => Instant::now() >= until,
                None => shared.stop.load(Ordering::Relaxed),
            };
            if let Err(error) = self.fold(&collection, false, stop).await {
                tracing::warn!(
                    collection = collection.name,
                    error = error.report(),
                    "the vector index could not be written"
                );
            }
        }
    }

    fn wake_if_due(&self, collection: &Collection) {
        if collection.read().is_some_and(|state| fold::is_due(&state)) {
            self.wake.notify_one();
        }
    }

    /// After a commit of unknown outcome what is in memory is loaded anew at its next use.
    fn sure<T>(&self, name: &str, outcome: Result<T, Failure>) -> Result<T> {
        if let Err(Failure::Unsure(_)) = &outcome {
            self.cache().remove(name);
        }
        outcome.map_err(|failure| failure.told("write vectors", &name))
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<String, Arc<Collection>>> {
        self.collections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, "there is no such collection: create it first")
        .with_code("collection_not_found")
        .about(name)
}

/// Of two records with one id only the later is made ready.
fn ready(records: Vec<VectorRecord>) -> Ready {
    let last: HashMap<String, usize> = records.iter().enumerate().map(|(i, record)| (record.id.clone(), i)).collect();
    let mut made = Ready { rows: Vec::with_capacity(last.len()), came: Vec::with_capacity(last.len()) };
    for (i, VectorRecord { id, mut vector, payload }) in records.into_iter().enumerate() {
        if last.get(&id) == Some(&i) {
            let bytes = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            normalise(&mut vector);
            let texts = Texts { id: id.into(), payload: serde_json::Value::Object(payload).to_string().into() };
            made.rows.push(NewRow { id: texts.id.clone(), payload: texts.payload.clone(), vector: bytes });
            made.came.push((texts, vector));
        }
    }
    made
}

/// Memory and files are this process's alone, so another one on the directory is refused.
async fn held(lock: &File, directory: &Path) -> Result<()> {
    let began = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_WAIT => tokio::time::sleep(LOCK_PAUSE).await,
            Err(TryLockError::WouldBlock) => {
                let message = "another process has these vectors open: stop it or use another directory";
                let error = Error::new(ErrorKind::Unavailable, message).with_code("vectors_in_use");
                return Err(error.during("open vectors").about(directory.display()));
            }
            Err(TryLockError::Error(error)) => return Err(error).told("lock vectors", &directory.display()),
        }
    }
}

/// Removes index files that were never finished or whose collection is no more.
fn sweep(directory: &Path, numbers: &[i64]) {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for name in names.map(|entry| entry.file_name()) {
        let rest = name.to_str().and_then(|name| name.strip_prefix("vectors-")?.rsplit_once('.'));
        let stale = match rest {
            Some((_, "tmp")) => true,
            Some((number, "index")) => number.parse().is_ok_and(|number| !numbers.contains(&number)),
            _ => false,
        };
        if stale {
            let _ = std::fs::remove_file(directory.join(&name));
        }
    }
}
