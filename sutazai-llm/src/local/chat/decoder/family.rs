//! The architectures that a decoder can have, as data: in what they differ from llama.

use sutazai_core::Result;

use super::{gelu, swish};
use crate::local::chat::{attention::Pairs, gguf::unsupported};

/// What an architecture lays down and a file does not say.
pub(super) struct Family {
    /// Its name in a file, with which the keys of its header begin.
    pub(super) name: &'static str,
    /// Which numbers of a head turn together.
    pub(super) pairs: Pairs,
    /// What the gate of the feed-forward part lets through.
    pub(super) gate: fn(&[f32], &[f32], &mut [f32]),
    /// Whether queries, keys and values may have biases.
    pub(super) biases: bool,
    /// Whether the queries and the keys of each head are normalised.
    pub(super) head_norms: bool,
    /// Whether what attention and the feed-forward part give is normalised before it is added.
    pub(super) norms_after: bool,
    /// Whether queries, keys and values are one tensor, and gate and up another.
    pub(super) fused: bool,
    /// Whether the numbers of a token are times the root of the width.
    pub(super) scaled: bool,
    /// How far scores and logits go, where a file does not say it.
    pub(super) caps: [Option<f32>; 2],
    /// Whether layers see less than everything.
    pub(super) windows: Option<Windows>,
    /// The base of the angles, where a file does not say it.
    pub(super) base: f32,
    /// Whether pairs of a head may be slowed down one by one, for every text.
    pub(super) frequencies: bool,
    /// Whether they may be so in one way for short texts and in another for long ones.
    pub(super) long: bool,
    /// A model of so many layers divides scores by the root of a head's share of the width, and not of its size.
    pub(super) share_at: Option<usize>,
}

/// Layers that see only the positions next to them.
pub(super) struct Windows {
    /// How many positions they see, where a file does not say it.
    pub(super) usual: Option<usize>,
    /// Every so many layers one sees everything; none where it is 0.
    pub(super) period: usize,
    /// The base of their angles, if it is another.
    pub(super) own_base: Option<f32>,
}

/// Llama and what is converted to its form, such as Mistral's models.
const LLAMA: Family = Family {
    name: "llama",
    pairs: Pairs::Neighbours,
    gate: swish,
    biases: false,
    head_norms: false,
    norms_after: false,
    fused: false,
    scaled: false,
    caps: [None; 2],
    windows: None,
    base: 10_000.0,
    frequencies: true,
    long: false,
    share_at: None,
};

/// What the others have in common.
const OTHER: Family = Family { name: "", pairs: Pairs::Halves, frequencies: false, ..LLAMA };

const GEMMA: Family = Family { name: "gemma", gate: gelu, scaled: true, ..OTHER };

static FAMILIES: [Family; 7] = [
    LLAMA,
    Family { name: "qwen2", biases: true, ..OTHER },
    Family { name: "qwen3", head_norms: true, ..OTHER },
    GEMMA,
    Family {
        name: "gemma2",
        norms_after: true,
        caps: [Some(50.0), Some(30.0)],
        windows: Some(Windows { usual: Some(4096), period: 2, own_base: None }),
        share_at: Some(46),
        ..GEMMA
    },
    Family {
        name: "gemma3",
        head_norms: true,
        norms_after: true,
        windows: Some(Windows { usual: None, period: 6, own_base: Some(10_000.0) }),
        base: 1_000_000.0,
        share_at: Some(62),
        ..GEMMA
    },
    Family {
        name: "phi3",
        fused: true,
        windows: Some(Windows { usual: None, period: 0, own_base: None }),
        long: true,
        ..OTHER
    },
];

impl Family {
    /// The architecture of this name; code `model_unsupported` if it is not one of them.
    pub(super) fn named(name: &str) -> Result<&'static Self> {
        FAMILIES.iter().find(|family| family.name == name).ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
            unsupported(format!("its architecture is {name:?}; known are {}", known.join(", ")))
        })
    }

    /// What scores are times, in a model of these measures.
    pub(super) fn scale(&self, layers: usize, width: usize, query: usize, size: usize) -> f32 {
        let of = if self.share_at == Some(layers) { width / query } else { size };
        #[allow(clippy::cast_precision_loss, reason = "a head is far below 2^24")]
        let scale = (of as f32).sqrt().recip();
        scale
    }
}
