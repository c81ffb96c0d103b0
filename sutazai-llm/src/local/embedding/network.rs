//! BERT's encoder over candle's tensors, without padding: the tokens of all texts lie one after another, so a batch costs what its tokens cost.
//!
//! `candle-transformers` has a BERT too; it pads, and it alone costs as much compile time as candle itself.

use candle_core::{CpuStorage, Device, InplaceOp1, InplaceOp2, Layout, Result, Tensor, bail};
use candle_nn::{VarBuilder, ops::softmax_last_dim};
use rayon::prelude::*;
use serde::Deserialize;

use crate::local::simd::{exp, multiversioned, squares, sum};

/// The measures of a model, as its `config.json` gives them.
#[derive(Deserialize)]
pub(super) struct Config {
    pub(super) hidden_size: usize,
    pub(super) max_position_embeddings: usize,
    vocab_size: usize,
    type_vocab_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    layer_norm_eps: f32,
    #[serde(rename = "hidden_act")]
    _activation: Activation,
}

/// The one activation that is built; a model with another is refused.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Activation {
    Gelu,
}

/// The encoder.
pub(super) struct Bert {
    words: Tensor,
    /// Of the positions, with that of the first kind of token added: texts come alone.
    places: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
}

impl Bert {
    /// Takes the weights it needs; fails if one is missing or of another shape.
    pub(super) fn load(weights: &VarBuilder<'_>, config: &Config) -> Result<Self> {
        let (width, heads) = (config.hidden_size, config.num_attention_heads);
        if heads == 0 || !width.is_multiple_of(heads) {
            bail!("{heads} heads do not divide a width of {width}");
        }
        let root = if weights.contains_tensor("bert.embeddings.word_embeddings.weight") {
            weights.pp("bert")
        } else {
            weights.clone()
        };
        let embeddings = root.pp("embeddings");
        let table = |name: &str, rows| embeddings.get((rows, width), &format!("{name}_embeddings.weight"));
        let kind = table("token_type", config.type_vocab_size)?.narrow(0, 0, 1)?;
        Ok(Self {
            words: table("word", config.vocab_size)?,
            places: table("position", config.max_position_embeddings)?.broadcast_add(&kind)?,
            norm: Norm::load(&embeddings.pp("LayerNorm"), vec![0.0; width], config)?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::load(&root.pp(format!("encoder.layer.{index}")), config))
                .collect::<Result<_>>()?,
            heads,
        })
    }

    /// The last layer: a row for each token, text after text. Texts of one length that follow one another share their products.
    pub(super) fn forward(&self, texts: &[&[u32]]) -> Result<Tensor> {
        let tensor = |values: Vec<u32>| {
            let count = values.len();
            Tensor::from_vec(values, count, &Device::Cpu)
        };
        let words = self.words.index_select(&tensor(texts.concat())?, 0)?;
        let positions = texts.iter().flat_map(|text| (0..).take(text.len())).collect();
        let places = self.places.index_select(&tensor(positions)?, 0)?;
        let mut hidden = words;
        hidden.inplace_op2(&places, &self.norm)?;
        let runs: Vec<(usize, usize)> =
            texts.chunk_by(|a, b| a.len() == b.len()).map(|run| (run.len(), run[0].len())).collect();
        for layer in &self.layers {
            hidden = layer.forward(hidden, &runs, self.heads)?;
        }
        Ok(hidden)
    }
}

struct Layer {
    /// Queries, keys and values in one product.
    mixed: Linear,
    attended: Tensor,
    attended_norm: Norm,
    inner: Tensor,
    activation: Gelu,
    outer: Tensor,
    outer_norm: Norm,
}

impl Layer {
    fn load(weights: &VarBuilder<'_>, config: &Config) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let attention = weights.pp("attention");
        let parts = ["query", "key", "value"].map(|part| Linear::load(&attention.pp("self").pp(part), width, width));
        let [query, key, value] = parts;
        let (query, key, value) = (query?, key?, value?);
        // Scores are divided by the root of a head's size: done once, here.
        let scale = ((width / config.num_attention_heads) as f64).sqrt().recip();
        let mixed = Linear {
            weights: Tensor::cat(&[&(query.weights * scale)?, &key.weights, &value.weights], 1)?,
            bias: Tensor::cat(&[&(query.bias * scale)?, &key.bias, &value.bias], 0)?,
        };
        let attended = Linear::load(&attention.pp("output.dense"), width, width)?;
        let inner_part = Linear::load(&weights.pp("intermediate.dense"), width, inner)?;
        let outer = Linear::load(&weights.pp("output.dense"), inner, width)?;
        Ok(Self {
            mixed,
            attended: attended.weights,
            attended_norm: Norm::load(&attention.pp("output.LayerNorm"), attended.bias.to_vec1()?, config)?,
            inner: inner_part.weights,
            activation: Gelu { bias: inner_part.bias.to_vec1()? },
            outer: outer.weights,
            outer_norm: Norm::load(&weights.pp("output.LayerNorm"), outer.bias.to_vec1()?, config)?,
        })
    }

    fn forward(&self, hidden: Tensor, runs: &[(usize, usize)], heads: usize) -> Result<Tensor> {
        let mixed = hidden.matmul(&self.mixed.weights)?.broadcast_add(&self.mixed.bias)?;
        let mut parts = Vec::with_capacity(runs.len());
        let mut start = 0;
        for &(count, length) in runs {
            parts.push(attend(&mixed.narrow(0, start, count * length)?, count, length, heads)?);
            start += count * length;
        }
        let attended = Tensor::cat(&parts, 0)?.matmul(&self.attended)?;
        attended.inplace_op2(&hidden, &self.attended_norm)?;
        let inner = attended.matmul(&self.inner)?;
        inner.inplace_op1(&self.activation)?;
        let outer = inner.matmul(&self.outer)?;
        outer.inplace_op2(&attended, &self.outer_norm)?;
        Ok(outer)
    }
}

/// What each token of `count` texts of one length takes from the tokens of its own text.
fn attend(mixed: &Tensor, count: usize, length: usize, heads: usize) -> Result<Tensor> {
    let width = mixed.dim(1)? / 3;
    let size = width / heads;
    let split = mixed.reshape((count, length, 3, heads, size))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
    let part = |index: usize| split.get(index)?.reshape((count * heads, length, size));
    let scores = part(0)?.matmul(&part(1)?.t()?)?;
    let attended = softmax_last_dim(&scores)?.matmul(&part(2)?)?;
    attended.reshape((count, heads, length, size))?.permute((0, 2, 1, 3))?.reshape((count * length, width))
}

/// A product with a bias; the weights stand as `(from, to)`.
struct Linear {
    weights: Tensor,
    bias: Tensor,
}

impl Linear {
    fn load(weights: &VarBuilder<'_>, from: usize, to: usize) -> Result<Self> {
        Ok(Self { weights: weights.get((to, from), "weight")?.t()?.contiguous()?, bias: weights.get(to, "bias")? })
    }
}

/// Adds a bias and the other operand, then brings each row to mean 0 and variance 1, scales and shifts it.
struct Norm {
    bias: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    fn load(weights: &VarBuilder<'_>, bias: Vec<f32>, config: &Config) -> Result<Self> {
        let get = |name: &str| weights.get(config.hidden_size, name)?.to_vec1();
        Ok(Self { bias, scale: get("weight")?, shift: get("bias")?, epsilon: config.layer_norm_eps })
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
struct Gelu {
    bias: Vec<f32>,
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
}
