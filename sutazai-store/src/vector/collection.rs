//! One collection: its name, its row in the database, and its state once it is used.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use sutazai_core::{Result, store::CollectionSpec};
use tokio::sync::OnceCell;

use super::{
    UsearchConfig,
    bits::Bits,
    blocking,
    database::{Database, Identity, first_key},
    error::Failure,
    sealed::Sealed,
    state::{State, Tail, Texts},
};

/// A collection that exists.
pub(super) struct Collection {
    pub(super) name: String,
    pub(super) identity: Identity,
    state: OnceCell<RwLock<State>>,
    dropped: AtomicBool,
}

impl Collection {
    pub(super) fn new(name: &str, identity: Identity) -> Self {
        Self { name: name.to_owned(), identity, state: OnceCell::new(), dropped: AtomicBool::new(false) }
    }

    pub(super) fn spec(&self) -> CollectionSpec {
        CollectionSpec { dimension: self.identity.dimension }
    }

    pub(super) fn file(&self, config: &UsearchConfig) -> PathBuf {
        file(&config.directory, self.identity.number)
    }

    /// Marks it as dropped, so that nobody writes its file again.
    pub(super) fn bury(&self) {
        self.dropped.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::SeqCst)
    }

    /// Nothing before [`Collection::load`]. A panic elsewhere leaves at worst what the next load mends.
    pub(super) fn read(&self) -> Option<RwLockReadGuard<'_, State>> {
        self.state.get().map(|state| state.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn write(&self) -> Option<RwLockWriteGuard<'_, State>> {
        self.state.get().map(|state| state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the index file and what the database has beyond it, once.
    pub(super) async fn load(&self, database: &Database, config: &Arc<UsearchConfig>) -> Result<()> {
        self.state.get_or_try_init(|| self.loaded(database, config)).await.map(|_| ())
    }

    async fn loaded(&self, database: &Database, config: &Arc<UsearchConfig>) -> Result<RwLock<State>> {
        let identity = self.identity;
        let (keys, last) = database.keys(identity).await?;
        let (path, name, config) = (self.file(config), self.name.clone(), config.clone());
        let exact_below = config.exact_below;
        let (sealed, mut alive) = blocking(move || Ok(sealed(&path, &name, identity, &config, &keys, last))).await?;
        let after =
            sealed.as_ref().and_then(|sealed| sealed.keys().last().copied()).unwrap_or(first_key(identity.number));
        let mut tail = Tail::default();
        database
            .after(identity, after, |record| {
                tail.push(record.key, Texts { id: record.id, payload: record.payload }, &record.vector);
                alive.push(true);
            })
            .await?;
        let behind = tail.keys.len();
        if sealed.is_some() && behind >= exact_below {
            tracing::warn!(
                collection = self.name,
                records = behind,
                "the vector index is behind the database: it catches up"
            );
        }
        let dimension = identity.dimension;
        let sealed = sealed.map(Arc::new);
        Ok(RwLock::new(State { dimension, exact_below, sealed, tail, alive, fields: OnceLock::new() }))
    }
}

/// Where the index of the collection of that number lies.
pub(super) fn file(directory: &Path, number: i64) -> PathBuf {
    directory.join(format!("vectors-{number}.index"))
}

/// The index file with the slots of it that still count. One that cannot be used is removed: the records are elsewhere.
fn sealed(
    path: &Path,
    name: &str,
    of: Identity,
    config: &UsearchConfig,
    keys: &[i64],
    last: i64,
) -> (Option<Sealed>, Bits) {
    let opened = Sealed::open(path, of, config)
        .and_then(|sealed| sealed.map(|sealed| living(&sealed, keys, last).map(|alive| (sealed, alive))).transpose());
    match opened {
        Ok(Some((sealed, alive))) => (Some(sealed), alive),
        Ok(None) => (None, Bits::default()),
        Err(failure) => {
            tracing::warn!(collection = name, path = %path.display(), error = %failure, "the vector index is rebuilt from the stored vectors");
            let _ = std::fs::remove_file(path);
            (None, Bits::default())
        }
    }
}

/// Which slots of an index file still count, if it is an earlier state of this database and of no other.
fn living(sealed: &Sealed, keys: &[i64], last: i64) -> Result<Bits, Failure> {
    let covered = sealed.keys().last().copied().unwrap_or(i64::MIN);
    if covered > last {
        return Err(Failure::Index("it is ahead of the database"));
    }
    let mut alive = Bits::of(sealed.len(), false);
    let mut slots = sealed.keys().iter().enumerate();
    for key in keys.iter().take_while(|key| **key <= covered) {
        let slot = slots.find(|(_, held)| *held >= key).filter(|(_, held)| *held == key);
        let (slot, _) = slot.ok_or(Failure::Index("it lacks records that the database has"))?;
        alive.insert(slot);
    }
    Ok(alive)
}
