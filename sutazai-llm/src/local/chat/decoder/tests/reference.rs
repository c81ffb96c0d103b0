//! A forward pass in double precision, as plain as the formulas: nothing of it is shared with the code that it checks.

use std::collections::HashMap;

/// What a model is, told apart from its header.
#[derive(Clone)]
pub(super) struct Shape {
    pub(super) layers: usize,
    pub(super) width: usize,
    pub(super) inner: usize,
    pub(super) query: usize,
    pub(super) shared: usize,
    pub(super) size: usize,
    /// Numbers of a head that turn, and whether those half of them apart turn together (else neighbours).
    pub(super) turned: usize,
    pub(super) halves: bool,
    /// The base of each layer's angles, by what the pairs are slower, and what their cosines and sines are times.
    pub(super) bases: Vec<f64>,
    pub(super) slower: Vec<Vec<f64>>,
    pub(super) magnitude: f64,
    /// Positions that each layer sees, the own one among them.
    pub(super) windows: Vec<usize>,
    pub(super) scale: f64,
    pub(super) cap: Option<f64>,
    pub(super) last_cap: Option<f64>,
    pub(super) biases: bool,
    pub(super) head_norms: bool,
    pub(super) norms_after: bool,
    pub(super) fused: bool,
    pub(super) gelu: bool,
    pub(super) embedding_scale: f64,
}

/// The tensors of a model, by name.
pub(super) type Weights = HashMap<String, Vec<f64>>;

/// The logits of what follows `tokens`.
pub(super) fn logits(shape: &Shape, weights: &Weights, tokens: &[usize]) -> Vec<f64> {
    let width = shape.width;
    let embedding = &weights["token_embd.weight"];
    let row = |token: &usize| -> Vec<f64> {
        embedding[token * width..(token + 1) * width].iter().map(|x| x * shape.embedding_scale).collect()
    };
    let mut hidden: Vec<Vec<f64>> = tokens.iter().map(row).collect();
    for layer in 0..shape.layers {
        hidden = forward(shape, weights, layer, &hidden);
    }
    let last = norm(&hidden[tokens.len() - 1], &weights["output_norm.weight"]);
    let logits = times(weights.get("output.weight").unwrap_or(embedding), &last);
    logits.into_iter().map(|x| shape.last_cap.map_or(x, |cap| cap * (x / cap).tanh())).collect()
}

fn forward(shape: &Shape, weights: &Weights, layer: usize, hidden: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let get = |name: &str| weights[&format!("blk.{layer}.{name}")].as_slice();
    let keeping = shape.shared * shape.size;
    let asking = shape.query * shape.size;
    let mut all = Vec::new();
    for (position, hidden) in hidden.iter().enumerate() {
        let input = norm(hidden, get("attn_norm.weight"));
        let mut mixed = match shape.fused {
            true => times(get("attn_qkv.weight"), &input),
            false => ["attn_q", "attn_k", "attn_v"].map(|part| times(get(&format!("{part}.weight")), &input)).concat(),
        };
        if shape.biases {
            let biases = ["attn_q", "attn_k", "attn_v"].map(|part| get(&format!("{part}.bias"))).concat();
            mixed = plus(&mixed, &biases);
        }
        let values = mixed.split_off(asking + keeping);
        let mut keys = mixed.split_off(asking);
        let mut queries = mixed;
        for (heads, name) in [(&mut queries, "attn_q_norm.weight"), (&mut keys, "attn_k_norm.weight")] {
            for head in heads.chunks_mut(shape.size) {
                if shape.head_norms {
                    let normed = norm(head, get(name));
                    head.copy_from_slice(&normed);
                }
                turn(shape, layer, position, head);
            }
        }
        all.push((queries, keys, values));
    }
    let mut out = Vec::new();
    for (position, before) in hidden.iter().enumerate() {
        let mut mixed = Vec::new();
        for head in 0..shape.query {
            let of = head / (shape.query / shape.shared) * shape.size;
            let asks = &all[position].0[head * shape.size..][..shape.size];
            let first = (position + 1).saturating_sub(shape.windows[layer]);
            let score = |at: usize| {
                let score = dot(asks, &all[at].1[of..of + shape.size]) * shape.scale;
                shape.cap.map_or(score, |cap| cap * (score / cap).tanh())
            };
            let shares: Vec<f64> = (first..=position).map(|at| score(at).exp()).collect();
            let total: f64 = shares.iter().sum();
            for n in 0..shape.size {
                let mixes = (first..=position).zip(&shares).map(|(at, share)| share / total * all[at].2[of + n]);
                mixed.push(mixes.sum::<f64>());
            }
        }
        let after = |name: &str, x: Vec<f64>| if shape.norms_after { norm(&x, get(name)) } else { x };
        let attended = after("post_attention_norm.weight", times(get("attn_output.weight"), &mixed));
        let middle = plus(before, &attended);
        let input = norm(&middle, get("ffn_norm.weight"));
        let (gate, up) = if shape.fused {
            let mut both = times(get("ffn_up.weight"), &input);
            let up = both.split_off(shape.inner);
            (both, up)
        } else {
            (times(get("ffn_gate.weight"), &input), times(get("ffn_up.weight"), &input))
        };
        let through = |x: f64| match shape.gelu {
            true => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
            false => x / (1.0 + (-x).exp()),
        };
        let gated: Vec<f64> = gate.iter().zip(&up).map(|(gate, up)| through(*gate) * up).collect();
        let forwarded = after("post_ffw_norm.weight", times(get("ffn_down.weight"), &gated));
        out.push(plus(&middle, &forwarded));
    }
    out
}

fn turn(shape: &Shape, layer: usize, position: usize, head: &mut [f64]) {
    for pair in 0..shape.turned / 2 {
        let (first, second) = match shape.halves {
            true => (pair, pair + shape.turned / 2),
            false => (2 * pair, 2 * pair + 1),
        };
        let slower = shape.bases[layer].powf(2.0 * pair as f64 / shape.turned as f64) * shape.slower[layer][pair];
        let angle = position as f64 / slower;
        let (cos, sin) = (angle.cos() * shape.magnitude, angle.sin() * shape.magnitude);
        let (a, b) = (head[first], head[second]);
        (head[first], head[second]) = (a * cos - b * sin, a * sin + b * cos);
    }
}

fn norm(x: &[f64], weights: &[f64]) -> Vec<f64> {
    let root = (dot(x, x) / x.len() as f64 + 1e-5).sqrt();
    x.iter().zip(weights).map(|(x, weight)| x / root * weight).collect()
}

fn times(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix.chunks(x.len()).map(|row| dot(row, x)).collect()
}

fn plus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
