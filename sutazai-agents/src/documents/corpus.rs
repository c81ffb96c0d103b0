//! A collection's chunks in memory: their words, and what a hit is made of.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::chunk::Chunk;
use crate::text::{Bm25, Terms};

/// A chunk with where it came from, as the vector store keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Stored {
    /// The file's name, relative to the root.
    pub path: String,
    #[serde(flatten)]
    pub chunk: Chunk,
}

/// The chunks of one collection with a lexical index over them. A clone is a snapshot.
#[derive(Clone, Default)]
pub(super) struct Corpus {
    slots: Vec<Option<Arc<Stored>>>,
    /// Chunk ids to slots.
    by_id: HashMap<String, u32>,
    /// File names to the ids of their chunks.
    by_path: HashMap<String, Vec<String>>,
    bm25: Bm25,
    bytes: usize,
}

/// What an entry costs beside its text: ids, postings, tables. Measured on English prose, rounded up.
const OVERHEAD: usize = 1_000;

impl Corpus {
    /// Adds a chunk.
    pub(super) fn add(&mut self, id: String, stored: Stored, terms: &Terms) {
        let slot = self.bm25.add(terms.of(&stored.chunk.in_context()));
        self.bytes += stored.chunk.text.len() * 2 + OVERHEAD;
        self.by_path.entry(stored.path.clone()).or_default().push(id.clone());
        self.by_id.insert(id, slot);
        self.slots.push(Some(Arc::new(stored)));
    }

    /// Removes the chunks of a file.
    pub(super) fn remove(&mut self, path: &str, terms: &Terms) {
        for id in self.by_path.remove(path).unwrap_or_default() {
            let Some(slot) = self.by_id.remove(&id) else { continue };
            let Some(stored) = self.slots.get_mut(slot as usize).and_then(Option::take) else { continue };
            self.bytes -= stored.chunk.text.len() * 2 + OVERHEAD;
            self.bm25.remove(slot, &terms.of(&stored.chunk.in_context()));
        }
        // Slots are never used again, so that numbers stay in order; a corpus of mostly empty ones is packed.
        if self.slots.len() > 64 && self.by_id.len() * 2 < self.slots.len() {
            self.pack(terms);
        }
    }

    fn pack(&mut self, terms: &Terms) {
        let mut ids: Vec<_> = std::mem::take(&mut self.by_id).into_iter().collect();
        ids.sort_unstable_by_key(|(_, slot)| *slot);
        let slots = std::mem::take(&mut self.slots);
        *self = Self::default();
        for (id, slot) in ids {
            if let Some(stored) = slots.get(slot as usize).cloned().flatten() {
                self.add(id, Arc::unwrap_or_clone(stored), terms);
            }
        }
    }

    /// The slot of a chunk.
    pub(super) fn slot(&self, id: &str) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    /// The chunk in a slot.
    pub(super) fn stored(&self, slot: u32) -> Option<&Arc<Stored>> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// The lexical index; its numbers are slots.
    pub(super) fn bm25(&self) -> &Bm25 {
        &self.bm25
    }

    /// How many chunks there are.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// About how many bytes of memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Fence;

    fn stored(path: &str, text: &str) -> Stored {
        Stored {
            path: path.into(),
            chunk: Chunk {
                start_line: 1,
                end_line: 1,
                headings: Vec::new(),
                fence: Fence::default(),
                text: text.into(),
            },
        }
    }

    #[test]
    fn files_come_and_go() {
        let terms = Terms::default();
        let mut corpus = Corpus::default();
        for n in 0..200 {
            corpus.add(format!("{n:03}"), stored(&format!("{n}.md"), &format!("crane number w{n}")), &terms);
        }
        let find = |corpus: &Corpus, text: &str| {
            let hits = corpus.bm25().search(&terms.of(text), 300);
            hits.into_iter().map(|(slot, _)| corpus.stored(slot).unwrap().path.clone()).collect::<Vec<_>>()
        };
        assert_eq!(find(&corpus, "w17"), ["17.md"]);
        for n in 0..150 {
            corpus.remove(&format!("{n}.md"), &terms);
        }
        assert_eq!(corpus.len(), 50);
        assert!(corpus.slots.len() < 200, "packed");
        assert_eq!(find(&corpus, "w17"), Vec::<String>::new());
        assert_eq!(find(&corpus, "crane").len(), 50);
        assert_eq!(corpus.slot("199").and_then(|slot| corpus.stored(slot)).unwrap().path, "199.md");
        for n in 150..200 {
            corpus.remove(&format!("{n}.md"), &terms);
        }
        assert_eq!((corpus.len(), corpus.bytes()), (0, 0));
    }
}
