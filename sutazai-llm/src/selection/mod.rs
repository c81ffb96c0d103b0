//! Which model is the right one: the tiers of the users' documents, tempered by what each model can do, whether it fits, and how it did in the bench.
//!
//! [`select`] is a pure function of a [`Need`] and some [`Candidate`]s. It first leaves out whoever cannot serve the need, each with its reasons
//! ([`Exclusion`]); whoever is left has a [`Score`] of at most 1,000 points, the sum of five parts:
//!
//! | part | points | what makes it |
//! | --- | --- | --- |
//! | quality | 500 | (r + 1) / (n + 2), where r of n questions of the bench were answered rightly |
//! | tier | 250 | 1 for the model that the documents have for the tier, ¾, ½, ¼ for their others in [its order](crate::tier::Tier::models), half for another size |
//! | speed | 150 | 1 / (1 + t / 10 s), where t is the time for a prompt of the need's length, 512 tokens at least, and 128 tokens of answer |
//! | readiness | 50 | 1 in memory, ½ on disk |
//! | room | 50 | what is left of the memory afterwards, as a share; 1 if no more is taken here |
//!
//! A question of the need's own tier counts as one, a question of another tier as a quarter, and where answers have to keep to a schema each answer of
//! the bench that was to keep to one counts as one. The estimate is Laplace's rule of succession (Laplace, *Essai philosophique sur les probabilités*, 1814): a
//! model that was never measured is taken to know half, and few questions say little. What is not known about speed or memory earns nothing.
//! The tiers and their models are the users'; the weights are ours: measured quality can outweigh the documents' choice, speed and room alone cannot.
//!
//! Every part looks at its own candidate only, so what else there is changes nobody's points. Equal points are decided by the parts in their order, unrounded,
//! and then by name and backend: a candidate that is better in one thing and worse in none is never ranked lower, and the order of the list that is
//! given does not matter.
//!
//! ```
//! use sutazai_core::model::{ModelCapabilities, ModelInfo};
//! use sutazai_llm::{
//!     selection::{Candidate, Need, Presence, select},
//!     tier::Tier,
//! };
//!
//! let model = |name: &str, presence| {
//!     let capabilities = ModelCapabilities { chat: true, ..ModelCapabilities::NONE };
//!     Candidate::new(ModelInfo { capabilities, ..ModelInfo::new(name, "ollama", 4096) }, presence)
//! };
//! let models = [model("tinyllama:latest", Presence::Ready), model("deepseek-coder:6.7b", Presence::Ready)];
//! assert_eq!(select(&Need::new(Tier::Code), &models).chosen().unwrap().info.name, "deepseek-coder:6.7b");
//! assert_eq!(select(&Need::new(Tier::General), &models).chosen().unwrap().info.name, "tinyllama:latest");
//! ```

mod candidate;
mod exclusion;
mod need;
mod score;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use self::{
    candidate::{Candidate, Presence, Runs},
    exclusion::Exclusion,
    need::Need,
    score::{Part, Score},
};

/// What became of every candidate: those that can serve, the best one first, then the others by name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Selection {
    /// What was wanted.
    pub need: Need,
    /// The candidates.
    pub verdicts: Vec<Verdict>,
}

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The candidate.
    pub candidate: Candidate,
    /// Whether it can serve.
    pub judgement: Judgement,
}

/// Whether a candidate can serve.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// It can, this well.
    Usable(Score),
    /// It cannot, for these reasons.
    Excluded(Vec<Exclusion>),
}

impl Verdict {
    /// Its score, if it can serve.
    #[must_use]
    pub fn score(&self) -> Option<&Score> {
        match &self.judgement {
            Judgement::Usable(score) => Some(score),
            Judgement::Excluded(_) => None,
        }
    }
}

impl Selection {
    /// The best one, if any can serve.
    #[must_use]
    pub fn chosen(&self) -> Option<&Candidate> {
        self.verdicts.first().filter(|verdict| verdict.score().is_some()).map(|verdict| &verdict.candidate)
    }
}

/// Judges every candidate by `need`; [the formula](self) says how.
#[must_use]
pub fn select(need: &Need, candidates: &[Candidate]) -> Selection {
    let judged = candidates.iter().map(|candidate| {
        let reasons = Exclusion::all(need, candidate);
        let judgement = if reasons.is_empty() {
            Judgement::Usable(Score::of(need, candidate))
        } else {
            Judgement::Excluded(reasons)
        };
        Verdict { candidate: candidate.clone(), judgement }
    });
    let mut verdicts: Vec<_> = judged.collect();
    verdicts.sort_by(|a, b| {
        let scores = match (a.score(), b.score()) {
            (Some(a), Some(b)) => a.order(b),
            // What can serve comes first.
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        scores.then_with(|| a.candidate.identity().cmp(&b.candidate.identity()))
    });
    Selection { need: need.clone(), verdicts }
}
