//! Attention with rotated positions, heads that share keys and values, and a cache of fixed size.

use rayon::prelude::*;

use crate::local::simd::{bend, exp, multiversioned, sum, total};

/// How many heads there are, of what size, and how they look at what came before.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    /// Heads that ask.
    pub(crate) query: usize,
    /// Heads with keys and values, each shared by as many that ask.
    pub(crate) shared: usize,
    /// Numbers in a head.
    pub(crate) size: usize,
    /// Which numbers of a head turn together.
    pub(crate) pairs: Pairs,
    /// What a score is times.
    pub(crate) scale: f32,
    /// A score is bent so that it stays between this and its negative.
    pub(crate) cap: Option<f32>,
    /// How many positions are seen, the own one among them; all where it is not given.
    pub(crate) window: Option<usize>,
}

impl Heads {
    /// Heads that see everything before them, with pairs of neighbours and the usual scale: the root of a head's size takes what the sum of as many
    /// products gains.
    pub(crate) fn new(query: usize, shared: usize, size: usize) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "a head is far below 2^24")]
        let scale = (size as f32).sqrt().recip();
        Self { query, shared, size, pairs: Pairs::Neighbours, scale, cap: None, window: None }
    }

    /// Numbers of all heads that ask.
    pub(crate) fn asking(&self) -> usize {
        self.query * self.size
    }

    /// Numbers of all heads with keys.
    pub(crate) fn keeping(&self) -> usize {
        self.shared * self.size
    }
}

/// Which numbers of a head turn together. GGUF leaves the order of a head's numbers to the architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairs {
    /// The first with the second, the third with the fourth.
    Neighbours,
    /// The first of the first half with the first of the second.
    Halves,
}

/// Positions below which sharing one token's work among threads costs more than it saves.
const ALONE: usize = 512;

/// The keys and values of one layer: head by head, position by position.
pub(crate) struct Cache {
    keys: Vec<f32>,
    values: Vec<f32>,
    room: usize,
}

impl Cache {
    /// Room for `room` positions; the system gives memory only to those that are used.
    pub(crate) fn new(heads: Heads, room: usize) -> Self {
        let length = heads.shared * heads.size * room;
        Self { keys: vec![0.0; length], values: vec![0.0; length], room }
    }

    /// Takes over the first `length` positions of another cache of the same size.
    pub(crate) fn take_from(&mut self, other: &Self, heads: Heads, length: usize) {
        for head in 0..heads.shared {
            let start = head * self.room * heads.size;
            let positions = start..start + length * heads.size;
            self.keys[positions.clone()].copy_from_slice(&other.keys[positions.clone()]);
            self.values[positions.clone()].copy_from_slice(&other.values[positions]);
        }
    }
}

/// By which angles the pairs of a head are turned.
pub(crate) struct Rope {
    /// A pair turns by the position divided by this.
    divisors: Vec<f64>,
    /// What cosines and sines are times: above 1 where a model was stretched to longer texts than it was first trained with.
    magnitude: f32,
}

impl Rope {
    /// The angles of the first `turned` numbers of a head.
    pub(crate) fn new(base: f32, turned: usize) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^53")]
        let divisor = |pair: usize| f64::from(base).powf(2.0 * pair as f64 / turned as f64);
        Self { divisors: (0..turned / 2).map(divisor).collect(), magnitude: 1.0 }
    }

    /// The same, with each pair slower by its factor.
    pub(crate) fn slower(mut self, factors: impl IntoIterator<Item = f32>) -> Self {
        for (divisor, factor) in self.divisors.iter_mut().zip(factors) {
            *divisor *= f64::from(factor);
        }
        self
    }

    /// The same, with this magnitude.
    pub(crate) fn stretched(self, magnitude: f32) -> Self {
        Self { magnitude, ..self }
    }

    /// The cosine and sine of each pair, for `count` positions from `first` on.
    pub(crate) fn angles(&self, first: usize, count: usize) -> Vec<(f32, f32)> {
        let angle = |position: usize, divisor: &f64| {
            #[allow(clippy::cast_precision_loss, reason = "positions are far below 2^53")]
            let angle = position as f64 / divisor;
            #[allow(clippy::cast_possible_truncation, reason = "single precision is what the model computes in")]
            let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
            (cos * self.magnitude, sin * self.magnitude)
        };
        let positions = first..first + count;
        positions.flat_map(|position| self.divisors.iter().map(move |divisor| angle(position, divisor))).collect()
    }
}

/// Turns the pairs of each head by the angles of its position. Numbers beyond the last pair stay.
fn rotate(heads: &mut [f32], size: usize, pairs: Pairs, angles: &[(f32, f32)]) {
    match pairs {
        Pairs::Neighbours => {
            for head in heads.chunks_exact_mut(size) {
                for (pair, (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                    let [a, b] = *pair;
                    *pair = [a * cos - b * sin, a * sin + b * cos];
                }
            }
        }
        Pairs::Halves => {
            for head in heads.chunks_exact_mut(size) {
                let (first, second) = head.split_at_mut(angles.len());
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        }
    }
}

/// Adds the keys and values of new positions to `cache` and mixes the values that each asks for into `out`. A row of `rows`
/// holds a position's queries, keys and values one after the other.
pub(crate) fn attend(
    heads: Heads,
    cache: &mut Cache,
    first: usize,
    rotation: &[(f32, f32)],
    rows: &mut [f32],
    out: &mut [f32],
) {
    let Heads { query, shared, size, pairs, scale, cap, window } = heads;
    let (asking, keeping) = (heads.asking(), heads.keeping());
    let row_length = asking + 2 * keeping;
    let turned = rotation.len() / (rows.len() / row_length).max(1);
    for ((index, row), angles) in rows.chunks_exact_mut(row_length).enumerate().zip(rotation.chunks_exact(turned)) {
        rotate(&mut row[..asking + keeping], size, pairs, angles);
        let (keys, values) = row[asking..].split_at(keeping);
        for head in 0..shared {
            let to = (head * cache.room + first + index) * size;
            cache.keys[to..to + size].copy_from_slice(&keys[head * size..(head + 1) * size]);
            cache.values[to..to + size].copy_from_slice(&values[head * size..(head + 1) * size]);
        }
    }
    let (cache, rows) = (&*cache, &*rows);
    let one = |scores: &mut Vec<f32>, (index, out): (usize, &mut [f32])| {
        let (position, head) = (index / query, index % query);
        let asks = &rows[position * row_length + head * size..][..size];
        let start = head / (query / shared) * cache.room * size;
        let end = first + position + 1;
        let begin = window.map_or(0, |window| end.saturating_sub(window));
        let seen = start + begin * size..start + end * size;
        mix(asks, &cache.keys[seen.clone()], &cache.values[seen], scale, cap, scores, out);
    };
    if out.len() == asking && first < ALONE {
        let mut scores = Vec::new();
        out.chunks_mut(size).enumerate().for_each(|job| one(&mut scores, job));
    } else {
        out.par_chunks_mut(size).enumerate().for_each_init(Vec::new, one);
    }
}

multiversioned! {
    /// The values, weighted by how well their keys answer `asks`.
    pub(crate) fn mix(
        asks: &[f32],
        keys: &[f32],
        values: &[f32],
        scale: f32,
        cap: Option<f32>,
        scores: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let size = asks.len();
        // Plain loops: a closure may become a function of its own, which has none of these instructions.
        scores.resize(keys.len() / size, 0.0);
        let mut most = [f32::NEG_INFINITY; 16];
        for (index, (score, key)) in scores.iter_mut().zip(keys.chunks_exact(size)).enumerate() {
            let mut sums = [0f32; 16];
            for (asks, key) in asks.as_chunks::<16>().0.iter().zip(key.as_chunks::<16>().0) {
                for ((sum, a), b) in sums.iter_mut().zip(asks).zip(key) {
                    *sum += a * b;
                }
            }
            *score = total(sums) * scale;
            most[index % 16] = if *score > most[index % 16] { *score } else { most[index % 16] };
        }
        let mut top = f32::NEG_INFINITY;
        for most in most {
            top = if most > top { most } else { top };
        }
        if let Some(cap) = cap {
            for score in scores.iter_mut() {
                *score = bend(*score, cap);
            }
            top = bend(top, cap);
        }
        for score in scores.iter_mut() {
            *score = exp(*score - top);
        }
        let scale = sum(scores).recip();
        out.fill(0.0);
        for (score, value) in scores.iter().zip(values.chunks_exact(size)) {
            let weight = score * scale;
            for (out, value) in out.iter_mut().zip(value) {
                *out += weight * value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_is_softmax_over_what_came_before() {
        let heads = Heads::new(2, 1, 16);
        let mut random = fastrand::Rng::with_seed(5);
        let rows: Vec<f32> = (0..3 * 64).map(|_| random.f32() - 0.5).collect();
        // All angles 0: no rotation, so that the reference stays plain.
        let still = vec![(1.0, 0.0); 3 * 8];
        let (mut all, mut at_once) = (rows.clone(), vec![0.0; 3 * 32]);
        attend(heads, &mut Cache::new(heads, 3), 0, &still, &mut all, &mut at_once);

        let (mut cache, mut one_by_one) = (Cache::new(heads, 3), Vec::new());
        for position in 0..3 {
            let (mut row, mut out) = (rows[position * 64..(position + 1) * 64].to_vec(), vec![0.0; 32]);
            attend(heads, &mut cache, position, &still[..8], &mut row, &mut out);
            one_by_one.extend(out);
        }
        assert_eq!(at_once, one_by_one);

        for position in 0..3 {
            for head in 0..2 {
                let asks = &rows[position * 64 + head * 16..][..16];
                let weights: Vec<f64> = (0..=position)
                    .map(|seen| (0..16).map(|n| f64::from(asks[n] * rows[seen * 64 + 32 + n])).sum::<f64>() / 4.0)
                    .map(f64::exp)
                    .collect();
                for n in 0..16 {
                    let mixed: f64 =
                        (0..=position).map(|seen| weights[seen] * f64::from(rows[seen * 64 + 48 + n])).sum();
                    let expected = mixed / weights.iter().sum::<f64>();
                    assert!((f64::from(at_once[position * 32 + head * 16 + n]) - expected).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn a_window_hides_what_is_older_and_a_cap_bends_scores() {
        let heads = Heads { window: Some(2), cap: Some(0.5), scale: 2.0, ..Heads::new(1, 1, 16) };
        let mut random = fastrand::Rng::with_seed(9);
        let rows: Vec<f32> = (0..4 * 48).map(|_| random.f32() - 0.5).collect();
        let mut out = vec![0.0; 4 * 16];
        attend(heads, &mut Cache::new(heads, 4), 0, &[(1.0, 0.0); 4 * 8], &mut rows.clone(), &mut out);
        let part = |position: usize, part: usize| &rows[position * 48 + part * 16..][..16];
        for position in 0_usize..4 {
            let seen = position.saturating_sub(1)..=position;
            let weight = |at: usize| {
                let dot = part(position, 0).iter().zip(part(at, 1)).map(|(a, b)| f64::from(*a) * f64::from(*b));
                (0.5 * (2.0 * dot.sum::<f64>() / 0.5).tanh()).exp()
            };
            let all: f64 = seen.clone().map(weight).sum();
            for n in 0..16 {
                let expected: f64 = seen.clone().map(|at| weight(at) / all * f64::from(part(at, 2)[n])).sum();
                assert!((f64::from(out[position * 16 + n]) - expected).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn rotation_turns_pairs_and_keeps_lengths() {
        let angles = Rope::new(10_000.0, 4).angles(3, 1);
        let turn = |x: f32, by: f32| (x * by.cos(), x * by.sin());
        // (1, 0) by 3, and (0, 2) by 0.03: neighbours, then halves of the first four numbers.
        let ((a, b), (d, c)) = (turn(1.0, 3.0), turn(2.0, 0.03));
        for (pairs, mut head, expected) in [
            (Pairs::Neighbours, [1.0, 0.0, 0.0, 2.0, 5.0, 6.0], [a, b, -c, d, 5.0, 6.0]),
            (Pairs::Halves, [1.0, 0.0, 0.0, 2.0, 5.0, 6.0], [a, -c, b, d, 5.0, 6.0]),
        ] {
            rotate(&mut head, 6, pairs, &angles);
            for (found, expected) in head.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{pairs:?}: {head:?}");
            }
        }
    }

    #[test]
    fn a_slower_rope_turns_less_and_a_stretched_one_lengthens() {
        let angles = Rope::new(100.0, 4).slower([2.0, 4.0]).stretched(1.5).angles(6, 1);
        let [(cos, _), (_, sin)] = angles[..] else { panic!("{} pairs", angles.len()) };
        assert!((cos - 1.5 * 3f32.cos()).abs() < 1e-6);
        assert!((sin - 1.5 * 0.15f32.sin()).abs() < 1e-6);
    }
}
