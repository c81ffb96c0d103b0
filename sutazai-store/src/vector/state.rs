//! A loaded collection: an index file read in place, what came after it in memory, and which of both still counts.
//!
//! Every record has a slot: those of the file first, then those in memory, in the order of their keys.

use std::sync::{Arc, OnceLock};

use sutazai_core::store::{VectorHit, VectorQuery};

use super::{
    UsearchConfig,
    bits::Bits,
    error::Failure,
    fields::Fields,
    sealed::{Record, Sealed},
    similarity::{cosine, normalise},
};

/// Slots in memory that may be dead before they are cleared away, beside as many as are alive.
const DEAD_TAIL: usize = 1_000;

/// Records that the index file does not hold yet; each search measures all of them.
#[derive(Default)]
pub(super) struct Tail {
    pub(super) keys: Vec<i64>,
    pub(super) texts: Vec<Texts>,
    /// One after the other, of unit length.
    pub(super) vectors: Vec<f32>,
}

/// A record's id and payload.
#[derive(Clone)]
pub(super) struct Texts {
    pub(super) id: Arc<str>,
    pub(super) payload: Arc<str>,
}

/// What a search needs, consistent with one moment of the database.
pub(super) struct State {
    pub(super) dimension: usize,
    pub(super) config: Arc<UsearchConfig>,
    pub(super) sealed: Option<Arc<Sealed>>,
    pub(super) tail: Tail,
    /// Slots whose records were neither deleted nor replaced.
    pub(super) alive: Bits,
    /// Made by the first search with a filter.
    pub(super) fields: OnceLock<Fields>,
}

impl Tail {
    pub(super) fn push(&mut self, key: i64, texts: Texts, vector: &[f32]) {
        self.keys.push(key);
        self.texts.push(texts);
        self.vectors.extend_from_slice(vector);
    }

    pub(super) fn record(&self, index: usize, dimension: usize) -> Record<'_> {
        let Texts { id, payload } = &self.texts[index];
        Record { key: self.keys[index], id, payload, vector: &self.vectors[index * dimension..][..dimension] }
    }
}

impl State {
    pub(super) fn sealed_len(&self) -> usize {
        self.sealed.as_ref().map_or(0, |sealed| sealed.len())
    }

    pub(super) fn len(&self) -> usize {
        self.sealed_len() + self.tail.keys.len()
    }

    pub(super) fn record(&self, slot: usize) -> Record<'_> {
        match &self.sealed {
            Some(sealed) if slot < sealed.len() => sealed.record(slot),
            _ => self.tail.record(slot - self.sealed_len(), self.dimension),
        }
    }

    /// Follows a commit: these keys are gone, and these records came, with keys from `first` on.
    pub(super) fn apply(&mut self, gone: &[i64], first: i64, came: Vec<(Texts, Vec<f32>)>) {
        for slot in gone.iter().filter_map(|key| self.slot(*key)).collect::<Vec<_>>() {
            self.alive.remove(slot);
        }
        for (key, (texts, vector)) in (first..).zip(came) {
            if let Some(fields) = self.fields.get_mut() {
                fields.push(&texts.payload);
            }
            self.tail.push(key, texts, &vector);
            self.alive.push(true);
        }
        let live = self.tail_live();
        if self.tail.keys.len() > 2 * live + DEAD_TAIL {
            self.clear_tail();
        }
    }

    /// The slots of the records for which a condition holds.
    pub(super) fn matching(&self, filter: &sutazai_core::store::Filter) -> Bits {
        let fields = self.fields.get_or_init(|| {
            let mut fields = Fields::default();
            (0..self.len()).for_each(|slot| fields.push(self.record(slot).payload));
            fields
        });
        let mut slots = fields.matching(filter);
        slots.and(&self.alive);
        slots
    }

    pub(super) fn tail_live(&self) -> usize {
        self.alive.count() - self.sealed_live()
    }

    pub(super) fn sealed_live(&self) -> usize {
        self.alive.below(self.sealed_len())
    }

    /// The records most similar to a query, best first, ties by id.
    pub(super) fn search(&self, query: &VectorQuery) -> Result<Vec<VectorHit>, Failure> {
        let mut vector = query.vector.clone();
        normalise(&mut vector);
        let matching = query.filter.as_ref().map(|filter| self.matching(filter));
        let among = matching.as_ref().unwrap_or(&self.alive);
        let mut scored = self.scored(&vector, among, query.limit);
        let order = |a: &(f32, usize), b: &(f32, usize)| {
            b.0.total_cmp(&a.0).then_with(|| self.record(a.1).id.cmp(self.record(b.1).id))
        };
        if query.limit < scored.len() {
            scored.select_nth_unstable_by(query.limit, order);
            scored.truncate(query.limit);
        }
        scored.sort_unstable_by(order);
        let hit = |(score, slot)| {
            let record = self.record(slot);
            let payload = serde_json::from_str(record.payload).map_err(|error| Failure::Damaged(error.into()))?;
            Ok(VectorHit { id: record.id.to_owned(), score, payload })
        };
        scored.into_iter().map(hit).collect()
    }

    /// Exact scores of slots among which are the best.
    fn scored(&self, vector: &[f32], among: &Bits, limit: usize) -> Vec<(f32, usize)> {
        if limit == 0 {
            return Vec::new();
        }
        let mut scored = self.near(vector, among, limit).unwrap_or_else(|| {
            let sealed =
                self.sealed.iter().flat_map(|sealed| among.range(0..sealed.len()).map(move |slot| (sealed, slot)));
            sealed.map(|(sealed, slot)| (cosine(vector, sealed.vector(slot)), slot)).collect()
        });
        let sealed = self.sealed_len();
        scored.extend(among.range(sealed..self.len()).map(|slot| {
            (cosine(vector, &self.tail.vectors[(slot - sealed) * self.dimension..][..self.dimension]), slot)
        }));
        scored
    }

    /// The best of the index file by its graph, or nothing where measuring each is quicker, or the graph found too few.
    pub(super) fn near(&self, vector: &[f32], among: &Bits, limit: usize) -> Option<Vec<(f32, usize)>> {
        let sealed = self.sealed.as_ref()?;
        let matching = among.below(sealed.len());
        // The fewer match, the longer the walk through those that do not: it grows as len ÷ matching.
        let walk = sealed.len().saturating_mul(self.config.exact_below);
        if matching.saturating_mul(matching) <= walk || limit.saturating_mul(self.config.scan_gain) >= matching {
            return None;
        }
        // Some more than asked for: 16-bit vectors misjudge who stands at the edge.
        let wanted = limit.min(matching);
        let count = wanted + wanted / 2 + 10;
        let allowed = (matching < sealed.len()).then_some(|slot| among.contains(slot));
        let slots = match sealed.graph().near(vector, count, allowed) {
            Ok(slots) => slots,
            Err(failure) => {
                tracing::warn!(error = %failure, "the graph of a vector index fails: its records are measured one by one");
                return None;
            }
        };
        let slots = slots.into_iter().map(|slot| slot as usize).filter(|slot| *slot < sealed.len());
        let scored: Vec<_> = slots.map(|slot| (cosine(vector, sealed.vector(slot)), slot)).collect();
        (scored.len() >= wanted).then_some(scored)
    }

    fn slot(&self, key: i64) -> Option<usize> {
        let sealed = self.sealed.as_ref().and_then(|sealed| sealed.keys().binary_search(&key).ok());
        sealed.or_else(|| self.tail.keys.binary_search(&key).ok().map(|index| index + self.sealed_len()))
    }

    fn clear_tail(&mut self) {
        let (sealed, mut alive, mut tail) = (self.sealed_len(), self.alive.clone(), Tail::default());
        for slot in self.alive.range(sealed..self.len()) {
            let record = self.tail.record(slot - sealed, self.dimension);
            tail.push(record.key, self.tail.texts[slot - sealed].clone(), record.vector);
        }
        alive.truncate(sealed);
        tail.keys.iter().for_each(|_| alive.push(true));
        (self.tail, self.alive, self.fields) = (tail, alive, OnceLock::new());
    }
}
