//! Each architecture on a tiny model with random weights, beside a plain forward pass in double precision.

mod reference;

use std::{fs::File, io::BufWriter};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file, gguf_file::Value},
};

use self::reference::{Shape, Weights};
use super::*;

const VOCABULARY: usize = 96;
const CONTEXT: u32 = 64;

/// A model as a file has it, and what it is.
struct Tiny {
    name: &'static str,
    shape: Shape,
    header: Vec<(String, Value)>,
    tensors: Vec<(String, QTensor)>,
    random: fastrand::Rng,
}

impl Tiny {
    /// Llama, of which all others are made.
    fn llama() -> Self {
        let (layers, size) = (3, 16);
        let shape = Shape {
            layers,
            width: 64,
            inner: 96,
            query: 4,
            shared: 2,
            size,
            turned: size,
            halves: false,
            bases: vec![10_000.0; layers],
            slower: vec![vec![1.0; size / 2]; layers],
            magnitude: 1.0,
            windows: vec![usize::MAX; layers],
            scale: 0.25,
            cap: None,
            last_cap: None,
            biases: false,
            head_norms: false,
            norms_after: false,
            fused: false,
            gelu: false,
            embedding_scale: 1.0,
        };
        let random = fastrand::Rng::with_seed(17);
        Self { name: "llama", shape, header: Vec::new(), tensors: Vec::new(), random }
    }

    /// The same as another architecture, whose heads are larger than their share of the width.
    fn other(name: &'static str, layers: usize) -> Self {
        let size = 32;
        let llama = Self::llama();
        let shape = Shape {
            layers,
            size,
            turned: size,
            halves: true,
            bases: vec![10_000.0; layers],
            slower: vec![vec![1.0; size / 2]; layers],
            windows: vec![usize::MAX; layers],
            scale: 32f64.sqrt().recip(),
            ..llama.shape
        };
        Self { name, shape, ..llama }
            .with("attention.key_length", Value::U32(32))
            .with("attention.value_length", Value::U32(32))
    }

    fn gemma(name: &'static str, layers: usize) -> Self {
        let mut gemma = Self::other(name, layers);
        (gemma.shape.gelu, gemma.shape.embedding_scale) = (true, 8.0);
        gemma
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        let key = format!("{}.{key}", self.name);
        self.header.retain(|(other, _)| *other != key);
        self.header.push((key, value));
        self
    }

    /// Adds a matrix in 8 bits, which are held as they are.
    fn matrix(&mut self, name: String, rows: usize, columns: usize) {
        let numbers: Vec<f32> = (0..rows * columns).map(|_| self.random.f32() * 0.6 - 0.3).collect();
        let tensor = Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap();
        self.tensors.push((name, QTensor::quantize(&tensor, GgmlDType::Q8_0).unwrap()));
    }

    /// Adds numbers around `around`.
    fn vector(&mut self, name: impl Into<String>, length: usize, around: f32) {
        let numbers = (0..length).map(|_| around + self.random.f32() - 0.5).collect();
        self.numbers(name, numbers);
    }

    fn numbers(&mut self, name: impl Into<String>, numbers: Vec<f32>) {
        let length = numbers.len();
        let tensor = Tensor::from_vec(numbers, length, &Device::Cpu).unwrap();
        self.tensors.push((name.into(), QTensor::quantize(&tensor, GgmlDType::F32).unwrap()));
    }

    /// Makes the header and the tensors that the shape asks for.
    fn made(mut self) -> Self {
        let Shape { layers, width, inner, query, shared, size, biases, head_norms, norms_after, fused, .. } =
            self.shape;
        let number = |number: usize| Value::U32(number.try_into().unwrap());
        for (key, value) in [
            ("block_count", number(layers)),
            ("context_length", Value::U32(CONTEXT)),
            ("embedding_length", number(width)),
            ("feed_forward_length", number(inner)),
            ("attention.head_count", number(query)),
            ("attention.head_count_kv", number(shared)),
            ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ] {
            self = self.with(key, value);
        }
        let (asking, keeping) = (query * size, shared * size);
        self.matrix("token_embd.weight".into(), VOCABULARY, width);
        self.vector("output_norm.weight", width, 1.0);
        for layer in 0..layers {
            let mut matrices = vec![("attn_output", width, asking), ("ffn_down", width, inner)];
            matrices.extend(match fused {
                true => vec![("attn_qkv", asking + 2 * keeping, width), ("ffn_up", 2 * inner, width)],
                false => vec![
                    ("attn_q", asking, width),
                    ("attn_k", keeping, width),
                    ("attn_v", keeping, width),
                    ("ffn_gate", inner, width),
                    ("ffn_up", inner, width),
                ],
            });
            for (name, rows, columns) in matrices {
                self.matrix(format!("blk.{layer}.{name}.weight"), rows, columns);
            }
            let mut norms = vec![("attn_norm", width), ("ffn_norm", width)];
            norms.extend([("attn_q_norm", size), ("attn_k_norm", size)].into_iter().filter(|_| head_norms));
            norms
                .extend([("post_attention_norm", width), ("post_ffw_norm", width)].into_iter().filter(|_| norms_after));
            for (name, length) in norms {
                self.vector(format!("blk.{layer}.{name}.weight"), length, 1.0);
            }
            for (name, length) in [("attn_q", asking), ("attn_k", keeping), ("attn_v", keeping)] {
                if biases {
                    self.vector(format!("blk.{layer}.{name}.bias"), length, 0.0);
                }
            }
        }
        self
    }

    fn open(&self) -> Gguf {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = ("general.architecture".to_owned(), Value::String(self.name.into()));
        let header: Vec<_> = self.header.iter().chain([&name]).map(|(key, value)| (key.as_str(), value)).collect();
        let tensors: Vec<_> = self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        gguf_file::write(&mut BufWriter::new(File::create(file.path()).unwrap()), &header, &tensors).unwrap();
        Gguf::open(file.path()).unwrap()
    }

    fn load(&self, context: usize) -> Result<Decoder> {
        Decoder::from_gguf(&mut self.open(), VOCABULARY, context)
    }

    /// The error with which the model is refused.
    fn refusal(&self) -> Error {
        match self.load(64) {
            Ok(_) => panic!("{} was taken", self.name),
            Err(error) => error,
        }
    }

    /// That the model, for conversations of `context` tokens, computes what the reference does, however its tokens come.
    fn agrees(&self, context: usize) {
        let decoder = self.load(context).unwrap();
        let tokens: Vec<u32> = (0..13).map(|n| n * 7 % 96).collect();
        let run = |chunks: &[&[u32]]| -> Vec<f32> {
            let (mut sessions, mut logits, mut position) = (decoder.sessions(1, tokens.len()).unwrap(), Vec::new(), 0);
            for tokens in chunks {
                let part = Part { session: 0, position, tokens, wants_logits: true };
                logits = sessions.pass(&[part]).unwrap().to_vec();
                position += tokens.len();
            }
            logits
        };
        let found = run(&[tokens.as_slice()]);
        assert_eq!(found, run(&tokens.chunks(1).collect::<Vec<_>>()), "{}: one by one", self.name);
        assert_eq!(found, run(&tokens.chunks(5).collect::<Vec<_>>()), "{}: in pieces", self.name);

        let floats = |tensor: &QTensor| -> Vec<f64> {
            let floats = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
            floats.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
        };
        let weights: Weights = self.tensors.iter().map(|(name, tensor)| (name.clone(), floats(tensor))).collect();
        let tokens: Vec<usize> = tokens.iter().map(|token| usize::try_from(*token).unwrap()).collect();
        let expected = reference::logits(&self.shape, &weights, &tokens);
        let most = expected.iter().fold(0.0, |most: f64, logit| most.max(logit.abs()));
        assert_eq!(found.len(), expected.len());
        for (token, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let off = (f64::from(*found) - expected).abs() / (1.0 + most);
            assert!(off < 5e-4, "{}: logit {token} is {found} instead of {expected}", self.name);
        }
    }
}

#[test]
fn llama_is_as_its_formulas_say() {
    Tiny::llama().made().agrees(64);

    // With an output of its own, as large models have it, and heads that all have keys.
    let mut untied = Tiny::llama();
    untied.shape.shared = 4;
    let mut untied = untied.made();
    untied.matrix("output.weight".into(), VOCABULARY, 64);
    untied.agrees(64);
}

#[test]
fn llama_3_turns_some_pairs_slower() {
    let mut model = Tiny::llama().with("rope.freq_base", Value::F32(500_000.0)).made();
    let factors = [1.0, 1.0, 1.5, 2.0, 4.0, 8.0, 8.0, 8.0];
    model.numbers("rope_freqs.weight", factors.to_vec());
    model.shape.bases = vec![500_000.0; 3];
    model.shape.slower = vec![factors.map(f64::from).to_vec(); 3];
    model.agrees(64);
}

#[test]
fn positions_may_be_scaled_by_one_factor() {
    for (kind, factor) in [(Some("linear"), 4.0), (None, 4.0), (Some("none"), 1.0)] {
        let mut model = Tiny::llama().with("rope.scaling.factor", Value::F32(4.0));
        if let Some(kind) = kind {
            model = model.with("rope.scaling.type", Value::String(kind.into()));
        }
        model.shape.slower = vec![vec![factor; 8]; 3];
        model.made().agrees(64);
    }
}

#[test]
fn qwen2_adds_biases() {
    let mut model = Tiny::other("qwen2", 2);
    model.shape.biases = true;
    model.made().agrees(64);
    // And some that were made of it have none.
    Tiny::other("qwen2", 2).made().agrees(64);
}

#[test]
fn qwen3_normalises_heads() {
    let mut model = Tiny::other("qwen3", 2).with("rope.freq_base", Value::F32(1e6));
    model.shape.bases = vec![1e6; 2];
    model.shape.head_norms = true;
    model.made().agrees(64);
}

#[test]
fn gemma_scales_tokens_and_gates_with_gelu() {
    Tiny::gemma("gemma", 2).made().agrees(64);
}

#[test]
fn gemma2_bends_scores_and_every_second_layer_sees_all() {
    let mut model = Tiny::gemma("gemma2", 3)
        .with("attention.sliding_window", Value::U32(4))
        .with("attn_logit_softcapping", Value::F32(1.5))
        .with("final_logit_softcapping", Value::F32(3.0));
    model.shape.norms_after = true;
    model.shape.windows = vec![4, usize::MAX, 4];
    (model.shape.cap, model.shape.last_cap) = (Some(1.5), Some(3.0));
    model.made().agrees(64);

    // What the file does not say is as it was in all of them.
    let mut silent = Tiny::gemma("gemma2", 2);
    silent.shape.norms_after = true;
    (silent.shape.cap, silent.shape.last_cap) = (Some(50.0), Some(30.0));
    silent.made().agrees(64);
}

/// Gemma 3 with a window of 3.
fn gemma3(layers: usize) -> Tiny {
    let mut model = Tiny::gemma("gemma3", layers).with("attention.sliding_window", Value::U32(3));
    (model.shape.norms_after, model.shape.head_norms) = (true, true);
    model
}

#[test]
fn gemma3_has_ropes_of_two_kinds() {
    let mut model = gemma3(7)
        .with("rope.freq_base", Value::F32(1e6))
        .with("rope.scaling.type", Value::String("linear".into()))
        .with("rope.scaling.factor", Value::F32(8.0));
    model.shape.windows = [[3; 5].as_slice(), &[usize::MAX, 3]].concat();
    model.shape.bases[5] = 1e6;
    model.shape.slower[5] = vec![8.0; 16];
    model.made().agrees(64);

    // Which layers have windows may stand in the file, as a period or one by one; the base of their angles too.
    let narrow = Value::Array([false, true, false].map(Value::Bool).to_vec());
    for (pattern, windows) in [(Value::U32(2), [true, false, true]), (narrow, [false, true, false])] {
        let mut model =
            gemma3(3).with("attention.sliding_window_pattern", pattern).with("rope.freq_base_swa", Value::F32(500.0));
        model.shape.windows = windows.map(|narrow| if narrow { 3 } else { usize::MAX }).to_vec();
        model.shape.bases = windows.map(|narrow| if narrow { 500.0 } else { 1e6 }).to_vec();
        model.made().agrees(64);
    }

    let mut wide = Tiny::gemma("gemma3", 2);
    (wide.shape.norms_after, wide.shape.head_norms, wide.shape.bases) = (true, true, vec![1e6; 2]);
    wide.made().agrees(64);
}

#[test]
fn the_largest_gemmas_scale_scores_by_the_share_of_the_width() {
    for (name, layers) in [("gemma2", 46), ("gemma3", 62)] {
        let family = family::Family::named(name).unwrap();
        assert_eq!(family.scale(layers, 4608, 32, 128), 144f32.sqrt().recip(), "{name}");
        assert_eq!(family.scale(26, 4608, 32, 128), 128f32.sqrt().recip(), "{name}");
    }
}

/// Phi 3 that turns three quarters of a head, and one with factors for short and for long texts.
fn phi3() -> Tiny {
    let mut model = Tiny::other("phi3", 2).with("rope.dimension_count", Value::U32(24));
    model.shape.fused = true;
    model.shape.turned = 24;
    model
}

#[test]
fn phi3_has_fused_tensors_and_turns_a_part_of_a_head() {
    phi3().made().agrees(64);
    // A window, where the file has one, is every layer's; 0 says that there is none.
    for (told, windows) in [(5, 5), (0, usize::MAX)] {
        let mut model = phi3().with("attention.sliding_window", Value::U32(told));
        model.shape.windows = vec![windows; 2];
        model.made().agrees(64);
    }
}

#[test]
fn phi3_turns_slower_where_conversations_may_be_long() {
    let (short, long) = ([1.5_f32; 12], [3.0_f32; 12]);
    let mut model = phi3()
        .with("rope.scaling.original_context_length", Value::U32(32))
        .with("rope.scaling.attn_factor", Value::F32(1.25))
        .made();
    model.numbers("rope_factors_short.weight", short.to_vec());
    model.numbers("rope_factors_long.weight", long.to_vec());
    model.shape.magnitude = 1.25;
    for (context, factors) in [(32, short), (33, long), (1 << 20, long)] {
        model.shape.slower = vec![factors.map(f64::from).to_vec(); 2];
        model.agrees(context);
    }
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let text = |text: &str| Value::String(text.into());
    let named = |error: Error, part: &str| {
        assert_eq!((error.kind(), error.code()), (ErrorKind::Unsupported, "model_unsupported"), "{part}");
        assert!(error.to_string().contains(part), "{error} does not name {part}");
    };
    named(Tiny::other("phi2", 1).made().refusal(), "\"phi2\"");
    named(Tiny::other("gemma3n", 1).made().refusal(), "\"gemma3n\"");
    named(Tiny::llama().with("expert_count", Value::U32(8)).made().refusal(), "experts");
    for kind in ["yarn", "longrope", "su"] {
        named(Tiny::llama().with("rope.scaling.type", text(kind)).made().refusal(), &format!("{kind:?}"));
    }
    named(Tiny::llama().with("rope.dimension_count", Value::U32(15)).made().refusal(), "15 numbers");
    named(Tiny::other("qwen3", 1).with("attention.value_length", Value::U32(16)).made().refusal(), "heads");
    // Tensors that would be missed in every answer, although the architecture is known.
    for (mut model, tensor) in [
        (Tiny::llama().made(), "blk.0.attn_q.bias"),
        (Tiny::llama().made(), "blk.0.attn_q_norm.weight"),
        (Tiny::llama().made(), "rope_factors_long.weight"),
        (Tiny::other("qwen2", 1).made(), "blk.0.attn_output.bias"),
        (Tiny::other("qwen2", 1).made(), "rope_freqs.weight"),
        (Tiny::gemma("gemma", 1).made(), "v.blk.0.attn_q.weight"),
    ] {
        model.vector(tensor, 64, 0.0);
        named(model.refusal(), tensor);
    }
}

#[test]
fn what_contradicts_itself_is_damaged() {
    let narrow = Value::Array(vec![Value::Bool(true)]);
    let mut one_factor = Tiny::llama().made();
    one_factor.numbers("rope_freqs.weight", vec![1.0]);
    for model in [
        one_factor,
        gemma3(2).with("attention.sliding_window_pattern", narrow).made(),
        Tiny::llama().with("rope.dimension_count", Value::U32(64)).made(),
        Tiny::llama().with("rope.freq_base", Value::F32(f32::NAN)).made(),
        Tiny { name: "phi3", ..Tiny::llama().made() },
    ] {
        let error = model.refusal();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Corrupt, "model_damaged"), "{error}");
    }
}
