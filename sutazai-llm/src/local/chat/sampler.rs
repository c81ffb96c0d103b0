//! Choosing the next token: greedy, or from the nucleus with a seed.

use std::cmp::Ordering;

use sutazai_core::model::Sampling;

/// Chooses tokens for one answer.
pub(crate) struct Sampler {
    temperature: f32,
    top_p: f32,
    random: fastrand::Rng,
    /// Scratch, kept between tokens: candidates with their weights.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler; without a seed it draws its own.
    pub(crate) fn new(sampling: Sampling) -> Self {
        let random = sampling.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self { temperature: sampling.temperature, top_p: sampling.top_p, random, candidates: Vec::new() }
    }

    /// The next token, of those that `allowed` lets through; none if that is none.
    pub(crate) fn choose(&mut self, logits: &[f32], allowed: impl Fn(u32) -> bool) -> Option<u32> {
        let tokens = || (0..).zip(logits).filter(|(id, logit)| logit.is_finite() && allowed(*id));
        let (best, top) = tokens().fold(None, |best: Option<(u32, f32)>, (id, &logit)| match best {
            Some((_, top)) if top >= logit => best,
            _ => Some((id, logit)),
        })?;
        if self.temperature <= 0.0 {
            return Some(best);
        }
        let scale = self.temperature.recip();
        self.candidates.clear();
        self.candidates.extend(tokens().map(|(id, &logit)| (((logit - top) * scale).exp(), id)));
        if self.top_p < 1.0 {
            self.keep_nucleus();
        }
        let total: f32 = self.candidates.iter().map(|(weight, _)| weight).sum();
        let mut left = self.random.f32() * total;
        let drawn = self.candidates.iter().find(|(weight, _)| {
            left -= weight;
            left < 0.0
        });
        Some(drawn.map_or(best, |(_, id)| *id))
    }

    /// Keeps the smallest set of candidates that has `top_p` of the weight.
    fn keep_nucleus(&mut self) {
        let total: f32 = self.candidates.iter().map(|(weight, _)| weight).sum();
        #[allow(clippy::cast_precision_loss, reason = "a vocabulary is far below 2^24")]
        let others = self.candidates.len().max(2) as f32 - 1.0;
        // Below this none can be in the nucleus, and sorting fewer is what takes the time.
        let least = total * (1.0 - self.top_p) / others;
        self.candidates.retain(|(weight, _)| *weight >= least);
        self.candidates.sort_unstable_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1)));
        let (mut sum, wanted) = (0.0, total * self.top_p);
        let inside = self.candidates.iter().position(|(weight, _)| {
            sum += weight;
            sum >= wanted
        });
        self.candidates.truncate(inside.map_or(self.candidates.len(), |last| last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f32, top_p: f32, seed: u64) -> Sampler {
        Sampler::new(Sampling { temperature, top_p, seed: Some(seed) })
    }

    #[test]
    fn greedy_takes_the_first_best_of_the_allowed() {
        let logits = [0.5, 2.0, f32::NAN, 2.0, 3.0];
        assert_eq!(sampler(0.0, 1.0, 0).choose(&logits, |_| true), Some(4));
        assert_eq!(sampler(0.0, 1.0, 0).choose(&logits, |id| id != 4), Some(1));
        assert_eq!(sampler(0.0, 1.0, 0).choose(&logits, |_| false), None);
        assert_eq!(sampler(1.0, 0.5, 0).choose(&[f32::NAN], |_| true), None);
    }

    #[test]
    fn a_seed_draws_the_same_again_and_all_that_is_likely() {
        let logits = [1.0, 1.2, 0.8, -20.0];
        let draw = |seed| {
            let mut sampler = sampler(1.0, 1.0, seed);
            (0..200).map(|_| sampler.choose(&logits, |_| true).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        for token in 0..3 {
            assert!(draw(7).contains(&token));
        }
        assert!(!draw(7).contains(&3));
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_with_the_mass() {
        // Weights 0.6, 0.3, 0.1.
        let logits = [0.6f32.ln(), 0.1f32.ln(), 0.3f32.ln()];
        let drawn = |top_p| {
            let mut sampler = sampler(1.0, top_p, 3);
            let mut all: Vec<_> = (0..300).map(|_| sampler.choose(&logits, |_| true).unwrap()).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        assert_eq!(drawn(0.5), [0]);
        assert_eq!(drawn(0.7), [0, 2]);
        assert_eq!(drawn(0.95), [0, 1, 2]);
    }
}
