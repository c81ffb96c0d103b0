//! One collection: its name, its row in the database, and its state once it is used.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use sutazai_core::{Error, Result, store::CollectionSpec};
use tokio::sync::OnceCell;

use super::{
    UsearchConfig,
    backoff::Backoff,
    bits::Bits,
    blocking,
    database::{Database, Identity, first_key},
    error::Failure,
    fold,
    sealed::Sealed,
    state::{State, Tail, Texts},
};

/// A collection that exists.
pub(super) struct Collection {
    pub(super) name: String,
    pub(super) identity: Identity,
    state: OnceCell<RwLock<State>>,
    dropped: AtomicBool,
    /// What is asked on asynchronous threads, which must not wait for the state: how many records live, and what [`fold`] says.
    live: AtomicU64,
    due: AtomicBool,
    full: AtomicBool,
    backoff: Mutex<Backoff>,
}

impl Collection {
    pub(super) fn new(name: &str, identity: Identity) -> Self {
        Self {
            name: name.to_owned(),
            identity,
            state: OnceCell::new(),
            dropped: AtomicBool::new(false),
            live: AtomicU64::new(0),
            due: AtomicBool::new(false),
            full: AtomicBool::new(false),
            backoff: Mutex::default(),
        }
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

    pub(super) fn is_loaded(&self) -> bool {
        self.state.initialized()
    }

    /// How many records live; nothing before [`Collection::load`].
    pub(super) fn count(&self) -> Option<u64> {
        self.is_loaded().then(|| self.live.load(Ordering::SeqCst))
    }

    /// Whether a fold is due.
    pub(super) fn is_due(&self) -> bool {
        self.due.load(Ordering::SeqCst)
    }

    /// Whether memory holds all that it should.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::SeqCst)
    }

    /// When to fold again after folds that failed.
    pub(super) fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing before [`Collection::load`]. May wait for [`Collection::change`], so only where blocking is allowed.
    pub(super) fn read(&self) -> Option<RwLockReadGuard<'_, State>> {
        // A panic elsewhere leaves at worst what the next load mends.
        self.state.get().map(|state| state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state; does nothing before [`Collection::load`]. Only where blocking is allowed.
    pub(super) fn change(&self, act: impl FnOnce(&mut State)) {
        let Some(state) = self.state.get() else { return };
        let mut state = state.write().unwrap_or_else(PoisonError::into_inner);
        act(&mut state);
        self.note(&state);
    }

    fn note(&self, state: &State) {
        self.live.store(state.alive.count() as u64, Ordering::SeqCst);
        self.due.store(fold::is_due(state), Ordering::SeqCst);
        self.full.store(fold::is_full(state), Ordering::SeqCst);
    }

    /// Reads the index file and what the database has beyond it, once.
    pub(super) async fn load(&self, database: &Database, config: &Arc<UsearchConfig>) -> Result<()> {
        self.state.get_or_try_init(|| self.loaded(database, config)).await.map(|_| ())
    }

    async fn loaded(&self, database: &Database, config: &Arc<UsearchConfig>) -> Result<RwLock<State>> {
        let identity = self.identity;
        let (keys, last) = database.keys(identity).await?;
        let (path, name, config) = (self.file(config), self.name.clone(), config.clone());
        let told = |error: Error| error.during("load collection").about(&self.name);
        let opened = config.clone();
        let opening = blocking(move || sealed(&path, &name, identity, &opened, &keys, last));
        let (sealed, mut alive) = opening.await.map_err(told)?;
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
        if behind >= config.exact_below.max(1) {
            tracing::warn!(
                collection = self.name,
                records = behind,
                "the vector index is missing or behind the database: it catches up"
            );
        }
        let (dimension, sealed) = (identity.dimension, sealed.map(Arc::new));
        let state = State { dimension, config, sealed, tail, alive, fields: OnceLock::new() };
        self.note(&state);
        Ok(RwLock::new(state))
    }
}

/// Where the index of the collection of that number lies.
pub(super) fn file(directory: &Path, number: i64) -> PathBuf {
    directory.join(format!("vectors-{number}.index"))
}

/// The index file with the slots of it that still count. One that is damaged is removed: the records are elsewhere. One that cannot be
/// read now may be as good as ever, so that is an error and the next use tries again.
fn sealed(
    path: &Path,
    name: &str,
    of: Identity,
    config: &UsearchConfig,
    keys: &[i64],
    last: i64,
) -> Result<(Option<Sealed>, Bits), Failure> {
    let opened = Sealed::open(path, of, config)
        .and_then(|sealed| sealed.map(|sealed| living(&sealed, keys, last).map(|alive| (sealed, alive))).transpose());
    let failure = match opened {
        Ok(Some((sealed, alive))) => return Ok((Some(sealed), alive)),
        Ok(None) => return Ok((None, Bits::default())),
        Err(failure @ (Failure::Index(_) | Failure::Graph(_))) => failure,
        Err(failure) => return Err(failure),
    };
    tracing::warn!(collection = name, path = %path.display(), error = %failure, "the vector index is rebuilt from the stored vectors");
    if matches!(failure, Failure::Index(_)) {
        let _ = std::fs::remove_file(path);
    }
    Ok((None, Bits::default()))
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
