//! What stands between the products of an encoder: norms, activations, gates and turned heads, on tensors as they lie in memory.

use candle_core::{CpuStorage, CustomOp1, InplaceOp1, InplaceOp2, Layout, Result, Shape, bail};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use crate::local::simd::{exp, multiversioned, squares, sum};

/// Adds a bias and the other operand, then brings each row to mean 0 and variance 1, scales and shifts it.
pub(super) struct Norm {
    bias: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    pub(super) fn load(weights: &VarBuilder<'_>, bias: Vec<f32>, epsilon: f32) -> Result<Self> {
        let get = |name: &str| weights.get(bias.len(), name)?.to_vec1();
        let (scale, shift) = (get("weight")?, get("bias")?);
        Ok(Self { bias, scale, shift, epsilon })
    }
}

impl InplaceOp2 for Norm {
    fn name(&self) -> &'static str {
        "add and normalise"
    }

    fn cpu_fwd(&self, rows: &mut CpuStorage, layout: &Layout, other: &CpuStorage, other_layout: &Layout) -> Result<()> {
        let width = self.bias.len();
        let rows = numbers_mut(rows, layout, width)?;
        let (CpuStorage::F32(other), Some((start, end))) = (other, other_layout.contiguous_offsets()) else {
            bail!("rows to add must be 32-bit floats that lie together");
        };
        let Some(other) = other.get(start..end).filter(|other| other.len() == rows.len()) else {
            bail!("rows to add must be as many as there are");
        };
        rows.par_chunks_mut(width * ROWS).zip(other.par_chunks(width * ROWS)).for_each(|(rows, other)| {
            normalise(rows, other, &self.bias, &self.scale, &self.shift, self.epsilon);
        });
        Ok(())
    }
}

/// Adds a bias, then x · Φ(x), Φ the normal distribution's: GELU as it was defined (Hendrycks and Gimpel, 2016).
pub(super) struct Gelu {
    pub(super) bias: Vec<f32>,
}

impl InplaceOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, rows: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let width = self.bias.len();
        numbers_mut(rows, layout, width)?.par_chunks_mut(width * ROWS).for_each(|rows| gelu(rows, &self.bias));
        Ok(())
    }
}

/// Rows of twice `inner` numbers become rows of half as many: the first half times what its gate, the second half, lets through.
pub(super) struct Gate {
    pub(super) inner: usize,
}

impl CustomOp1 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let inner = self.inner;
        let (CpuStorage::F32(numbers), Some((start, end))) = (rows, layout.contiguous_offsets()) else {
            bail!("rows must be 32-bit floats that lie together");
        };
        let Some(numbers) = numbers.get(start..end).filter(|rows| inner > 0 && rows.len().is_multiple_of(2 * inner))
        else {
            bail!("rows must have twice {inner} numbers");
        };
        let mut out = vec![0.0; numbers.len() / 2];
        out.par_chunks_mut(inner * ROWS).zip(numbers.par_chunks(2 * inner * ROWS)).for_each(|(out, rows)| {
            gate(rows, inner, out);
        });
        let shape = Shape::from((out.len() / inner, inner));
        Ok((CpuStorage::F32(out), shape))
    }
}

/// The angles by which the halves of a head are turned against each other.
pub(super) struct Rope {
    /// Numbers of a head.
    size: usize,
    /// The cosine and sine of each pair, position by position.
    angles: Vec<(f32, f32)>,
}

impl Rope {
    /// The angles of heads of `size` numbers, whose slowest pair turns next to `base` times slower than the first, at `positions` positions.
    pub(super) fn new(base: f32, size: usize, positions: usize) -> Self {
        let angle = |position: usize, pair: usize| {
            let angle = position as f64 / f64::from(base).powf(2.0 * pair as f64 / size as f64);
            (angle.cos() as f32, angle.sin() as f32)
        };
        let pairs = |position| (0..size / 2).map(move |pair| angle(position, pair));
        Self { size, angles: (0..positions).flat_map(pairs).collect() }
    }

    /// The turning of heads that stand position by position, each for a text of `length` tokens.
    pub(super) fn of(&self, length: usize) -> Turn<'_> {
        Turn { size: self.size, angles: &self.angles[..length * (self.size / 2)] }
    }
}

/// Turns heads, each given for all positions of a text.
pub(super) struct Turn<'a> {
    size: usize,
    angles: &'a [(f32, f32)],
}

impl InplaceOp1 for Turn<'_> {
    fn name(&self) -> &'static str {
        "turn"
    }

    fn cpu_fwd(&self, rows: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (size, angles) = (self.size, self.angles);
        let text = angles.len() * 2;
        numbers_mut(rows, layout, text)?.par_chunks_mut(text).for_each(|rows| {
            for (head, angles) in rows.chunks_exact_mut(size).zip(angles.chunks_exact(size / 2)) {
                let (first, second) = head.split_at_mut(size / 2);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        });
        Ok(())
    }
}

/// Rows that a thread takes at once.
const ROWS: usize = 16;

/// Rows as numbers; refuses what no product gives.
fn numbers_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout, width: usize) -> Result<&'a mut [f32]> {
    let (CpuStorage::F32(numbers), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
        bail!("rows must be 32-bit floats that lie together");
    };
    match numbers.get_mut(start..end) {
        Some(numbers) if width > 0 && numbers.len().is_multiple_of(width) => Ok(numbers),
        _ => bail!("rows must have {width} numbers"),
    }
}

multiversioned! {
    pub(crate) fn normalise(rows: &mut [f32], other: &[f32], bias: &[f32], scale: &[f32], shift: &[f32], epsilon: f32) {
        let width = bias.len();
        for (row, other) in rows.chunks_exact_mut(width).zip(other.chunks_exact(width)) {
            for ((x, y), bias) in row.iter_mut().zip(other).zip(bias) {
                *x += y + bias;
            }
            let mean = sum(row) / width as f32;
            let variance = squares(row, mean) / width as f32;
            let by = (variance + epsilon).sqrt().recip();
            for ((x, scale), shift) in row.iter_mut().zip(scale).zip(shift) {
                *x = (*x - mean) * by * scale + shift;
            }
        }
    }
}

multiversioned! {
    pub(crate) fn gelu(rows: &mut [f32], bias: &[f32]) {
        for row in rows.chunks_exact_mut(bias.len()) {
            for (x, bias) in row.iter_mut().zip(bias) {
                let y = *x + bias;
                *x = y * normal(y);
            }
        }
    }
}

multiversioned! {
    pub(crate) fn gate(rows: &[f32], inner: usize, out: &mut [f32]) {
        for (row, out) in rows.chunks_exact(2 * inner).zip(out.chunks_exact_mut(inner)) {
            let (up, gate) = row.split_at(inner);
            for ((out, up), gate) in out.iter_mut().zip(up).zip(gate) {
                *out = up * gate / (1.0 + exp(-gate));
            }
        }
    }
}

/// The normal distribution's Φ, to 1e-7: erf after Abramowitz and Stegun, 7.1.26.
#[inline(always)]
fn normal(x: f32) -> f32 {
    let at = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * at);
    let series = t * (0.254_829_6 + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    let tail = 0.5 * series * exp(-at * at);
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn the_normal_distribution_is_exact_enough() {
        // erf from its Taylor series (DLMF 7.6.1), in f64; beyond 4 it is 1 as far as f32 knows.
        let exact = |x: f64| {
            let z = x / std::f64::consts::SQRT_2;
            let (mut term, mut erf) = (z, z);
            for n in 1..200 {
                term *= -z * z / f64::from(n);
                erf += term / f64::from(2 * n + 1);
            }
            0.5 + erf / std::f64::consts::PI.sqrt()
        };
        for step in -500..=500_i16 {
            let x = f32::from(step) / 100.0;
            assert!((f64::from(normal(x)) - exact(f64::from(x))).abs() < 3e-7, "{x}: {}", normal(x));
        }
        assert!(normal(-40.0) < 1e-30 && normal(40.0) == 1.0);
    }

    #[test]
    fn rows_are_normalised_whatever_their_length() {
        for width in [1, 15, 16, 17, 384] {
            let numbers = |seed: u64| {
                let mut random = fastrand::Rng::with_seed(seed);
                (0..3 * width).map(|_| random.f32() * 4.0 - 1.0).collect::<Vec<f32>>()
            };
            let (mut rows, other) = (numbers(1), numbers(2));
            let (bias, scale, shift) = (&numbers(3)[..width], &numbers(4)[..width], &numbers(5)[..width]);
            let sums: Vec<f64> =
                (0..3 * width).map(|n| f64::from(rows[n]) + f64::from(other[n]) + f64::from(bias[n % width])).collect();
            normalise(&mut rows, &other, bias, scale, shift, 1e-5);
            for (row, sums) in rows.chunks(width).zip(sums.chunks(width)) {
                let mean = sums.iter().sum::<f64>() / width as f64;
                let variance = sums.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                for (n, (found, x)) in row.iter().zip(sums).enumerate() {
                    let expected = (x - mean) / (variance + 1e-5).sqrt() * f64::from(scale[n]) + f64::from(shift[n]);
                    assert!((f64::from(*found) - expected).abs() < 1e-4, "{width}: {found} is not {expected}");
                }
            }
        }
    }

    #[test]
    fn gates_let_through_what_is_above_nothing() {
        let rows: Vec<f32> = (0..6 * 2 * 17).map(|n| (n as f32).sin() * 4.0).collect();
        let mut out = vec![0.0; 6 * 17];
        gate(&rows, 17, &mut out);
        for (index, found) in out.iter().enumerate() {
            let (row, n) = (index / 17 * 34, index % 17);
            let (up, gate) = (f64::from(rows[row + n]), f64::from(rows[row + 17 + n]));
            assert!((f64::from(*found) - up * gate / (1.0 + (-gate).exp())).abs() < 1e-5);
        }
    }

    #[test]
    fn a_turn_goes_by_the_position_within_a_text() {
        // Two heads of two texts of 2 tokens, each (1, 0, 0, 1): what the first position has stays as it is.
        let heads: Vec<f32> = [1.0, 0.0, 0.0, 1.0].repeat(8);
        let tensor = Tensor::from_vec(heads, (4, 2, 4), &Device::Cpu).unwrap();
        tensor.inplace_op1(&Rope::new(100.0, 4, 9).of(2)).unwrap();
        let found = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // The first pair, (1, 0), turns by 1, and the second, (0, 1), by a tenth.
        let turned = [1f32.cos(), -(0.1f32.sin()), 1f32.sin(), 0.1f32.cos()];
        for text in found.chunks(8) {
            assert_eq!(text[..4], [1.0, 0.0, 0.0, 1.0]);
            assert!(text[4..].iter().zip(turned).all(|(found, expected)| (found - expected).abs() < 1e-6), "{text:?}");
        }
    }
}
