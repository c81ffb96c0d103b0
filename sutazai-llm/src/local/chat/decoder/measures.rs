//! What a decoder is made of: what its architecture lays down, and what the header of its file says.

use candle_core::quantized::gguf_file::Value;
use sutazai_core::Result;

use super::{family::Family, weights::vector};
use crate::local::chat::{
    attention::{Heads, Rope},
    gguf::{Gguf, damaged, unsupported},
    matrix::{BLOCK, Matrix},
};

/// The measures of a model.
pub(super) struct Measures {
    pub(super) family: &'static Family,
    pub(super) width: usize,
    pub(super) inner: usize,
    /// The heads of each layer: layers may see less far than others.
    pub(super) heads: Vec<Heads>,
    pub(super) vocabulary: usize,
    pub(super) context: usize,
    pub(super) epsilon: f32,
    /// What the numbers of a token are times before the first layer.
    pub(super) embedding_scale: Option<f32>,
    /// Logits are bent so that they stay between this and its negative.
    pub(super) cap: Option<f32>,
}

impl Measures {
    pub(super) fn from_gguf(gguf: &Gguf, vocabulary: usize) -> Result<Self> {
        let family = Family::named(gguf.text("general.architecture")?)?;
        let key = |name: &str| format!("{}.{name}", family.name);
        if gguf.count_if_any(&key("expert_count"), 0..=1 << 16)?.is_some_and(|experts| experts > 0) {
            return Err(unsupported("it is a mixture of experts"));
        }
        let width = gguf.count(&key("embedding_length"), 1..=1 << 16)?;
        let query = gguf.count(&key("attention.head_count"), 1..=1 << 10)?;
        let shared = gguf.count_if_any(&key("attention.head_count_kv"), 1..=query)?.unwrap_or(query);
        let size = match gguf.count_if_any(&key("attention.key_length"), 1..=1 << 12)? {
            Some(size) => size,
            None if width.is_multiple_of(query) => width / query,
            None => 0,
        };
        let values = gguf.count_if_any(&key("attention.value_length"), 1..=1 << 12)?.unwrap_or(size);
        if size == 0 || !size.is_multiple_of(16) || values != size || !query.is_multiple_of(shared) {
            return Err(unsupported(format!(
                "its heads do not fit: {query} in {shared} groups, {size} numbers in a key and {values} in a value"
            )));
        }
        let inner = gguf.count(&key("feed_forward_length"), 1..=1 << 18)?;
        let mixed = query * size;
        if ![width, inner, mixed].into_iter().all(Matrix::fits) {
            return Err(unsupported(format!("its widths {width}, {mixed} and {inner} are not multiples of {BLOCK}")));
        }
        let layers = gguf.count(&key("block_count"), 1..=512)?;
        let heads = Heads {
            pairs: family.pairs,
            scale: family.scale(layers, width, query, size),
            cap: gguf.number_if_any(&key("attn_logit_softcapping"))?.or(family.caps[0]),
            ..Heads::new(query, shared, size)
        };
        #[allow(clippy::cast_precision_loss, reason = "a width is far below 2^24")]
        let root = (width as f32).sqrt();
        Ok(Self {
            family,
            width,
            inner,
            heads: windows(gguf, family, layers)?.into_iter().map(|window| Heads { window, ..heads }).collect(),
            vocabulary,
            context: gguf.count(&key("context_length"), 1..=1 << 24)?,
            epsilon: gguf.number(&key("attention.layer_norm_rms_epsilon"))?,
            embedding_scale: family.scaled.then_some(root),
            cap: gguf.number_if_any(&key("final_logit_softcapping"))?.or(family.caps[1]),
        })
    }
}

/// How far each layer sees.
fn windows(gguf: &Gguf, family: &Family, layers: usize) -> Result<Vec<Option<usize>>> {
    let Some(windows) = &family.windows else { return Ok(vec![None; layers]) };
    let key = |name: &str| format!("{}.attention.{name}", family.name);
    let window = gguf.count_if_any(&key("sliding_window"), 0..=1 << 24)?.or(windows.usual).filter(|window| *window > 0);
    let pattern = key("sliding_window_pattern");
    let narrow: Vec<bool> = match gguf.get(&pattern) {
        Some(Value::Array(values)) => {
            let narrow: Vec<_> = values.iter().map_while(|value| value.to_bool().ok()).collect();
            if narrow.len() != layers {
                return Err(damaged(format!("{pattern} does not say of each layer whether it has a window")));
            }
            narrow
        }
        _ => {
            let period = gguf.count_if_any(&pattern, 0..=512)?.unwrap_or(windows.period);
            (0..layers).map(|layer| period == 0 || layer % period + 1 < period).collect()
        }
    };
    Ok(narrow.into_iter().map(|narrow| window.filter(|_| narrow)).collect())
}

/// The ropes of layers that see everything, and of those that have a window if theirs is another, for conversations of up to `context` tokens.
pub(super) fn ropes(gguf: &mut Gguf, measures: &Measures, context: usize) -> Result<Vec<Rope>> {
    let family = measures.family;
    let key = |name: &str| format!("{}.rope.{name}", family.name);
    let size = measures.heads.first().map_or(0, |heads| heads.size);
    let turned = gguf.count_if_any(&key("dimension_count"), 2..=size)?.unwrap_or(size);
    if turned % 2 != 0 {
        return Err(unsupported(format!("it turns {turned} numbers of a head, which are no pairs")));
    }
    let base = gguf.number_if_any(&key("freq_base"))?.unwrap_or(family.base);
    let factor = match gguf.text_if_any(&key("scaling.type"))? {
        Some("none") => None,
        None | Some("linear") => {
            gguf.number_if_any(&key("scaling.factor"))?.or(gguf.number_if_any(&key("scale_linear"))?)
        }
        Some("longrope") if family.long => None,
        Some(kind) => return Err(unsupported(format!("it scales its positions by {kind:?}"))),
    };
    let magnitude = gguf.number_if_any(&key("scaling.attn_factor"))?.unwrap_or(1.0);
    let mut full = Rope::new(base, turned).slower(vec![factor.unwrap_or(1.0); turned / 2]).stretched(magnitude);
    // Llama 3.1 and later turn slowly where a text is long; the factors of each pair come with the file.
    if family.frequencies && gguf.has_tensor("rope_freqs.weight") {
        full = full.slower(vector(gguf, "rope_freqs.weight", turned / 2)?);
    }
    if family.long && gguf.has_tensor("rope_factors_long.weight") {
        let (long, short) = ("rope_factors_long.weight", "rope_factors_short.weight");
        let (long, short) = (vector(gguf, long, turned / 2)?, vector(gguf, short, turned / 2)?);
        let first = gguf.count_if_any(&key("scaling.original_context_length"), 1..=1 << 24)?;
        let beyond = context.min(measures.context) > first.unwrap_or(measures.context);
        full = full.slower(if beyond { long } else { short });
    }
    let mut ropes = vec![full];
    if let Some(own) = family.windows.as_ref().and_then(|windows| windows.own_base) {
        ropes.push(Rope::new(gguf.number_if_any(&key("freq_base_swa"))?.unwrap_or(own), turned));
    }
    Ok(ropes)
}
