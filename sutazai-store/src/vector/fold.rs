//! Folding: what is in memory goes into a new index file, off the path of requests.

use std::sync::{Arc, OnceLock};

use super::{
    UsearchConfig,
    bits::Bits,
    collection::Collection,
    error::Failure,
    graph::Graph,
    sealed::{Record, Sealed},
    state::{State, Tail},
};

/// Records added between two looks at whether to stop.
const STRIDE: usize = 512;

/// An index file this many times as large as what is in memory is not written anew for it.
const SHARE: usize = 20;

/// So many folds may be behind; whoever writes more waits for them.
const BEHIND: usize = 8;

/// Records in memory from which on a new file is worth its while.
fn enough(state: &State) -> usize {
    state.config.exact_below.max(state.sealed_len() / SHARE).max(1)
}

/// Whether a new file is worth its while: enough came, or over half of the file is dead.
pub(super) fn is_due(state: &State) -> bool {
    state.tail_live() >= enough(state) || 2 * state.sealed_live() < state.sealed_len()
}

/// Whether memory holds all that it should: then a fold is due as well.
pub(super) fn is_full(state: &State) -> bool {
    state.tail_live() >= enough(state).max(state.config.fold.saturating_mul(BEHIND))
}

/// Whether anything is in memory that a file could hold.
pub(super) fn is_possible(state: &State) -> bool {
    let live = state.alive.count();
    is_due(state) || (state.tail_live() > 0 && live >= state.config.exact_below)
}

/// What was alive in memory when a fold began, and the file that it builds upon.
struct Plan {
    sealed: Option<Arc<Sealed>>,
    /// Slots of the file that go into the next: all, unless it is compacted.
    kept: Vec<usize>,
    compacts: bool,
    fresh: Tail,
}

/// Writes the next index file and puts it in place; says whether it did. `stop` cuts it short, with what is done by then.
pub(super) fn fold(collection: &Collection, config: &UsearchConfig, stop: impl Fn() -> bool) -> Result<bool, Failure> {
    let Some(mut plan) = collection.read().map(|state| Plan::of(&state)) else { return Ok(false) };
    if plan.kept.is_empty() && plan.fresh.keys.is_empty() {
        install(collection, config, None);
        return Ok(true);
    }
    let Some(graph) = plan.grow(config, collection.identity.dimension, stop)? else { return Ok(false) };
    if collection.is_dropped() {
        return Ok(false);
    }
    let path = collection.file(config);
    Sealed::write(
        &path,
        collection.identity,
        plan.len(),
        |index| plan.record(index, collection.identity.dimension),
        &graph,
    )?;
    drop(graph);
    let sealed = Sealed::open(&path, collection.identity, config)?.ok_or(Failure::Index("it is gone"))?;
    tracing::info!(
        collection = collection.name,
        records = sealed.len(),
        added = plan.fresh.keys.len(),
        "the vector index was written"
    );
    install(collection, config, Some(sealed));
    Ok(true)
}

impl Plan {
    fn of(state: &State) -> Self {
        let sealed = state.sealed_len();
        let compacts = 2 * state.sealed_live() < sealed;
        let kept = if compacts { state.alive.range(0..sealed).collect() } else { (0..sealed).collect() };
        let mut fresh = Tail::default();
        for index in state.alive.range(sealed..state.len()).take(state.config.fold.max(1)).map(|slot| slot - sealed) {
            let record = state.tail.record(index, state.dimension);
            fresh.push(record.key, state.tail.texts[index].clone(), record.vector);
        }
        Self { sealed: state.sealed.clone(), kept, compacts, fresh }
    }

    fn len(&self) -> usize {
        self.kept.len() + self.fresh.keys.len()
    }

    fn record(&self, index: usize, dimension: usize) -> Record<'_> {
        match (&self.sealed, self.kept.get(index)) {
            (Some(sealed), Some(slot)) => sealed.record(*slot),
            _ => self.fresh.record(index - self.kept.len(), dimension),
        }
    }

    fn vector(&self, index: usize, dimension: usize) -> &[f32] {
        match (&self.sealed, self.kept.get(index)) {
            (Some(sealed), Some(slot)) => sealed.vector(*slot),
            _ => &self.fresh.vectors[(index - self.kept.len()) * dimension..][..dimension],
        }
    }

    /// The graph of the next file, or nothing if it was stopped before it was worth a file.
    fn grow(
        &mut self,
        config: &UsearchConfig,
        dimension: usize,
        stop: impl Fn() -> bool,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let base = self.sealed.as_ref().filter(|_| !self.compacts);
        let graph = Graph::growing(config, dimension, self.len(), base.map(|sealed| sealed.graph_bytes()))?;
        let mut done = graph.len();
        let before = done;
        while done < self.len() && !stop() {
            let until = self.len().min(done + STRIDE);
            graph.add(done..until, |index| self.vector(index, dimension), config.build_threads)?;
            done = until;
        }
        if done < self.kept.len() || (done < self.len() && done == before) {
            return Ok(None);
        }
        let fresh = done - self.kept.len();
        self.fresh.keys.truncate(fresh);
        self.fresh.texts.truncate(fresh);
        self.fresh.vectors.truncate(fresh * dimension);
        graph.bytes().map(Some)
    }
}

/// Exchanges the file that is searched; what came or went meanwhile is kept.
fn install(collection: &Collection, config: &UsearchConfig, next: Option<Sealed>) {
    collection.change(|state| {
        if next.is_none() || collection.is_dropped() {
            let _ = std::fs::remove_file(collection.file(config));
        }
        exchange(state, next);
    });
}

fn exchange(state: &mut State, next: Option<Sealed>) {
    let (first, before) = (state.sealed_len(), state.len());
    let next_keys = next.as_ref().map(Sealed::keys).unwrap_or_default();
    let covered = next_keys.last().copied().unwrap_or(i64::MIN);
    let mut alive = Bits::of(next_keys.len(), false);
    let mut tail = Tail::default();
    // The sets of fields go by slot: they stay right only if every record keeps its own.
    let mut moved = false;
    let mut slots = next_keys.iter().enumerate().peekable();
    let old_keys = state.sealed.iter().flat_map(|sealed| sealed.keys()).chain(&state.tail.keys).copied();
    for (slot, key) in old_keys.enumerate() {
        // What died and was cleared away while the file was written is in it all the same, and stays dead.
        while slots.next_if(|(_, held)| **held < key).is_some() {}
        match slots.next_if(|(_, held)| **held == key) {
            Some((at, _)) => {
                moved |= at != slot;
                if state.alive.contains(slot) {
                    alive.insert(at);
                }
            }
            None if slot >= first && key > covered => {
                moved |= next_keys.len() + tail.keys.len() != slot;
                let vector = state.tail.record(slot - first, state.dimension).vector;
                tail.push(key, state.tail.texts[slot - first].clone(), vector);
                alive.push(state.alive.contains(slot));
            }
            None => moved = true,
        }
    }
    moved |= next_keys.len() + tail.keys.len() != before;
    (state.sealed, state.tail, state.alive) = (next.map(Arc::new), tail, alive);
    if moved {
        state.fields = OnceLock::new();
    }
}
