//! The indexes in memory, one per root, and the lock that keeps two calls off one root.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use sutazai_core::{Result, context::Context};

use super::{
    DocumentsOptions, Warning,
    corpus::Corpus,
    index::Index,
    manifest::{Collections, RootRecord},
    source::Root,
    sync,
};

/// Indexes by root, the least recently used given up beyond the memory bound; what is given up is read back from the vector store.
pub(super) struct Library {
    options: Arc<DocumentsOptions>,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    by_root: HashMap<String, Slot>,
    turn: u64,
}

struct Slot {
    /// Empty until it is read, and again after a call was dropped in the middle of changing it.
    index: Arc<tokio::sync::Mutex<Option<Index>>>,
    used: u64,
    bytes: usize,
}

/// A root as it is now.
pub(super) struct Snapshot {
    pub root: Root,
    pub chunks: String,
    pub corpus: Arc<Corpus>,
    pub report: sync::Report,
    pub warnings: Vec<Warning>,
}

impl Library {
    pub(super) fn new(options: Arc<DocumentsOptions>) -> Self {
        Self { options, slots: Mutex::default() }
    }

    /// Brings the index of `root` up to date. Calls for one root take turns; the snapshot stays valid whatever follows.
    pub(super) async fn open(&self, context: &Context, root: Root) -> Result<Snapshot> {
        let id = root.id();
        let slot = self.slot(&id);
        let mut guard = slot.lock().await;
        // Taken out while it changes: if this call is dropped, the next one reads what the store holds.
        let (index, report, warnings) = sync::run(context, &root, guard.take(), &self.options).await?;
        let (chunks, corpus) = (index.collections.chunks.clone(), Arc::clone(&index.corpus));
        *guard = Some(index);
        drop(guard);
        drop(slot);
        self.used(&id, corpus.bytes());
        Ok(Snapshot { root, chunks, corpus, report, warnings })
    }

    /// Drops what is kept of a root that is gone.
    pub(super) async fn forget(&self, context: &Context, known: &RootRecord) -> Result<()> {
        let collections = Collections::of(&known.place());
        let slot = self.slot(&collections.id);
        let mut guard = slot.lock().await;
        *guard = None;
        collections.drop_all(context.vectors()?.as_ref()).await
    }

    fn slot(&self, id: &str) -> Arc<tokio::sync::Mutex<Option<Index>>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.turn += 1;
        let turn = slots.turn;
        let slot =
            slots.by_root.entry(id.to_owned()).or_insert_with(|| Slot { index: Arc::default(), used: turn, bytes: 0 });
        slot.used = turn;
        Arc::clone(&slot.index)
    }

    /// Notes the size of an index and gives up others, oldest first, until the bound holds. What somebody is using stays.
    fn used(&self, id: &str, bytes: usize) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.by_root.get_mut(id) {
            slot.bytes = bytes;
        }
        let mut total: usize = slots.by_root.values().map(|slot| slot.bytes).sum();
        while total > self.options.cache_bytes {
            let idle = slots.by_root.iter().filter(|(other, slot)| *other != id && Arc::strong_count(&slot.index) == 1);
            let Some(oldest) = idle.min_by_key(|(_, slot)| slot.used).map(|(other, _)| other.clone()) else { break };
            total -= slots.by_root.remove(&oldest).map_or(0, |slot| slot.bytes);
        }
    }
}
