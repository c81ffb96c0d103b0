//! A decoder as llama is one and most models are: its weights, and one forward pass with a cache of our own. In what architectures differ from one
//! another stands in `family`, as data.

mod family;
mod layer;
mod measures;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;

use rayon::prelude::*;
use sutazai_core::{Error, ErrorKind, Result};

use self::{
    layer::Layer,
    measures::Measures,
    weights::{matrix, vector},
};
use super::{
    attention::{self, Cache, Heads, Rope},
    gguf::{Gguf, unsupported},
    matrix::{Activations, Matrix},
    network::{Network, Part, Sessions},
};
use crate::local::simd::{bend, exp, multiversioned, squares};

/// A decoder, ready to run.
pub(crate) struct Decoder {
    measures: Measures,
    /// Of layers that see everything, and of those that have a window if theirs is another.
    ropes: Vec<Rope>,
    embedding: Arc<Matrix>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    output: Arc<Matrix>,
}

impl Decoder {
    /// Reads the weights of `gguf`, whose tokenizer has `vocabulary` tokens, for conversations of up to `context` tokens.
    pub(crate) fn from_gguf(gguf: &mut Gguf, vocabulary: usize, context: usize) -> Result<Self> {
        let measures = Measures::from_gguf(gguf, vocabulary)?;
        let ropes = measures::ropes(gguf, &measures, context)?;
        let width = measures.width;
        // The largest first, while there is nothing else in memory.
        let embedding = Arc::new(matrix(gguf, &[("token_embd.weight", vocabulary)], width)?);
        let output = match gguf.has_tensor("output.weight") {
            true => Arc::new(matrix(gguf, &[("output.weight", vocabulary)], width)?),
            false => Arc::clone(&embedding),
        };
        let norm = vector(gguf, "output_norm.weight", width)?;
        let layers =
            (0..measures.heads.len()).map(|index| Layer::from_gguf(gguf, &measures, index)).collect::<Result<_>>()?;
        // What is not computed with would be missed in every answer.
        if let Some(name) = gguf.unread().next() {
            return Err(unsupported(format!("its tensor {name} is none that {} has", measures.family.name)));
        }
        Ok(Self { measures, ropes, embedding, layers, norm, output })
    }
}

impl Network for Decoder {
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
    model: &'a Decoder,
    /// A cache a layer for each session that was used so far.
    caches: Vec<Vec<Cache>>,
    room: usize,
    scratch: Scratch,
}

impl Running<'_> {
    fn make_room(&mut self, session: usize) {
        if self.caches[session].is_empty() {
            self.caches[session] = self.model.layers.iter().map(|layer| Cache::new(layer.heads, self.room)).collect();
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
        let Measures { family, width, inner, vocabulary, epsilon, embedding_scale, cap, .. } = self.model.measures;
        if parts.iter().any(|part| part.tokens.len() > self.room.saturating_sub(part.position)) {
            return Err(Error::new(ErrorKind::Internal, "more tokens than the cache was made for"));
        }
        parts.iter().for_each(|part| self.make_room(part.session));
        let count = parts.iter().map(|part| part.tokens.len()).sum::<usize>();
        let Scratch { hidden, normed, wide, mixed, product, tiles, logits, activations } = &mut self.scratch;
        hidden.resize(count * width, 0.0);
        normed.resize(count * width, 0.0);
        product.resize(count * width, 0.0);
        let mixing = self.model.layers.iter().map(|layer| layer.heads.asking()).max().unwrap_or(0);
        mixed.resize(count * mixing.max(inner), 0.0);
        let tokens = parts.iter().flat_map(|part| part.tokens);
        for (token, row) in tokens.zip(hidden.chunks_exact_mut(width)) {
            let token = usize::try_from(*token).ok().filter(|token| *token < vocabulary);
            let token = token.ok_or_else(|| Error::new(ErrorKind::Internal, "a token is outside the vocabulary"))?;
            self.model.embedding.read_row(token, row);
            if let Some(scale) = embedding_scale {
                row.iter_mut().for_each(|number| *number *= scale);
            }
        }
        // Of each rope, for each part.
        let rotations: Vec<Vec<_>> = self
            .model
            .ropes
            .iter()
            .map(|rope| parts.iter().map(|part| rope.angles(part.position, part.tokens.len())).collect())
            .collect();
        for (index, layer) in self.model.layers.iter().enumerate() {
            normalise(hidden, &layer.attention_norm, epsilon, normed);
            activations.load(&layer.attention_in, normed);
            wide.resize(count * layer.attention_in.rows(), 0.0);
            layer.attention_in.times(activations, tiles, wide);
            layer.prepare(wide, epsilon);
            let rotations = &rotations[layer.heads.window.map_or(0, |_| rotations.len() - 1)];
            let asking = layer.heads.asking();
            let caches = self.caches.iter_mut().enumerate().filter_map(|(session, caches)| {
                parts.iter().any(|part| part.session == session).then(|| &mut caches[index])
            });
            attend(layer.heads, parts, caches, rotations, wide, &mut mixed[..count * asking]);
            activations.load(&layer.attention_out, &mixed[..count * asking]);
            layer.attention_out.times(activations, tiles, product);
            settle(hidden, product, layer.attention_after.as_deref(), epsilon, normed);

            normalise(hidden, &layer.forward_norm, epsilon, normed);
            activations.load(&layer.forward_in, normed);
            wide.resize(count * layer.forward_in.rows(), 0.0);
            layer.forward_in.times(activations, tiles, wide);
            let gated = &mut mixed[..count * inner];
            gated.par_chunks_mut(inner).zip(wide.par_chunks(2 * inner)).for_each(|(gated, wide)| {
                let (gate, up) = wide.split_at(inner);
                (family.gate)(gate, up, gated);
            });
            activations.load(&layer.forward_out, gated);
            layer.forward_out.times(activations, tiles, product);
            settle(hidden, product, layer.forward_after.as_deref(), epsilon, normed);
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
            activations.load(&self.model.output, &normed[..wanted * width]);
            self.model.output.times(activations, tiles, logits);
        }
        if let Some(cap) = cap {
            bend_all(logits, cap);
        }
        Ok(logits)
    }

    fn copy(&mut self, from: usize, to: usize, length: usize) -> Result<()> {
        self.make_room(to);
        let layers = &self.model.layers;
        let [from, to] = self
            .caches
            .get_disjoint_mut([from, to])
            .map_err(|error| Error::new(ErrorKind::Internal, "there is no such session to copy").because(error))?;
        for ((to, from), layer) in to.iter_mut().zip(from).zip(layers) {
            to.take_from(from, layer.heads, length);
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
    let (row, mixed) = (heads.asking() + 2 * heads.keeping(), heads.asking());
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
    /// The same, where it stands.
    pub(crate) fn normalise_in_place(rows: &mut [f32], weights: &[f32], epsilon: f32) {
        for row in rows.chunks_exact_mut(weights.len()) {
            #[allow(clippy::cast_precision_loss, reason = "a width is far below 2^24")]
            let mean = squares(row, 0.0) / row.len() as f32;
            let scale = (mean + epsilon).sqrt().recip();
            for (number, weight) in row.iter_mut().zip(weights) {
                *number *= scale * weight;
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

multiversioned! {
    /// `up` times the GELU of `gate`, in the form with a hyperbolic tangent: half of x times 1 + tanh(y) is x times the sigmoid of 2 y.
    pub(crate) fn gelu(gate: &[f32], up: &[f32], out: &mut [f32]) {
        /// Twice the root of 2 / pi.
        const TWICE: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2;
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            let twice = TWICE * gate * (1.0 + 0.044_715 * gate * gate);
            *out = gate / (1.0 + exp(-twice)) * up;
        }
    }
}

multiversioned! {
    /// Each number bent so that it stays between `cap` and its negative.
    pub(crate) fn bend_all(numbers: &mut [f32], cap: f32) {
        for number in numbers.iter_mut() {
            *number = bend(*number, cap);
        }
    }
}

/// Adds `from` to `to`, normalised first where there are weights for it. `scratch` is overwritten.
fn settle(to: &mut [f32], from: &[f32], weights: Option<&[f32]>, epsilon: f32, scratch: &mut [f32]) {
    match weights {
        None => add(to, from),
        Some(weights) => {
            normalise(from, weights, epsilon, scratch);
            add(to, scratch);
        }
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}
