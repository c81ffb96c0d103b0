//! Hybrid retrieval: passages near in meaning and passages that share words, in one order.

use std::{collections::HashMap, sync::Arc};

use sutazai_core::{
    Result,
    context::Context,
    store::{VectorHit, VectorQuery},
};

use super::{
    blocking,
    corpus::{Corpus, Stored},
    library::Snapshot,
};
use crate::text::Terms;

/// Passages that each side proposes.
const CANDIDATES: usize = 100;

/// How much meaning counts beside words; tuned on Cranfield, where the optimum is flat.
const MEANING: f32 = 0.6;

/// A passage with its claim to the query.
#[derive(Clone, Debug)]
pub(super) struct Passage {
    /// Which snapshot it is of.
    pub snapshot: usize,
    pub stored: Arc<Stored>,
    /// 0 to 1: see [`fuse`].
    pub score: f32,
    /// Its cosine to the query, 0 to 1.
    pub nearness: f32,
}

/// The passages of all snapshots for `query`, best first, at most `limit`.
pub(super) async fn retrieve(
    context: &Context,
    snapshots: &[Snapshot],
    query: &str,
    vector: &[f32],
    limit: usize,
) -> Result<Vec<Passage>> {
    let mut passages = Vec::new();
    let candidates = CANDIDATES.max(limit);
    for (number, snapshot) in snapshots.iter().enumerate() {
        let nearest = VectorQuery { vector: vector.to_vec(), limit: candidates, filter: None };
        let near = context.search(&snapshot.chunks, nearest).await?;
        let (corpus, query) = (Arc::clone(&snapshot.corpus), query.to_owned());
        let scored = blocking(move || Ok(fuse(&corpus, &Terms::default().of(&query), &near, candidates))).await?;
        passages.extend(scored.into_iter().map(|(stored, score, nearness)| Passage {
            snapshot: number,
            stored,
            score,
            nearness,
        }));
    }
    passages.sort_by(|a, b| {
        let place =
            |passage: &Passage| (passage.snapshot, passage.stored.path.clone(), passage.stored.chunk.start_line);
        b.score.total_cmp(&a.score).then_with(|| place(a).cmp(&place(b)))
    });
    passages.truncate(limit);
    Ok(passages)
}

/// One score from both sides: `MEANING` · cosine + (1 − `MEANING`) · BM25 as a share of the best BM25 score found, both floored at 0. A passage that the
/// vector search did not propose is taken to be as near as the last one it did.
fn fuse(corpus: &Corpus, query: &[String], near: &[VectorHit], candidates: usize) -> Vec<(Arc<Stored>, f32, f32)> {
    let lexical = corpus.bm25().search(query, candidates);
    let best = lexical.first().map_or(0.0, |(_, score)| *score);
    let words: HashMap<u32, f32> = lexical.iter().copied().collect();
    let floor = near.last().filter(|_| near.len() >= candidates).map_or(0.0, |hit| hit.score.max(0.0));
    let mut meaning: HashMap<u32, f32> = lexical.iter().map(|(slot, _)| (*slot, floor)).collect();
    // A hit that the snapshot does not know is of a file that changed meanwhile.
    meaning.extend(near.iter().filter_map(|hit| Some((corpus.slot(&hit.id)?, hit.score.max(0.0)))));
    meaning
        .into_iter()
        .filter_map(|(slot, cosine)| {
            let share = if best > 0.0 { words.get(&slot).map_or(0.0, |score| score / best) } else { 0.0 };
            Some((Arc::clone(corpus.stored(slot)?), MEANING * cosine + (1.0 - MEANING) * share, cosine))
        })
        .collect()
}
