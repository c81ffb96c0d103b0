//! What a model's `config.json` says, as the measures of an encoder. What is not built is refused by its name.

use serde::Deserialize;

/// The measures of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measures {
    pub(super) width: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) inner: usize,
    pub(super) vocabulary: usize,
    /// Kinds of tokens.
    pub(super) kinds: usize,
    pub(super) positions: usize,
    pub(super) epsilon: f32,
    /// The base of the angles by which heads are turned; without it, positions have numbers of their own that are added.
    pub(super) rope: Option<f32>,
}

/// Why a configuration makes no model.
#[derive(Debug)]
pub(super) enum Refusal {
    Damaged(serde_json::Error),
    Unsupported(String),
}

#[derive(Deserialize)]
struct Kind {
    model_type: Option<String>,
}

#[derive(Deserialize)]
struct Bert {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    type_vocab_size: usize,
    max_position_embeddings: usize,
    layer_norm_eps: f32,
    hidden_act: String,
    position_embedding_type: Option<String>,
}

#[derive(Deserialize)]
struct Nomic {
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    vocab_size: usize,
    type_vocab_size: usize,
    n_positions: usize,
    layer_norm_epsilon: f32,
    activation_function: String,
    rotary_emb_base: f32,
    rotary_emb_fraction: f32,
    rotary_emb_interleaved: bool,
    rotary_emb_scale_base: Option<f32>,
    /// Where it is given, angles are others for texts of more than `max_trained_positions` tokens.
    rotary_scaling_factor: Option<f32>,
    max_trained_positions: Option<usize>,
    qkv_proj_bias: bool,
    mlp_fc1_bias: bool,
    mlp_fc2_bias: bool,
    prenorm: bool,
    #[serde(default)]
    parallel_block: bool,
    #[serde(default)]
    use_rms_norm: bool,
    #[serde(default)]
    causal: bool,
    #[serde(default)]
    num_experts: usize,
}

impl Measures {
    /// What `json` says, for texts of up to `context` tokens.
    pub(super) fn read(json: &[u8], context: usize) -> Result<Self, Refusal> {
        let kind: Kind = serde_json::from_slice(json)?;
        match kind.model_type.as_deref() {
            None | Some("bert") => Self::of_bert(&serde_json::from_slice(json)?),
            Some("nomic_bert") => Self::of_nomic(&serde_json::from_slice(json)?, context),
            Some(kind) => {
                Err(Refusal::Unsupported(format!("its kind is {kind:?}; known are \"bert\" and \"nomic_bert\"")))
            }
        }
    }

    fn of_bert(bert: &Bert) -> Result<Self, Refusal> {
        if bert.hidden_act != "gelu" {
            return Err(Refusal::Unsupported(format!("its activation is {:?}", bert.hidden_act)));
        }
        match bert.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(kind) => return Err(Refusal::Unsupported(format!("its positions are {kind:?}"))),
        }
        Ok(Self {
            width: bert.hidden_size,
            layers: bert.num_hidden_layers,
            heads: bert.num_attention_heads,
            inner: bert.intermediate_size,
            vocabulary: bert.vocab_size,
            kinds: bert.type_vocab_size,
            positions: bert.max_position_embeddings,
            epsilon: bert.layer_norm_eps,
            rope: None,
        })
    }

    fn of_nomic(nomic: &Nomic, context: usize) -> Result<Self, Refusal> {
        let beyond = nomic.max_trained_positions.is_none_or(|trained| context > trained);
        let others = [
            (nomic.activation_function != "swiglu", "activation_function"),
            (nomic.rotary_emb_fraction != 1.0, "rotary_emb_fraction"),
            (nomic.rotary_emb_interleaved, "rotary_emb_interleaved"),
            (nomic.rotary_emb_scale_base.is_some(), "rotary_emb_scale_base"),
            (nomic.rotary_scaling_factor.is_some() && beyond, "rotary_scaling_factor"),
            (nomic.qkv_proj_bias, "qkv_proj_bias"),
            (nomic.mlp_fc1_bias, "mlp_fc1_bias"),
            (nomic.mlp_fc2_bias, "mlp_fc2_bias"),
            (nomic.prenorm, "prenorm"),
            (nomic.parallel_block, "parallel_block"),
            (nomic.use_rms_norm, "use_rms_norm"),
            (nomic.causal, "causal"),
            (nomic.num_experts > 0, "num_experts"),
        ];
        if let Some((_, name)) = others.into_iter().find(|(other, _)| *other) {
            return Err(Refusal::Unsupported(format!("its {name} is another than that of nomic-embed-text")));
        }
        Ok(Self {
            width: nomic.n_embd,
            layers: nomic.n_layer,
            heads: nomic.n_head,
            inner: nomic.n_inner.unwrap_or(4 * nomic.n_embd),
            vocabulary: nomic.vocab_size,
            kinds: nomic.type_vocab_size,
            positions: nomic.n_positions,
            epsilon: nomic.layer_norm_epsilon,
            rope: Some(nomic.rotary_emb_base),
        })
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        Self::Damaged(error)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn bert() -> Value {
        json!({
            "model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
            "vocab_size": 30522, "type_vocab_size": 2, "max_position_embeddings": 512, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
        })
    }

    /// As nomic-embed-text-v1.5 has it.
    fn nomic() -> Value {
        json!({
            "model_type": "nomic_bert", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": 3072, "vocab_size": 30528,
            "type_vocab_size": 2, "n_positions": 8192, "layer_norm_epsilon": 1e-12, "activation_function": "swiglu",
            "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": false, "rotary_emb_scale_base": null,
            "rotary_scaling_factor": null, "max_trained_positions": 2048, "qkv_proj_bias": false, "mlp_fc1_bias": false,
            "mlp_fc2_bias": false, "prenorm": false, "parallel_block": false, "use_rms_norm": false, "causal": false,
        })
    }

    fn read(config: &Value) -> Result<Measures, Refusal> {
        Measures::read(config.to_string().as_bytes(), 8192)
    }

    #[test]
    fn both_kinds_are_read() {
        let measures = read(&bert()).unwrap();
        assert_eq!((measures.width, measures.heads, measures.positions, measures.rope), (384, 12, 512, None));
        let measures = read(&nomic()).unwrap();
        assert_eq!((measures.width, measures.inner, measures.rope), (768, 3072, Some(1000.0)));
        // The first of them was made for longer texts by other angles beyond 2,048 tokens.
        let mut first = nomic();
        first["rotary_scaling_factor"] = json!(2);
        assert!(matches!(read(&first), Err(Refusal::Unsupported(what)) if what.contains("rotary_scaling_factor")));
        assert_eq!(Measures::read(first.to_string().as_bytes(), 2048).unwrap(), measures);
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for (mut config, key, other) in [
            (bert(), "model_type", json!("mpnet")),
            (bert(), "model_type", json!("xlm-roberta")),
            (bert(), "hidden_act", json!("relu")),
            (bert(), "position_embedding_type", json!("relative_key")),
            (nomic(), "activation_function", json!("geglu")),
            (nomic(), "rotary_emb_fraction", json!(0.5)),
            (nomic(), "qkv_proj_bias", json!(true)),
            (nomic(), "prenorm", json!(true)),
            (nomic(), "num_experts", json!(8)),
        ] {
            config[key] = other.clone();
            let Err(Refusal::Unsupported(what)) = read(&config) else { panic!("{key} {other} was taken") };
            assert!(what.contains(key) || what.contains(&other.to_string()), "{what}");
        }
    }

    #[test]
    fn what_is_missing_is_damage() {
        for (mut config, key) in [(bert(), "hidden_size"), (nomic(), "n_head"), (nomic(), "qkv_proj_bias")] {
            config.as_object_mut().unwrap().remove(key);
            assert!(matches!(read(&config), Err(Refusal::Damaged(_))), "{key}");
        }
        assert!(matches!(Measures::read(b"nonsense", 1), Err(Refusal::Damaged(_))));
    }
}
