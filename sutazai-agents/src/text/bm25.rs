//! BM25: how well a document's words answer a query's.

use std::collections::HashMap;

/// Saturation of repeated terms.
const K1: f32 = 1.2;
/// How much a document's length counts.
const B: f32 = 0.75;

/// An inverted index over documents numbered from 0 in the order they are added; a number is never used again. The statistics are exact at any time,
/// which is why it is our own: the `bm25` crate fixes the average length when it is built.
#[derive(Clone, Default)]
pub(crate) struct Bm25 {
    /// For each term the documents that hold it, in their order, and how often.
    postings: HashMap<String, Vec<(u32, u32)>>,
    lengths: Vec<u32>,
    total: u64,
    live: usize,
}

impl Bm25 {
    /// Adds the next document and gives its number.
    pub(crate) fn add(&mut self, terms: Vec<String>) -> u32 {
        let document = u32::try_from(self.lengths.len()).unwrap_or(u32::MAX);
        let length = u32::try_from(terms.len()).unwrap_or(u32::MAX);
        self.lengths.push(length);
        self.total += u64::from(length);
        self.live += 1;
        for term in terms {
            let postings = self.postings.entry(term).or_default();
            match postings.last_mut() {
                Some((last, count)) if *last == document => *count += 1,
                _ => postings.push((document, 1)),
            }
        }
        document
    }

    /// Removes a document, given the terms it was added with.
    pub(crate) fn remove(&mut self, document: u32, terms: &[String]) {
        for term in terms {
            let Some(postings) = self.postings.get_mut(term) else { continue };
            // A term that occurs twice is gone at its second turn.
            if let Ok(at) = postings.binary_search_by_key(&document, |(holder, _)| *holder) {
                postings.remove(at);
            }
            if postings.is_empty() {
                self.postings.remove(term);
            }
        }
        if let Some(length) = self.lengths.get_mut(document as usize) {
            self.total -= u64::from(std::mem::take(length));
            self.live -= 1;
        }
    }

    /// How rare `term` is: 0 in every document, larger the fewer hold it, largest for a term that none holds.
    pub(crate) fn idf(&self, term: &str) -> f32 {
        let holding = self.postings.get(term).map_or(0, Vec::len) as f32;
        (1.0 + (self.live as f32 - holding + 0.5) / (holding + 0.5)).ln()
    }

    /// [`Bm25::idf`] beside that of a term that no document holds: above 0, at most 1, and comparable between small and large collections.
    pub(crate) fn rarity(&self, term: &str) -> f32 {
        let unseen = (1.0 + (self.live as f32 + 0.5) / 0.5).ln();
        self.idf(term) / unseen
    }

    /// The documents that share a term with `query`, best first, ties in order of adding; at most `limit`.
    pub(crate) fn search(&self, query: &[String], limit: usize) -> Vec<(u32, f32)> {
        let average = self.total as f32 / self.live.max(1) as f32;
        let mut scores: HashMap<u32, f32> = HashMap::new();
        for term in query {
            let Some(postings) = self.postings.get(term) else { continue };
            let idf = self.idf(term);
            for &(document, count) in postings {
                let length = self.lengths[document as usize] as f32;
                let count = count as f32;
                let norm = K1 * (1.0 - B + B * length / average.max(1.0));
                *scores.entry(document).or_default() += idf * count * (K1 + 1.0) / (count + norm);
            }
        }
        let mut ranked: Vec<_> = scores.into_iter().collect();
        let by_score = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if ranked.len() > limit && limit > 0 {
            ranked.select_nth_unstable_by(limit - 1, by_score);
        }
        ranked.truncate(limit);
        ranked.sort_unstable_by(by_score);
        ranked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(documents: &[&str]) -> Bm25 {
        let mut index = Bm25::default();
        for document in documents {
            index.add(document.split(' ').map(str::to_owned).collect());
        }
        index
    }

    #[test]
    fn rare_words_and_short_documents_come_first() {
        let index = index(&["a b c d e f g h", "a x", "a b", "a a a a a a a z"]);
        let query = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let order = |text: &str| index.search(&query(text), 10).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(order("b"), [2, 0]);
        assert_eq!(order("a x")[0], 1);
        assert!(order("nothing").is_empty());
        assert_eq!(index.search(&query("a"), 2).len(), 2);
        assert!(index.idf("nothing") > index.idf("x") && index.idf("x") > index.idf("a"));
    }

    #[test]
    fn a_removed_document_leaves_no_trace() {
        let terms = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut changed = index(&["a b", "b b c", "a c d"]);
        changed.remove(1, &terms("b b c"));
        let fresh = index(&["a b", "a c d"]);
        for query in ["a", "b c", "d", "x"] {
            let scores = |index: &Bm25| index.search(&terms(query), 9).into_iter().map(|hit| hit.1).collect::<Vec<_>>();
            assert_eq!(scores(&changed), scores(&fresh), "{query}");
        }
        assert_eq!(changed.add(terms("e")), 3);
    }

    #[test]
    fn scores_are_the_textbook_ones() {
        // N = 2, n = 1, one occurrence, length 2 of 2 on average: idf · 2.2 / (1 + 1.2).
        let index = index(&["crane tonne", "oven day"]);
        let [(document, score)] = index.search(&["crane".to_owned()], 5)[..] else { panic!("one hit") };
        assert_eq!(document, 0);
        assert!((score - 2.0_f32.ln()).abs() < 1e-6, "{score}");
    }
}
