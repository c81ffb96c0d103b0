//! Attention with rotated positions, heads that share keys and values, and a cache of fixed size.

use rayon::prelude::*;

use crate::local::simd::{exp, multiversioned, sum, total};

/// How many heads there are, and of what size.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    /// Heads that ask.
    pub(crate) query: usize,
    /// Heads with keys and values, each shared by as many that ask.
    pub(crate) shared: usize,
    /// Numbers in a head.
    pub(crate) size: usize,
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

/// The cosine and sine of each pair of a head, for `count` positions from `first` on.
pub(crate) fn rotation(first: usize, count: usize, size: usize, base: f32) -> Vec<(f32, f32)> {
    let angle = |position: usize, pair: usize| {
        #[allow(clippy::cast_precision_loss, reason = "positions and sizes are far below 2^53")]
        let angle = position as f64 / f64::from(base).powf(2.0 * pair as f64 / size as f64);
        #[allow(clippy::cast_possible_truncation, reason = "single precision is what the model computes in")]
        let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
        (cos, sin)
    };
    (first..first + count).flat_map(|position| (0..size / 2).map(move |pair| angle(position, pair))).collect()
}

/// Turns neighbouring numbers of each head by the angles of its position: llama's pairs, as GGUF stores them.
fn rotate(heads: &mut [f32], size: usize, angles: &[(f32, f32)]) {
    for head in heads.chunks_exact_mut(size) {
        for (pair, (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
            let [a, b] = *pair;
            *pair = [a * cos - b * sin, a * sin + b * cos];
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
    let Heads { query, shared, size } = heads;
    let (asking, keeping) = (query * size, shared * size);
    let row_length = asking + 2 * keeping;
    for ((index, row), angles) in rows.chunks_exact_mut(row_length).enumerate().zip(rotation.chunks_exact(size / 2)) {
        rotate(&mut row[..asking + keeping], size, angles);
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
        let seen = start..start + (first + position + 1) * size;
        mix(asks, &cache.keys[seen.clone()], &cache.values[seen], scores, out);
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
    pub(crate) fn mix(asks: &[f32], keys: &[f32], values: &[f32], scores: &mut Vec<f32>, out: &mut [f32]) {
        let size = asks.len();
        #[allow(clippy::cast_precision_loss, reason = "a head is far below 2^24")]
        let scale = (size as f32).sqrt().recip();
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
        let heads = Heads { query: 2, shared: 1, size: 16 };
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
    fn rotation_turns_neighbours_and_keeps_lengths() {
        let angles = rotation(3, 1, 4, 10_000.0);
        let mut head = [1.0, 0.0, 0.0, 2.0];
        rotate(&mut head, 4, &angles);
        let expected = [3f32.cos(), 3f32.sin(), -2.0 * 0.03f32.sin(), 2.0 * 0.03f32.cos()];
        for (found, expected) in head.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6);
        }
    }
}
