//! Answers by what was asked around their question and by what the question means, a shelf for each tenant.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use sutazai_core::clock::Timestamp;

use super::{AnswerKey, CachedAnswer, serves, weight};

/// Questions this near are the same one: the newer answer takes the place of the older.
const SAME: f32 = 0.999_99;

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) ttl: Duration,
}

/// An answer and what it is found by.
#[derive(Debug)]
pub(super) struct Entry {
    /// Everything beside the question.
    pub(super) scope: AnswerKey,
    /// The question, at unit length.
    pub(super) vector: Vec<f32>,
    pub(super) answer: Arc<CachedAnswer>,
}

impl Entry {
    fn size(&self) -> usize {
        size_of::<Self>() + size_of_val(self.vector.as_slice()) + weight(&self.answer)
    }
}

/// One tenant's answers, the oldest first.
#[derive(Debug, Default)]
struct Shelf {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Shelf {
    fn put(&mut self, entry: Entry) {
        self.bytes += entry.size();
        self.entries.push_back(entry);
    }

    fn drop_oldest(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.size();
        }
    }

    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.entries.retain(keep);
        self.bytes = self.entries.iter().map(Entry::size).sum();
    }
}

/// The shelves of all tenants; none ever sees another's.
#[derive(Debug, Default)]
pub(super) struct Shelves(HashMap<String, Shelf>);

impl Shelves {
    /// The answer to the nearest question of this scope that is at least `threshold` near and whose answer `serves`; of equally near ones the newest.
    ///
    /// Every entry of the tenant is looked at: a thousand vectors of 384 numbers take a fraction of a millisecond, and an index over so few that
    /// change so often would cost more than it saves.
    pub(super) fn find(
        &self,
        tenant: &str,
        scope: &AnswerKey,
        vector: &[f32],
        threshold: f32,
        serves: impl Fn(&CachedAnswer) -> bool,
    ) -> Option<Arc<CachedAnswer>> {
        let near = |entry: &Entry| cosine(&entry.vector, vector);
        let candidates = self.0.get(tenant)?.entries.iter().filter(|entry| entry.scope == *scope);
        let candidates = candidates.map(|entry| (near(entry), entry)).filter(|(near, _)| *near >= threshold);
        let nearest = candidates.filter(|(_, entry)| serves(&entry.answer)).max_by(|(a, _), (b, _)| a.total_cmp(b))?;
        Some(Arc::clone(&nearest.1.answer))
    }

    /// Keeps an answer. The tenant's answers that are too old at `now` go, then its oldest while there are too many; while all shelves together take
    /// too many bytes, the fullest gives its oldest away, whosever it is.
    pub(super) fn keep(&mut self, tenant: &str, entry: Entry, limits: Limits, now: Timestamp) {
        let shelf = self.0.entry(tenant.to_owned()).or_default();
        shelf.retain(|old| {
            let replaced = old.scope == entry.scope && cosine(&old.vector, &entry.vector) >= SAME;
            !replaced && serves(&old.answer, limits.ttl, now)
        });
        shelf.put(entry);
        while shelf.entries.len() > limits.entries {
            shelf.drop_oldest();
        }
        while self.bytes() > limits.bytes
            && let Some(fullest) = self.0.values_mut().max_by_key(|shelf| shelf.bytes)
        {
            fullest.drop_oldest();
        }
        self.0.retain(|_, shelf| !shelf.entries.is_empty());
    }

    fn bytes(&self) -> usize {
        self.0.values().map(|shelf| shelf.bytes).sum()
    }
}

/// Of vectors of unit length, which models promise: the sum of the products. Vectors of different models have nothing in common.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    if a.len() == b.len() { a.iter().zip(b).map(|(a, b)| a * b).sum() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use sutazai_core::model::{ChatEvent, ChatRequest, Finish, ModelInfo, StopReason, Usage};

    use super::*;

    const LIMITS: Limits = Limits { entries: 3, bytes: 1 << 20, ttl: Duration::from_secs(60) };
    const NORTH: [f32; 2] = [0.0, 1.0];
    const EAST: [f32; 2] = [1.0, 0.0];

    fn scope(around: &str) -> AnswerKey {
        AnswerKey::of(&ModelInfo::new("actor", "scripted", 8192), &ChatRequest::ask(around)).unwrap()
    }

    fn entry(around: &str, vector: [f32; 2], text: &str, created: i64) -> Entry {
        let finish = Finish { stop: StopReason::Stop, usage: Usage::default(), prompt_ms: None, completion_ms: None };
        let answer = CachedAnswer {
            served_model: "actor".into(),
            served_backend: "scripted".into(),
            events: vec![ChatEvent::Text(text.into()), ChatEvent::Finish(finish)],
            created: Timestamp::from_millis(created),
        };
        Entry { scope: scope(around), vector: vector.to_vec(), answer: Arc::new(answer) }
    }

    fn text(answer: &CachedAnswer) -> String {
        match &answer.events[0] {
            ChatEvent::Text(text) => text.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn find(shelves: &Shelves, tenant: &str, around: &str, vector: [f32; 2]) -> Option<String> {
        shelves.find(tenant, &scope(around), &vector, 0.9, |_| true).map(|answer| text(&answer))
    }

    #[test]
    fn the_nearest_of_the_same_scope_is_found() {
        let mut shelves = Shelves::default();
        for (around, vector, text) in [("a", NORTH, "north"), ("a", [0.3, 0.954], "about north"), ("b", EAST, "east")] {
            shelves.keep("t", entry(around, vector, text, 0), LIMITS, Timestamp::default());
        }
        assert_eq!(find(&shelves, "t", "a", [0.01, 1.0]).as_deref(), Some("north"));
        assert_eq!(find(&shelves, "t", "a", [0.28, 0.96]).as_deref(), Some("about north"));
        assert_eq!(find(&shelves, "t", "a", EAST), None, "too far");
        assert_eq!(find(&shelves, "t", "b", NORTH), None, "too far");
        assert_eq!(find(&shelves, "u", "a", NORTH), None, "another tenant's");
        let old = |_: &CachedAnswer| false;
        assert_eq!(shelves.find("t", &scope("a"), &NORTH, 0.9, old), None);
        assert_eq!(shelves.find("t", &scope("a"), &[0.0, 1.0, 0.0], 0.9, |_| true), None, "another model's vector");
    }

    #[test]
    fn a_newer_answer_to_the_same_question_replaces_the_older() {
        let mut shelves = Shelves::default();
        for text in ["old", "new"] {
            shelves.keep("t", entry("a", NORTH, text, 0), LIMITS, Timestamp::default());
        }
        assert_eq!(find(&shelves, "t", "a", NORTH).as_deref(), Some("new"));
        assert_eq!(shelves.0["t"].entries.len(), 1);
    }

    #[test]
    fn entries_are_bounded_by_number_and_by_age() {
        let mut shelves = Shelves::default();
        for around in ["a", "b", "c", "d"] {
            shelves.keep("t", entry(around, NORTH, around, 0), LIMITS, Timestamp::default());
        }
        assert_eq!(find(&shelves, "t", "a", NORTH), None);
        assert!(["b", "c", "d"].iter().all(|around| find(&shelves, "t", around, NORTH).is_some()));
        shelves.keep("t", entry("e", NORTH, "e", 61_000), LIMITS, Timestamp::from_millis(61_000));
        assert_eq!(shelves.0["t"].entries.len(), 1);
        assert_eq!(shelves.bytes(), entry("e", NORTH, "e", 0).size());
    }

    #[test]
    fn the_fullest_shelf_makes_room() {
        let mut shelves = Shelves::default();
        let one = entry("a", NORTH, "a", 0).size();
        let limits = Limits { bytes: one * 3, ..LIMITS };
        for (tenant, around) in [("t", "a"), ("t", "b"), ("t", "c"), ("u", "d")] {
            shelves.keep(tenant, entry(around, NORTH, around, 0), limits, Timestamp::default());
        }
        assert_eq!(find(&shelves, "t", "a", NORTH), None);
        assert!(find(&shelves, "t", "b", NORTH).is_some() && find(&shelves, "u", "d", NORTH).is_some());
        shelves.keep("u", entry("e", NORTH, "e", 0), Limits { bytes: one - 1, ..LIMITS }, Timestamp::default());
        assert_eq!((shelves.0.len(), shelves.bytes()), (0, 0), "what is too large alone is not kept");
    }
}
