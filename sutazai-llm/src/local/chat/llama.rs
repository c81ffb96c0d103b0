//! The llama family: its header, its weights in 8 bits or 4, and one forward pass with a cache of our own.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use rayon::prelude::*;
use sutazai_core::{Error, ErrorKind, Result};

use super::{
    attention::{self, Cache, Heads},
    gguf::{self, Gguf, damaged, unsupported},
    matrix::{Activations, BLOCK, Matrix},
    network::{Network, Part, Sessions},
};
use crate::local::simd::{exp, multiversioned, squares};

/// The measures of a model, from its header.
struct Measures {
    layers: usize,
    width: usize,
    inner: usize,
    heads: Heads,
    vocabulary: usize,
    context: usize,
    epsilon: f32,
    rope_base: f32,
}

impl Measures {
    fn from_gguf(gguf: &Gguf, vocabulary: usize) -> Result<Self> {
        let architecture = gguf.text("general.architecture")?;
        if architecture != "llama" {
            return Err(unsupported(format!("its architecture is {architecture:?}; only \"llama\" is known")));
        }
        if gguf.get("llama.expert_count").is_some() {
            return Err(unsupported("it is a mixture of experts"));
        }
        let scaling = match gguf.get("llama.rope.scaling.type") {
            Some(_) => gguf.text("llama.rope.scaling.type")?,
            None => "none",
        };
        if scaling != "none" || gguf.has_tensor("rope_freqs.weight") {
            return Err(unsupported("it scales its positions"));
        }
        if let Some(name) = gguf.tensors().find(|name| name.ends_with(".bias")) {
            return Err(unsupported(format!("it adds biases, such as {name}")));
        }
        let width = gguf.count("llama.embedding_length", 1..=1 << 16)?;
        let query = gguf.count("llama.attention.head_count", 1..=1 << 10)?;
        let shared = match gguf.get("llama.attention.head_count_kv") {
            Some(_) => gguf.count("llama.attention.head_count_kv", 1..=query)?,
            None => query,
        };
        let size = width / query;
        let rotated = match gguf.get("llama.rope.dimension_count") {
            Some(_) => gguf.count("llama.rope.dimension_count", 1..=1 << 16)?,
            None => size,
        };
        if size * query != width || !query.is_multiple_of(shared) || rotated != size || !size.is_multiple_of(16) {
            return Err(unsupported(format!(
                "{query} heads of {shared} groups do not divide a width of {width} evenly"
            )));
        }
        let inner = gguf.count("llama.feed_forward_length", 1..=1 << 18)?;
        if !Matrix::fits(width) || !Matrix::fits(inner) {
            return Err(unsupported(format!("its widths {width} and {inner} are not multiples of {BLOCK}")));
        }
        Ok(Self {
            layers: gguf.count("llama.block_count", 1..=512)?,
            width,
            inner,
            heads: Heads { query, shared, size },
            vocabulary,
            context: gguf.count("llama.context_length", 1..=1 << 24)?,
            epsilon: gguf.number("llama.attention.layer_norm_rms_epsilon")?,
            rope_base: match gguf.get("llama.rope.freq_base") {
                Some(_) => gguf.number("llama.rope.freq_base")?,
                None => 10_000.0,
            },
        })
    }
}

struct Layer {
    attention_norm: Vec<f32>,
    /// Queries, keys and values in one.
    attention_in: Matrix,
    attention_out: Matrix,
    forward_norm: Vec<f32>,
    /// Gate and up in one.
    forward_in: Matrix,
    forward_out: Matrix,
}

/// A model of the llama family, ready to run.
pub(crate) struct Llama {
    measures: Measures,
    embedding: Arc<Matrix>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    output: Arc<Matrix>,
}

impl Llama {
    /// Reads the weights of `gguf`, whose tokenizer has `vocabulary` tokens.
    pub(crate) fn from_gguf(gguf: &mut Gguf, vocabulary: usize) -> Result<Self> {
        let measures = Measures::from_gguf(gguf, vocabulary)?;
        let Measures { width, inner, heads, .. } = measures;
        let shared = heads.shared * heads.size;
        // The largest first, while there is nothing else in memory.
        let embedding = Arc::new(matrix(gguf, &[("token_embd.weight", vocabulary)], width)?);
        let output = match gguf.has_tensor("output.weight") {
            true => Arc::new(matrix(gguf, &[("output.weight", vocabulary)], width)?),
            false => Arc::clone(&embedding),
        };
        let norm = vector(gguf, "output_norm.weight", width)?;
        let layers = (0..measures.layers)
            .map(|layer| {
                let name = |part: &str| format!("blk.{layer}.{part}.weight");
                let (query, key, value) = (name("attn_q"), name("attn_k"), name("attn_v"));
                let (gate, up) = (name("ffn_gate"), name("ffn_up"));
                Ok(Layer {
                    attention_norm: vector(gguf, &name("attn_norm"), width)?,
                    attention_in: matrix(gguf, &[(&query, width), (&key, shared), (&value, shared)], width)?,
                    attention_out: matrix(gguf, &[(&name("attn_output"), width)], width)?,
                    forward_norm: vector(gguf, &name("ffn_norm"), width)?,
                    forward_in: matrix(gguf, &[(&gate, inner), (&up, inner)], width)?,
                    forward_out: matrix(gguf, &[(&name("ffn_down"), width)], inner)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { measures, embedding, layers, norm, output })
    }
}

/// The parts as one matrix: in 4 bits where the file has all of them so, else in 8.
fn matrix(gguf: &mut Gguf, parts: &[(&str, usize)], columns: usize) -> Result<Matrix> {
    let stored = parts.iter().map(|(name, rows)| gguf.stored(name, &[*rows, columns])).collect::<Result<Vec<_>>>()?;
    let names = parts.iter().map(|(name, _)| *name);
    let matrix = if stored.iter().all(|part| part.dtype() == GgmlDType::Q4_1) {
        let bytes = stored.iter().map(QTensor::data).collect::<Result<Vec<_>, _>>();
        let bytes = bytes.map_err(|error| damaged("its tensors cannot be read").because(error))?;
        Matrix::of_nibbles(columns, &bytes.iter().map(|bytes| &**bytes).collect::<Vec<_>>())
    } else if let [part] = &stored[..] {
        gguf::numbers(parts[0].0, part, |numbers| Matrix::quantise(columns, &[numbers]))?
    } else {
        let numbers = stored.iter().zip(names).map(|(part, name)| gguf::numbers(name, part, <[f32]>::to_vec));
        let numbers = numbers.collect::<Result<Vec<_>>>()?;
        Matrix::quantise(columns, &numbers.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    matrix.ok_or_else(|| not_finite(parts[0].0))
}

fn vector(gguf: &mut Gguf, name: &str, length: usize) -> Result<Vec<f32>> {
    let numbers = gguf.tensor(name, &[length], <[f32]>::to_vec)?;
    match numbers.iter().all(|number| number.is_finite()) {
        true => Ok(numbers),
        false => Err(not_finite(name)),
    }
}

fn not_finite(name: &str) -> Error {
    damaged(format!("tensor {name}, or one beside it, holds what is no finite number"))
}

impl Network for Llama {
    fn context(&self) -> usize {
        self.measures.context
    }

    fn sessions(&self, count: usize, room: usize) -> Result<Box<dyn Sessions + '_>> {
        let caches = (0..count).map(|_| Vec::new()).collect();
        Ok(Box::new(Running { model: self, caches, room, scratch: Scratch::default() }))
    }
}

/// Conversations' places in the model.
struct Running<'a> {
    model: &'a Llama,
    /// A cache a layer for each session that was used so far.
    caches: Vec<Vec<Cache>>,
    room: usize,
    scratch: Scratch,
}

impl Running<'_> {
    fn make_room(&mut self, session: usize) {
        if self.caches[session].is_empty() {
            let heads = self.model.measures.heads;
            self.caches[session] = self.model.layers.iter().map(|_| Cache::new(heads, self.room)).collect();
        }
    }
}

/// Memory that every pass overwrites.
#[derive(Default)]
struct Scratch {
    hidden: Vec<f32>,
    normed: Vec<f32>,
    wide: Vec<f32>,
    mixed: Vec<f32>,
    product: Vec<f32>,
    tiles: Vec<f32>,
    logits: Vec<f32>,
    activations: Activations,
}

impl Sessions for Running<'_> {
    fn pass(&mut self, parts: &[Part<'_>]) -> Result<&[f32]> {
        let Measures { width, inner, heads, vocabulary, epsilon, rope_base, .. } = self.model.measures;
        if parts.iter().any(|part| part.tokens.len() > self.room.saturating_sub(part.position)) {
            return Err(Error::new(ErrorKind::Internal, "more tokens than the cache was made for"));
        }
        parts.iter().for_each(|part| self.make_room(part.session));
        let count = parts.iter().map(|part| part.tokens.len()).sum::<usize>();
        let Scratch { hidden, normed, wide, mixed, product, tiles, logits, activations } = &mut self.scratch;
        hidden.resize(count * width, 0.0);
        normed.resize(count * width, 0.0);
        product.resize(count * width, 0.0);
        mixed.resize(count * width.max(inner), 0.0);
        let tokens = parts.iter().flat_map(|part| part.tokens);
        for (token, row) in tokens.zip(hidden.chunks_exact_mut(width)) {
            let token = usize::try_from(*token).ok().filter(|token| *token < vocabulary);
            let token = token.ok_or_else(|| Error::new(ErrorKind::Internal, "a token is outside the vocabulary"))?;
            self.model.embedding.read_row(token, row);
        }
        let rotations: Vec<_> = parts
            .iter()
            .map(|part| attention::rotation(part.position, part.tokens.len(), heads.size, rope_base))
            .collect();
        for (index, layer) in self.model.layers.iter().enumerate() {
            normalise(hidden, &layer.attention_norm, epsilon, normed);
            activations.load(width, normed);
            wide.resize(count * layer.attention_in.rows(), 0.0);
            layer.attention_in.times(activations, tiles, wide);
            let caches = self.caches.iter_mut().enumerate().filter_map(|(session, caches)| {
                parts.iter().any(|part| part.session == session).then(|| &mut caches[index])
            });
            attend(heads, parts, caches, &rotations, wide, &mut mixed[..count * width]);
            activations.load(width, &mixed[..count * width]);
            layer.attention_out.times(activations, tiles, product);
            add(hidden, product);

            normalise(hidden, &layer.forward_norm, epsilon, normed);
            activations.load(width, normed);
            wide.resize(count * layer.forward_in.rows(), 0.0);
            layer.forward_in.times(activations, tiles, wide);
            let gated = &mut mixed[..count * inner];
            gated.par_chunks_mut(inner).zip(wide.par_chunks(2 * inner)).for_each(|(gated, wide)| {
                let (gate, up) = wide.split_at(inner);
                swish(gate, up, gated);
            });
            activations.load(inner, gated);
            layer.forward_out.times(activations, tiles, product);
            add(hidden, product);
        }

        let ends = parts.iter().scan(0, |end, part| {
            *end += part.tokens.len();
            Some((part, *end))
        });
        let mut wanted = 0;
        for (_, end) in ends.filter(|(part, _)| part.wants_logits) {
            let last = &mut normed[wanted * width..(wanted + 1) * width];
            normalise(&hidden[(end - 1) * width..end * width], &self.model.norm, epsilon, last);
            wanted += 1;
        }
        logits.resize(wanted * vocabulary, 0.0);
        if wanted > 0 {
            activations.load(width, &normed[..wanted * width]);
            self.model.output.times(activations, tiles, logits);
        }
        Ok(logits)
    }

    fn copy(&mut self, from: usize, to: usize, length: usize) -> Result<()> {
        self.make_room(to);
        let heads = self.model.measures.heads;
        let [from, to] = self
            .caches
            .get_disjoint_mut([from, to])
            .map_err(|error| Error::new(ErrorKind::Internal, "there is no such session to copy").because(error))?;
        for (to, from) in to.iter_mut().zip(from) {
            to.take_from(from, heads, length);
        }
        Ok(())
    }
}

/// What each position of each part attends to, with the parts' caches in their order.
fn attend<'a>(
    heads: Heads,
    parts: &[Part<'_>],
    caches: impl Iterator<Item = &'a mut Cache>,
    rotations: &[Vec<(f32, f32)>],
    rows: &mut [f32],
    out: &mut [f32],
) {
    let (row, mixed) = ((heads.query + 2 * heads.shared) * heads.size, heads.query * heads.size);
    let (mut rows, mut out) = (rows, out);
    let jobs = parts.iter().zip(caches).zip(rotations).map(|((part, cache), rotation)| {
        let own_rows = rows.split_off_mut(..part.tokens.len() * row).unwrap_or_default();
        let own_out = out.split_off_mut(..part.tokens.len() * mixed).unwrap_or_default();
        (part.position, cache, rotation, own_rows, own_out)
    });
    let one = |(position, cache, rotation, rows, out): (usize, &mut Cache, &Vec<_>, &mut [f32], &mut [f32])| {
        attention::attend(heads, cache, position, rotation, rows, out);
    };
    if parts.len() == 1 {
        jobs.for_each(one);
    } else {
        jobs.collect::<Vec<_>>().into_par_iter().for_each(one);
    }
}

multiversioned! {
    /// Each row divided by its root mean square, times `weights`.
    pub(crate) fn normalise(rows: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
        for (row, out) in rows.chunks_exact(weights.len()).zip(out.chunks_exact_mut(weights.len())) {
            #[allow(clippy::cast_precision_loss, reason = "a width is far below 2^24")]
            let mean = squares(row, 0.0) / row.len() as f32;
            let scale = (mean + epsilon).sqrt().recip();
            for ((out, number), weight) in out.iter_mut().zip(row).zip(weights) {
                *out = number * scale * weight;
            }
        }
    }
}

multiversioned! {
    /// `up` times the sigmoid-weighted `gate`.
    pub(crate) fn swish(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + exp(-gate)) * up;
        }
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}
