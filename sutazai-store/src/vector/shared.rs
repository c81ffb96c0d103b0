//! What the store and its background work share: the database, the collections, and the rule of who changes what.
//!
//! Whoever holds the writing connection is the only one that changes anything. A collection is loaded before it is first
//! written to, and memory follows each commit before the connection is given back: memory is never behind.

use std::{
    collections::HashMap,
    fs::File,
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
    database::{self, Database, NewRow},
    error::{Failure, Told},
    fold,
    similarity::normalise,
    state::Texts,
    whole,
};
use crate::{lock, sqlite::writer::Lease};

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
        let made = blocking(move || Ok(std::fs::create_dir_all(&directory))).await?;
        made.told("open vectors", &config.directory.display())?;
        let lock = lock::hold(config.directory.join("vectors.lock"), false).await;
        // Memory and files are this process's alone.
        let lock = lock.told("lock vectors", &config.directory.display())?.ok_or_else(|| {
            let message = "another process has these vectors open: stop it or use another directory";
            let error = Error::new(ErrorKind::Unavailable, message).with_code("vectors_in_use");
            error.during("open vectors").about(config.directory.display())
        })?;
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
    pub(super) async fn loaded(self: &Arc<Self>, name: &str) -> Result<Arc<Collection>> {
        let collection = self.collection(name).await?;
        if !collection.is_loaded() {
            // Goes on if the caller leaves, or impatient callers would have it begin again and again.
            let (shared, loading) = (self.clone(), collection.clone());
            whole(async move { loading.load(&shared.database, &shared.config).await }).await?;
            self.wake_if_due(&collection);
        }
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
    async fn resolve(&self, _held: &Lease, name: &str) -> Result<Arc<Collection>> {
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
        let identity = database::create(&mut writer, &name, spec.dimension).await;
        let identity = identity.map_err(|failure| failure.told("create collection", &name))?;
        match identity {
            Some(identity) if identity.dimension != spec.dimension => {
                Err(CollectionSpec { dimension: identity.dimension }.conflict(&name))
            }
            _ => self.resolve(&writer, &name).await.map(|_| ()),
        }
    }

    pub(super) async fn drop_collection(&self, name: String) -> Result<()> {
        let mut writer = self.database.writer().await?;
        let number = self.sure(&name, database::drop(&mut writer, &name).await)?;
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

    pub(super) async fn upsert(self: &Arc<Self>, name: String, records: Vec<VectorRecord>) -> Result<()> {
        let spec = CollectionSpec { dimension: records.first().map_or(0, |record| record.vector.len()) };
        self.relieve(&name).await?;
        let Ready { rows, came } = blocking(move || Ok(ready(records))).await?;
        let mut writer = self.database.writer().await?;
        let collection = self.resolve(&writer, &name).await?;
        if collection.spec() != spec {
            return Err(collection.spec().conflict(&name));
        }
        collection.load(&self.database, &self.config).await?;
        let (gone, first) = self.sure(&name, database::upsert(&mut writer, collection.identity, rows).await)?;
        self.follow(&collection, gone, first, came).await?;
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
        let number = gone.len() as u64;
        self.follow(&collection, gone, 0, Vec::new()).await?;
        drop(writer);
        self.wake_if_due(&collection);
        Ok(number)
    }

    /// Lets memory follow a commit.
    async fn follow(
        &self,
        collection: &Arc<Collection>,
        gone: Vec<i64>,
        first: i64,
        came: Vec<(Texts, Vec<f32>)>,
    ) -> Result<()> {
        let changed = collection.clone();
        let followed = blocking(move || {
            changed.change(|state| state.apply(&gone, first, came));
            Ok(())
        });
        // What may be half done is loaded anew at its next use.
        followed.await.inspect_err(|_| drop(self.cache().remove(&collection.name)))
    }

    /// Records come no faster than they can be folded: where memory holds all that it should, whoever brings more waits for that.
    async fn relieve(self: &Arc<Self>, name: &str) -> Result<()> {
        let collection = self.loaded(name).await?;
        if !collection.is_full() {
            return Ok(());
        }
        if let Some(left) = collection.backoff().left(Instant::now()) {
            let message = "too many records wait for the vector index, which could not be written: see the log";
            return Err(Error::new(ErrorKind::Unavailable, message)
                .with_code("store_unavailable")
                .during("write vectors")
                .about(name)
                .retry_after(left));
        }
        let (shared, filled) = (self.clone(), collection.clone());
        self.fold(&collection, false, move || shared.stop.load(Ordering::Relaxed) || !filled.is_full()).await
    }

    /// Writes the index of a collection anew where it is due, or with `all`, until it holds everything it may.
    pub(super) async fn fold(
        &self,
        collection: &Arc<Collection>,
        all: bool,
        stop: impl Fn() -> bool + Clone + Send + 'static,
    ) -> Result<()> {
        let permit = self.folds.clone().acquire_owned().await;
        let (folded, config) = (collection.clone(), self.config.clone());
        let outcome = blocking(move || {
            let _permit = permit;
            let wanted = if all { fold::is_possible } else { fold::is_due };
            while !stop() && folded.read().is_some_and(|state| wanted(&state)) {
                if !fold::fold(&folded, &config, &stop)? {
                    break;
                }
            }
            Ok(())
        });
        let outcome = outcome.await;
        match &outcome {
            Ok(()) => collection.backoff().succeeded(),
            Err(_) => collection.backoff().failed(Instant::now()),
        }
        outcome.map_err(|error| error.during("write vector index").about(&collection.name))
    }

    /// Folds what is due, but what failed lately only at the end, when `until` says when to stop. Says when to come again for that.
    pub(super) async fn fold_due(self: &Arc<Self>, until: Option<Instant>) -> Option<Duration> {
        let collections: Vec<_> = self.cache().values().filter(|known| known.is_due()).cloned().collect();
        for collection in &collections {
            if until.is_none() && collection.backoff().left(Instant::now()).is_some() {
                continue;
            }
            let shared = self.clone();
            let stop = move || match until {
                Some(until) => Instant::now() >= until,
                None => shared.stop.load(Ordering::Relaxed),
            };
            if let Err(error) = self.fold(collection, false, stop).await {
                tracing::warn!(
                    collection = collection.name,
                    error = error.report(),
                    "the vector index could not be written"
                );
            }
        }
        collections.iter().filter_map(|collection| collection.backoff().left(Instant::now())).min()
    }

    fn wake_if_due(&self, collection: &Collection) {
        if collection.is_due() {
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
