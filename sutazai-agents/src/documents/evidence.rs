//! Evidence: the sentences that support an answer, and whether there are any.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use sutazai_core::{Result, context::Context};

use super::{
    blocking,
    chunk::{TRAIL, enter, heading, is_markdown, trail},
    library::Snapshot,
    retrieve::Passage,
};
use crate::text::{Fence, Line, Terms, coverage, sentences_from};

/// When a sentence counts as evidence. Its support is `meaning` · nearness + (1 − `meaning`) · words: nearness is the cosine of the question to the
/// sentence under its heading, mixed with that to its passage; words is the share of the question's words, rare ones counting more, that the sentence
/// or its headings hold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvidenceOptions {
    /// How much meaning counts beside words, 0 to 1.
    pub meaning: f32,
    /// The support from which a question counts as answered by the documents.
    pub threshold: f32,
    /// The support, as a share of the best sentence's, from which further sentences are cited.
    pub also: f32,
    /// Sentences cited at most.
    pub quotes: usize,
}

impl Default for EvidenceOptions {
    fn default() -> Self {
        Self { meaning: 0.6, threshold: 0.4, also: 0.85, quotes: 3 }
    }
}

/// Sentences that are embedded for one question, those with the most words of the question in the best passages: a model reads some hundred short
/// sentences a second on two cores.
const EMBEDDED: usize = 12;

/// Letters of a sentence that are embedded.
const EMBEDDED_CHARS: usize = 240;

/// How much of a sentence's nearness is that of its passage: `They are kept there.` means what is said around it.
const AROUND: f32 = 0.3;

/// The least that all words of a question weigh, in words as rare as can be: one common word in common is no support.
const ENOUGH: f32 = 1.5;

/// A sentence of a passage.
#[derive(Clone, Debug)]
pub(super) struct Sentence {
    /// Which snapshot it is of.
    pub snapshot: usize,
    /// Its file.
    pub path: String,
    pub start_line: u32,
    pub end_line: u32,
    /// Its text with single spaces.
    pub text: String,
    /// The headings above it.
    pub heading: String,
    /// 0 to 1: see [`EvidenceOptions`].
    pub support: f32,
}

/// What the passages say about a question.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// The sentences that support an answer, best first; empty if none reaches the threshold.
    pub sentences: Vec<Sentence>,
    /// The support of the best sentence, whether it reaches the threshold or not.
    pub support: f32,
}

/// Looks for an answer to `question` in `passages`.
pub(super) async fn evidence(
    context: &Context,
    snapshots: &[Snapshot],
    passages: &[Passage],
    question: &str,
    vector: &[f32],
    options: EvidenceOptions,
) -> Result<Evidence> {
    let (corpora, passages) =
        (snapshots.iter().map(|snapshot| snapshot.corpus.clone()).collect::<Vec<_>>(), passages.to_vec());
    let words = question.to_owned();
    let mut candidates = blocking(move || {
        let terms = Terms::default();
        let wanted: HashSet<String> = terms.of(&words).into_iter().collect();
        let mut candidates = Vec::new();
        for passage in passages {
            let Some(corpus) = corpora.get(passage.snapshot) else { continue };
            for sentence in of_passage(&passage) {
                let found = terms.of(&format!("{}\n{}", sentence.heading, sentence.text)).into_iter().collect();
                let words = coverage(&wanted, &found, ENOUGH, |term| corpus.bm25().rarity(term));
                candidates.push((sentence, words, words + passage.score, passage.nearness));
            }
        }
        candidates.sort_by(|a, b| b.2.total_cmp(&a.2));
        candidates.truncate(EMBEDDED);
        Ok(candidates)
    })
    .await?;
    let texts: Vec<_> = candidates.iter().map(|(sentence, ..)| sentence.under_heading()).collect();
    let vectors = context.embed(&texts).await?;
    for ((sentence, words, _, around), near) in candidates.iter_mut().zip(&vectors) {
        let nearness = (1.0 - AROUND) * dot(vector, near).max(0.0) + AROUND * *around;
        sentence.support = options.meaning * nearness + (1.0 - options.meaning) * *words;
    }
    let mut found: Vec<_> = candidates.into_iter().map(|(sentence, ..)| sentence).collect();
    found.sort_by(|a, b| b.support.total_cmp(&a.support));
    let support = found.first().map_or(0.0, |sentence| sentence.support);
    if support < options.threshold {
        return Ok(Evidence { sentences: Vec::new(), support });
    }
    found.retain(|sentence| sentence.support >= support * options.also);
    found.truncate(options.quotes.max(1));
    Ok(Evidence { sentences: found, support })
}

/// The cosine of two unit vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The sentences of a passage. A heading says what the sentences below it are about, but nothing by itself.
fn of_passage(passage: &Passage) -> Vec<Sentence> {
    let (path, chunk) = (&passage.stored.path, &passage.stored.chunk);
    let line = |at: usize| chunk.start_line + u32::try_from(chunk.text[..at].matches('\n').count()).unwrap_or(0);
    let is_prose = if is_markdown(path) { prose(&chunk.text, chunk.fence) } else { Vec::new() };
    let mut headings = chunk.headings.clone();
    let mut found = Vec::new();
    for range in sentences_from(&chunk.text, chunk.fence) {
        let text = &chunk.text[range.clone()];
        let start_line = line(range.start);
        let own = heading(text).filter(|_| is_prose.get((start_line - chunk.start_line) as usize) == Some(&true));
        if let Some(own) = own {
            enter(&mut headings, own);
            continue;
        }
        found.push(Sentence {
            snapshot: passage.snapshot,
            path: path.clone(),
            start_line,
            end_line: line(range.end),
            text: squeeze(text),
            heading: trail(&headings),
            support: 0.0,
        });
    }
    found
}

/// Which lines of a text are not code.
fn prose(text: &str, mut fence: Fence) -> Vec<bool> {
    text.split('\n').map(|line| fence.read(line) == Line::Prose).collect()
}

impl Sentence {
    /// What is embedded of it. Cut, because a batch costs as much as its longest text in every place.
    fn under_heading(&self) -> String {
        let text = self.text.chars().take(EMBEDDED_CHARS);
        match self.heading.rsplit(TRAIL).next().filter(|title| !title.is_empty()) {
            Some(title) => format!("{title}: ").chars().chain(text).collect(),
            None => text.collect(),
        }
    }
}

/// Runs of white space as one space.
pub(super) fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{
            chunk::{Chunk, Heading},
            corpus::Stored,
        },
        *,
    };

    #[test]
    fn sentences_know_their_lines() {
        let text = "First one.\nSecond\nhas two lines. Third.\n\n## Sub\n\nFourth.\n\n```\n# a comment\n```\n\n## Next\n\nFifth.";
        let headings = vec![Heading { level: 1, title: "Head".into() }];
        let chunk = Chunk { start_line: 10, end_line: 24, headings, fence: Fence::default(), text: text.into() };
        let passage =
            Passage { snapshot: 0, stored: Arc::new(Stored { path: "a.md".into(), chunk }), score: 1.0, nearness: 1.0 };
        let found = of_passage(&passage);
        assert_eq!(found.last().unwrap().heading, "Head › Next", "a sibling ends a section");
        let found: Vec<_> = found.into_iter().map(|s| (s.start_line, s.end_line, s.under_heading())).collect();
        assert_eq!(
            found,
            [
                (10, 10, "Head: First one.".into()),
                (11, 12, "Head: Second has two lines.".into()),
                (12, 12, "Head: Third.".into()),
                (16, 16, "Sub: Fourth.".into()),
                (19, 19, "Sub: # a comment".into()),
                (24, 24, "Next: Fifth.".into()),
            ]
        );
    }
}
