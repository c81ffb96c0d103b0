//! A layer of a decoder: its weights, and what it does to them besides multiplying.

use sutazai_core::Result;

use super::{
    add,
    family::Family,
    measures::Measures,
    normalise_in_place,
    weights::{matrix, vector},
};
use crate::local::chat::{attention::Heads, gguf::Gguf, matrix::Matrix};

pub(super) struct Layer {
    pub(super) heads: Heads,
    pub(super) attention_norm: Vec<f32>,
    /// Queries, keys and values in one.
    pub(super) attention_in: Matrix,
    /// What is added to these.
    biases: Option<Vec<f32>>,
    /// What the queries and the keys of each head are normalised with.
    head_norms: Option<[Vec<f32>; 2]>,
    pub(super) attention_out: Matrix,
    /// What is normalised with before it is added.
    pub(super) attention_after: Option<Vec<f32>>,
    pub(super) forward_norm: Vec<f32>,
    /// Gate and up in one.
    pub(super) forward_in: Matrix,
    pub(super) forward_out: Matrix,
    pub(super) forward_after: Option<Vec<f32>>,
}

impl Layer {
    /// Reads the layer `index` of `gguf`.
    pub(super) fn from_gguf(gguf: &mut Gguf, measures: &Measures, index: usize) -> Result<Self> {
        let Measures { family, width, inner, .. } = *measures;
        let heads = measures.heads[index];
        let (asking, keeping) = (heads.asking(), heads.keeping());
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let (attention_in, forward_in) = if family.fused {
            (vec![(name("attn_qkv"), asking + 2 * keeping)], vec![(name("ffn_up"), 2 * inner)])
        } else {
            let attention_in = vec![(name("attn_q"), asking), (name("attn_k"), keeping), (name("attn_v"), keeping)];
            (attention_in, vec![(name("ffn_gate"), inner), (name("ffn_up"), inner)])
        };
        Ok(Self {
            heads,
            attention_norm: vector(gguf, &name("attn_norm"), width)?,
            attention_in: matrix(gguf, &attention_in, width)?,
            biases: biases(gguf, family, index, heads)?,
            head_norms: match family.head_norms {
                true => {
                    let queries = vector(gguf, &name("attn_q_norm"), heads.size)?;
                    Some([queries, vector(gguf, &name("attn_k_norm"), heads.size)?])
                }
                false => None,
            },
            attention_out: matrix(gguf, &[(name("attn_output"), width)], asking)?,
            attention_after: after(gguf, family, &name("post_attention_norm"), width)?,
            forward_norm: vector(gguf, &name("ffn_norm"), width)?,
            forward_in: matrix(gguf, &forward_in, width)?,
            forward_out: matrix(gguf, &[(name("ffn_down"), width)], inner)?,
            forward_after: after(gguf, family, &name("post_ffw_norm"), width)?,
        })
    }

    /// What stands between the product with `attention_in`, whose rows these are, and attention: biases and norms, where there are any.
    pub(super) fn prepare(&self, rows: &mut [f32], epsilon: f32) {
        let (asking, keeping) = (self.heads.asking(), self.heads.keeping());
        if let Some(biases) = &self.biases {
            rows.chunks_exact_mut(biases.len()).for_each(|row| add(row, biases));
        }
        if let Some([queries, keys]) = &self.head_norms {
            for row in rows.chunks_exact_mut(asking + 2 * keeping) {
                let (asks, keeps) = row.split_at_mut(asking);
                normalise_in_place(asks, queries, epsilon);
                normalise_in_place(&mut keeps[..keeping], keys, epsilon);
            }
        }
    }
}

/// The biases of queries, keys and values, if the architecture may have them and the file has.
fn biases(gguf: &mut Gguf, family: &Family, index: usize, heads: Heads) -> Result<Option<Vec<f32>>> {
    let name = |part: &str| format!("blk.{index}.{part}.bias");
    if !family.biases || !gguf.has_tensor(&name("attn_q")) {
        return Ok(None);
    }
    let mut biases = vector(gguf, &name("attn_q"), heads.asking())?;
    biases.append(&mut vector(gguf, &name("attn_k"), heads.keeping())?);
    biases.append(&mut vector(gguf, &name("attn_v"), heads.keeping())?);
    Ok(Some(biases))
}

/// What is normalised with before it is added, where the architecture does that.
fn after(gguf: &mut Gguf, family: &Family, name: &str, width: usize) -> Result<Option<Vec<f32>>> {
    family.norms_after.then(|| vector(gguf, name, width)).transpose()
}
