//! Encoders of BERT's family over candle's tensors, without padding: the tokens of all texts lie one after another, so a batch costs what its tokens cost.
//!
//! `candle-transformers` has them too; it pads, and it alone costs as much compile time as candle itself.

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::{VarBuilder, ops::softmax_last_dim};

use super::{
    config::Measures,
    kernels::{Gate, Gelu, Norm, Rope},
};

/// The encoder.
pub(super) struct Encoder {
    words: Tensor,
    /// What is added to each token: that of its position and of the first kind of token, for texts come alone. A single row where positions have none.
    places: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
    /// The angles by which heads are turned, where positions have no numbers of their own.
    rope: Option<Rope>,
}

impl Encoder {
    /// Takes the weights it needs; fails if one is missing or of another shape.
    pub(super) fn load(weights: &VarBuilder<'_>, measures: &Measures) -> Result<Self> {
        let &Measures { width, heads, kinds, positions, epsilon, rope, .. } = measures;
        if heads == 0 || !width.is_multiple_of(heads) {
            bail!("{heads} heads do not divide a width of {width}");
        }
        let size = width / heads;
        if rope.is_some() && size % 2 != 0 {
            bail!("heads of {size} numbers have no halves");
        }
        let name = if rope.is_some() { "nomic_bert" } else { "bert" };
        let root = if weights.contains_tensor(&format!("{name}.embeddings.word_embeddings.weight")) {
            weights.pp(name)
        } else {
            weights.clone()
        };
        let embeddings = root.pp("embeddings");
        let table = |name: &str, rows| embeddings.get((rows, width), &format!("{name}_embeddings.weight"));
        let kind = match kinds {
            0 => Tensor::zeros((1, width), DType::F32, &Device::Cpu)?,
            _ => table("token_type", kinds)?.narrow(0, 0, 1)?,
        };
        let (places, norm, layers) = match rope {
            Some(_) => (kind, root.pp("emb_ln"), root.pp("encoder.layers")),
            None => {
                let places = table("position", positions)?.broadcast_add(&kind)?;
                (places, embeddings.pp("LayerNorm"), root.pp("encoder.layer"))
            }
        };
        let layer = |index: usize| match rope {
            Some(_) => Layer::load_gated(&layers.pp(index.to_string()), measures),
            None => Layer::load(&layers.pp(index.to_string()), measures),
        };
        Ok(Self {
            words: table("word", measures.vocabulary)?,
            places,
            norm: Norm::load(&norm, vec![0.0; width], epsilon)?,
            layers: (0..measures.layers).map(layer).collect::<Result<_>>()?,
            heads,
            rope: rope.map(|base| Rope::new(base, size, positions)),
        })
    }

    /// The last layer: a row for each token, text after text. Texts of one length that follow one another share their products.
    pub(super) fn forward(&self, texts: &[&[u32]]) -> Result<Tensor> {
        let tensor = |values: Vec<u32>| {
            let count = values.len();
            Tensor::from_vec(values, count, &Device::Cpu)
        };
        let words = self.words.index_select(&tensor(texts.concat())?, 0)?;
        let place = |position: u32| if self.rope.is_some() { 0 } else { position };
        let positions = texts.iter().flat_map(|text| (0..).map(place).take(text.len())).collect();
        let places = self.places.index_select(&tensor(positions)?, 0)?;
        let mut hidden = words;
        hidden.inplace_op2(&places, &self.norm)?;
        let runs: Vec<(usize, usize)> =
            texts.chunk_by(|a, b| a.len() == b.len()).map(|run| (run.len(), run[0].len())).collect();
        for layer in &self.layers {
            hidden = layer.forward(hidden, &runs, self.heads, self.rope.as_ref())?;
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
    activation: Activation,
    outer: Tensor,
    outer_norm: Norm,
}

/// What stands between the two products of the feed-forward part.
enum Activation {
    Gelu(Gelu),
    Gate(Gate),
}

impl Layer {
    /// A layer of BERT.
    fn load(weights: &VarBuilder<'_>, measures: &Measures) -> Result<Self> {
        let &Measures { width, inner, epsilon, .. } = measures;
        let attention = weights.pp("attention");
        let parts = ["query", "key", "value"].map(|part| Linear::load(&attention.pp("self").pp(part), width, width));
        let [query, key, value] = parts;
        let (query, key, value) = (query?, key?, value?);
        let scale = scale(measures);
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
            attended_norm: Norm::load(&attention.pp("output.LayerNorm"), attended.bias.to_vec1()?, epsilon)?,
            inner: inner_part.weights,
            activation: Activation::Gelu(Gelu { bias: inner_part.bias.to_vec1()? }),
            outer: outer.weights,
            outer_norm: Norm::load(&weights.pp("output.LayerNorm"), outer.bias.to_vec1()?, epsilon)?,
        })
    }

    /// A layer of nomic's kind: one tensor for queries, keys and values, gates, and no biases.
    fn load_gated(weights: &VarBuilder<'_>, measures: &Measures) -> Result<Self> {
        let &Measures { width, inner, epsilon, .. } = measures;
        let get = |name: &str, from, to| weights.get((to, from), &format!("{name}.weight"));
        let mixed = get("attn.Wqkv", width, 3 * width)?;
        let queries = (mixed.narrow(0, 0, width)? * scale(measures))?;
        let mixed = Tensor::cat(&[&queries, &mixed.narrow(0, width, 2 * width)?], 0)?;
        let inner_part = Tensor::cat(&[&get("mlp.fc11", width, inner)?, &get("mlp.fc12", width, inner)?], 0)?;
        Ok(Self {
            mixed: Linear { weights: turned(&mixed)?, bias: Tensor::zeros(3 * width, DType::F32, &Device::Cpu)? },
            attended: turned(&get("attn.out_proj", width, width)?)?,
            attended_norm: Norm::load(&weights.pp("norm1"), vec![0.0; width], epsilon)?,
            inner: turned(&inner_part)?,
            activation: Activation::Gate(Gate { inner }),
            outer: turned(&get("mlp.fc2", inner, width)?)?,
            outer_norm: Norm::load(&weights.pp("norm2"), vec![0.0; width], epsilon)?,
        })
    }

    fn forward(&self, hidden: Tensor, runs: &[(usize, usize)], heads: usize, rope: Option<&Rope>) -> Result<Tensor> {
        let mixed = hidden.matmul(&self.mixed.weights)?.broadcast_add(&self.mixed.bias)?;
        let mut parts = Vec::with_capacity(runs.len());
        let mut start = 0;
        for &(count, length) in runs {
            parts.push(attend(&mixed.narrow(0, start, count * length)?, count, length, heads, rope)?);
            start += count * length;
        }
        let attended = Tensor::cat(&parts, 0)?.matmul(&self.attended)?;
        attended.inplace_op2(&hidden, &self.attended_norm)?;
        let mut inner = attended.matmul(&self.inner)?;
        match &self.activation {
            Activation::Gelu(gelu) => inner.inplace_op1(gelu)?,
            Activation::Gate(gate) => inner = inner.apply_op1_no_bwd(gate)?,
        }
        let outer = inner.matmul(&self.outer)?;
        outer.inplace_op2(&attended, &self.outer_norm)?;
        Ok(outer)
    }
}

/// Scores are divided by the root of a head's size: done once, with the weights of the queries.
fn scale(measures: &Measures) -> f64 {
    ((measures.width / measures.heads) as f64).sqrt().recip()
}

/// What each token of `count` texts of one length takes from the tokens of its own text.
fn attend(mixed: &Tensor, count: usize, length: usize, heads: usize, rope: Option<&Rope>) -> Result<Tensor> {
    let width = mixed.dim(1)? / 3;
    let size = width / heads;
    let split = mixed.reshape((count, length, 3, heads, size))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
    if let Some(rope) = rope {
        // Queries and keys lie before the values.
        split.narrow(0, 0, 2)?.inplace_op1(&rope.of(length))?;
    }
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
        Ok(Self { weights: turned(&weights.get((to, from), "weight")?)?, bias: weights.get(to, "bias")? })
    }
}

/// Weights that stand as `(to, from)`, as `(from, to)`.
fn turned(weights: &Tensor) -> Result<Tensor> {
    weights.t()?.contiguous()
}
