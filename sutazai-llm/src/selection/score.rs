//! How well a model serves a need, part by part.

use std::cmp::Ordering;

use serde::Serialize;

use super::{
    candidate::{Candidate, Presence, Runs},
    need::Need,
};
use crate::{bench::Marks, tier::Tier};

/// Tokens of prompt that are reckoned with at least.
const PROMPT: usize = 512;

/// Tokens of answer that are reckoned with.
const ANSWER: usize = 128;

/// Seconds that are worth half.
const HALF: f64 = 10.0;

/// How well a model serves a need.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// The sum of the parts' points; 1,000 at most.
    pub points: u32,
    /// Quality, tier, speed, readiness and room.
    pub parts: Vec<Part>,
}

/// A part of a score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// `quality`, `tier`, `speed`, `readiness` or `room`.
    pub name: &'static str,
    /// Its points.
    pub points: u32,
    /// Its points at best.
    pub of: u32,
    /// What made it, for people.
    pub why: String,
    /// From 0 to 1.
    #[serde(skip)]
    value: f64,
}

impl Part {
    fn new(name: &'static str, of: u32, value: f64, why: String) -> Self {
        let value = value.clamp(0.0, 1.0);
        Self { name, points: (f64::from(of) * value).round() as u32, of, why, value }
    }
}

impl Score {
    /// The score of a candidate that can serve.
    pub(super) fn of(need: &Need, candidate: &Candidate) -> Self {
        let parts = vec![
            quality(need, candidate),
            tier(need.tier, &candidate.info.name),
            speed(need, candidate),
            readiness(candidate),
            room(need, candidate),
        ];
        Self { points: parts.iter().map(|part| part.points).sum(), parts }
    }

    /// The better one first.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let unrounded = || {
            let pairs = self.parts.iter().zip(&other.parts);
            let orders = pairs.map(|(own, other)| other.value.total_cmp(&own.value));
            orders.fold(Ordering::Equal, Ordering::then)
        };
        other.points.cmp(&self.points).then_with(unrounded)
    }
}

fn quality(need: &Need, candidate: &Candidate) -> Part {
    const OF: u32 = 500;
    let Some(measured) = &candidate.measured else {
        return Part::new("quality", OF, succession(0.0, 0.0), "not measured: half is assumed".into());
    };
    let own = measured.marks(need.tier);
    let others = Tier::ALL.into_iter().filter(|tier| *tier != need.tier).map(|tier| measured.marks(tier));
    let others = others.fold(Marks::default(), |sum, marks| {
        Marks::new(sum.right.saturating_add(marks.right), sum.asked.saturating_add(marks.asked))
    });
    let form = if need.capabilities.schema { measured.json } else { Marks::default() };
    let right = f64::from(own.right) + f64::from(others.right) / 4.0 + f64::from(form.right);
    let asked = f64::from(own.asked) + f64::from(others.asked) / 4.0 + f64::from(form.asked);
    let mut why =
        format!("{} of {} {}, {} of {} others", own.right, own.asked, need.tier.as_str(), others.right, others.asked);
    if form.asked > 0 {
        why.push_str(&format!(", {} of {} in form", form.right, form.asked));
    }
    Part::new("quality", OF, succession(right, asked), why)
}

/// Laplace's rule of succession.
fn succession(right: f64, asked: f64) -> f64 {
    (right + 1.0) / (asked + 2.0)
}

fn tier(tier: Tier, name: &str) -> Part {
    const OF: u32 = 250;
    let (word, first) = (tier.as_str(), tier.models()[0].name);
    let (value, why) = match tier.standing(name) {
        None => (0.0, format!("the documents do not name it; for {word} they have {first}")),
        Some(standing) => {
            let why = match (standing.place, standing.same_size) {
                (0, true) => format!("the documents have it for {word}"),
                (0, false) => format!("the documents have it in another size for {word}: {first}"),
                (place, true) => format!("choice {} for {word}; the documents have {first}", place + 1),
                (place, false) => {
                    format!("choice {} for {word} in another size; the documents have {first}", place + 1)
                }
            };
            (standing.value(), why)
        }
    };
    Part::new("tier", OF, value, why)
}

fn speed(need: &Need, candidate: &Candidate) -> Part {
    const OF: u32 = 150;
    let measured = candidate.measured.as_ref();
    let reads = measured.and_then(|measured| measured.prompt_tokens_per_s).filter(is_rate);
    let writes = measured.and_then(|measured| measured.generation_tokens_per_s).filter(is_rate);
    let (Some(reads), Some(writes)) = (reads, writes) else {
        return Part::new("speed", OF, 0.0, "not measured".into());
    };
    let prompt = need.context_tokens.saturating_sub(ANSWER).max(PROMPT);
    let seconds = prompt as f64 / reads + ANSWER as f64 / writes;
    let why = format!("about {seconds:.1} s for {prompt} tokens of prompt and {ANSWER} of answer");
    Part::new("speed", OF, 1.0 / (1.0 + seconds / HALF), why)
}

fn is_rate(rate: &f64) -> bool {
    rate.is_finite() && *rate > 0.0
}

fn readiness(candidate: &Candidate) -> Part {
    const OF: u32 = 50;
    match (&candidate.presence, candidate.runs) {
        (Presence::Loaded, _) => Part::new("readiness", OF, 1.0, "in memory".into()),
        (_, Runs::Here) => Part::new("readiness", OF, 0.5, "to be loaded first".into()),
        (_, Runs::Elsewhere) => Part::new("readiness", OF, 0.5, "served elsewhere".into()),
    }
}

fn room(need: &Need, candidate: &Candidate) -> Part {
    const OF: u32 = 50;
    if candidate.runs == Runs::Elsewhere || candidate.presence == Presence::Loaded {
        return Part::new("room", OF, 1.0, "takes no more memory here".into());
    }
    match (candidate.memory(), need.memory) {
        (Some(bytes), Some(available)) if available > 0 => {
            let left = available.saturating_sub(bytes);
            let why = format!("leaves {} of {} MB", left / 1_000_000, available / 1_000_000);
            Part::new("room", OF, left as f64 / available as f64, why)
        }
        (None, _) => Part::new("room", OF, 0.0, "what it takes is not known".into()),
        _ => Part::new("room", OF, 0.0, "the memory is not known".into()),
    }
}
