//! Terms: the words of a text as the lexical index counts them.

use std::collections::{BTreeMap, HashSet};

use snowball_stemmers_rs::{Algorithm, Stemmer};
use unicode_segmentation::UnicodeSegmentation;

/// Words that say nothing about a text's subject.
const STOP_WORDS: &str = include_str!("stop_words.txt");

/// Longer words are data (hashes, base64), not language; only their beginning is kept.
const LONGEST: usize = 40;

/// Cuts texts into terms: Unicode words, lower-cased, without stop words, reduced to their stems. The parts of `snake_case` and `CamelCase` count
/// as words of their own, so that a question in plain words finds code.
pub(crate) struct Terms {
    stemmer: Stemmer,
    stop: HashSet<&'static str>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { stemmer: Stemmer::create(Algorithm::English), stop: STOP_WORDS.split_whitespace().collect() }
    }
}

impl Terms {
    /// The terms of `text` in order, repeated as often as they occur.
    pub(crate) fn of(&self, text: &str) -> Vec<String> {
        let mut terms = Vec::with_capacity(text.len() / 8);
        for word in text.unicode_words() {
            for part in word.split(|c: char| matches!(c, '_' | '\'' | '’' | ':') || c == '.' && !is_number(word)) {
                self.add(part, &mut terms);
                let humps = humps(part);
                if humps.len() > 1 {
                    humps.iter().for_each(|hump| self.add(hump, &mut terms));
                }
            }
        }
        terms
    }

    fn add(&self, word: &str, terms: &mut Vec<String>) {
        let lower: String = word.chars().take(LONGEST).flat_map(char::to_lowercase).collect();
        // What an apostrophe leaves behind (`s`, `t`, `ll`) is shorter than any word that matters, except for digits.
        let too_short = lower.len() < 2 && !lower.starts_with(|c: char| c.is_numeric());
        if too_short || self.stop.contains(lower.as_str()) {
            return;
        }
        terms.push(self.stemmer.stem(&lower).into_owned());
    }
}

fn is_number(word: &str) -> bool {
    word.chars().all(|c| c.is_numeric() || matches!(c, '.' | ','))
}

/// `VectorStore` as `Vector` and `Store`; a word in one case as itself.
fn humps(word: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut before) = (0, '\0');
    for (at, c) in word.char_indices() {
        if c.is_uppercase() && before.is_lowercase() {
            parts.push(&word[start..at]);
            start = at;
        }
        before = c;
    }
    parts.push(&word[start..]);
    parts
}

/// How much of `wanted` is among `found`, 0 to 1, each term weighted by `weight`; all of them together weigh `least` at least.
pub(crate) fn coverage(
    wanted: &HashSet<String>,
    found: &HashSet<String>,
    least: f32,
    weight: impl Fn(&str) -> f32,
) -> f32 {
    // In a fixed order, so that the same question always gives the same sum.
    let weights: BTreeMap<&str, f32> = wanted.iter().map(|term| (term.as_str(), weight(term))).collect();
    let total = weights.values().sum::<f32>().max(least);
    let held = weights.iter().filter(|(term, _)| found.contains(**term)).map(|(_, weight)| weight).sum::<f32>();
    if total > 0.0 { held / total } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_stems_and_code_becomes_words() {
        let terms = Terms::default();
        assert_eq!(terms.of("The cranes are lifting 37.5 tonnes, aren't they?"), ["crane", "lift", "37.5", "tonn"]);
        assert_eq!(terms.of("VectorStore::create_collection"), ["vectorstor", "vector", "store", "creat", "collect"]);
        assert!(terms.of("…!? the of").is_empty());
    }

    #[test]
    fn coverage_weighs_terms() {
        let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<HashSet<_>>();
        let weight = |term: &str| if term == "crane" { 3.0 } else { 1.0 };
        assert!((coverage(&set(&["crane", "day"]), &set(&["crane"]), 0.0, weight) - 0.75).abs() < 1e-6);
        assert!((coverage(&set(&["crane", "day"]), &set(&["crane"]), 6.0, weight) - 0.5).abs() < 1e-6);
        assert!(coverage(&set(&[]), &set(&["crane"]), 0.0, weight).abs() < 1e-6);
    }
}
