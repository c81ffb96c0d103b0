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

/// Records that one fold adds: what it copies stays small, and what it did survives a crash early.
const MOST: usize = 32_768;

/// Records added between two looks at whether to stop.
const STRIDE: usize = 512;

/// An index file this many times as large as what is in memory is not written anew for it.
const SHARE: usize = 20;

/// Whether a new file is worth its while: enough came, or over half of the file is dead.
pub(super) fn is_due(state: &State) -> bool {
    let (sealed, tail) = (state.sealed_len(), state.tail_live());
    tail >= state.exact_below.max(sealed / SHARE).max(1) || 2 * state.sealed_live() < sealed
}

/// Whether anything is in memory that a file could hold.
pub(super) fn is_possible(state: &State) -> bool {
    let live = state.alive.count();
    is_due(state) || (state.tail_live() > 0 && live >= state.exact_below)
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
        for index in state.alive.range(sealed..state.len()).take(MOST).map(|slot| slot - sealed) {
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
    let Some(mut state) = collection.write() else { return };
    let state = &mut *state;
    if next.is_none() || collection.is_dropped() {
        let _ = std::fs::remove_file(collection.file(config));
    }
    let first = state.sealed_len();
    let covered = next.as_ref().and_then(|next| next.keys().last().copied()).unwrap_or(i64::MIN);
    let next_len = next.as_ref().map_or(0, Sealed::len);
    let mut alive = Bits::of(next_len, false);
    let next_keys = next.as_ref().map(Sealed::keys).unwrap_or_default();
    let sealed = state.sealed.as_ref();
    let old_keys = sealed.iter().flat_map(|sealed| sealed.keys()).chain(&state.tail.keys).copied();
    let mut slots = next_keys.iter().enumerate().peekable();
    let mut rest = Vec::new();
    // Slots move if a dead one before them was left out.
    let mut moved = false;
    for (slot, key) in old_keys.enumerate() {
        match slots.next_if(|(_, held)| **held == key) {
            Some((at, _)) => {
                moved |= at != slot;
                if state.alive.contains(slot) {
                    alive.insert(at);
                }
            }
            None if slot >= first && key > covered => rest.push(slot),
            None => moved = true,
        }
    }
    let mut tail = Tail::default();
    for slot in rest {
        let (record, index) = (state.record(slot), slot - first);
        tail.push(record.key, state.tail.texts[index].clone(), record.vector);
        alive.push(state.alive.contains(slot));
    }
    (state.sealed, state.tail, state.alive) = (next.map(Arc::new), tail, alive);
    if moved {
        state.fields = OnceLock::new();
    }
}
