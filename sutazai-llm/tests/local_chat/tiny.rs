//! A model of the llama family that is complete and tiny: random weights, a token per byte. It needs no download.

use std::{fs::File, io::BufWriter, path::Path};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file, gguf_file::Value},
};

const WIDTH: usize = 64;
const INNER: usize = 96;
const LAYERS: u32 = 2;
const CONTEXT: u32 = 8192;
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + \
                        '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const PIECES_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] + \
                               '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";

/// The header and tensors of the model, for tests that spoil one of them.
pub(crate) struct Tiny {
    pub(crate) header: Vec<(&'static str, Value)>,
    pub(crate) tensors: Vec<(String, QTensor)>,
}

impl Tiny {
    pub(crate) fn new() -> Self {
        let mut random = fastrand::Rng::with_seed(11);
        let mut tensor = |rows: usize, columns: usize| {
            let numbers: Vec<f32> = (0..rows * columns).map(|_| random.f32() * 0.6 - 0.3).collect();
            let tensor = Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap();
            QTensor::quantize(&tensor, GgmlDType::Q4_1).unwrap()
        };
        let words = words();
        let mut tensors =
            vec![("token_embd.weight".into(), tensor(words.len(), WIDTH)), ("output_norm.weight".into(), Self::ones())];
        for layer in 0..LAYERS {
            for (name, rows, columns) in [
                ("attn_q", WIDTH, WIDTH),
                ("attn_k", WIDTH / 2, WIDTH),
                ("attn_v", WIDTH / 2, WIDTH),
                ("attn_output", WIDTH, WIDTH),
                ("ffn_gate", INNER, WIDTH),
                ("ffn_up", INNER, WIDTH),
                ("ffn_down", WIDTH, INNER),
            ] {
                tensors.push((format!("blk.{layer}.{name}.weight"), tensor(rows, columns)));
            }
            for name in ["attn_norm", "ffn_norm"] {
                tensors.push((format!("blk.{layer}.{name}.weight"), Self::ones()));
            }
        }
        let kinds = words.iter().map(|word| Value::I32(if CONTROL.contains(&word.as_str()) { 3 } else { 1 })).collect();
        let count = |number: usize| Value::U32(number.try_into().unwrap());
        let text = |text: &str| Value::String(text.into());
        let header = vec![
            ("general.architecture", text("llama")),
            ("llama.block_count", Value::U32(LAYERS)),
            ("llama.context_length", Value::U32(CONTEXT)),
            ("llama.embedding_length", count(WIDTH)),
            ("llama.feed_forward_length", count(INNER)),
            ("llama.attention.head_count", Value::U32(4)),
            ("llama.attention.head_count_kv", Value::U32(2)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("smollm")),
            ("tokenizer.ggml.tokens", Value::Array(words.into_iter().map(Value::String).collect())),
            ("tokenizer.ggml.token_type", Value::Array(kinds)),
            ("tokenizer.ggml.merges", Value::Array(Vec::new())),
            ("tokenizer.ggml.eos_token_id", Value::U32(2)),
            ("tokenizer.chat_template", text(TEMPLATE)),
        ];
        Self { header, tensors }
    }

    /// The same with a tokenizer of pieces, as gemma's files have it: every byte is a token, and a space is one too.
    pub(crate) fn of_pieces() -> Self {
        let mut tiny = Self::new();
        let bytes = (0..=u8::MAX).map(|byte| (format!("<0x{byte:02X}>"), 6));
        let named =
            [("<pad>", 3), ("<eos>", 3), ("<bos>", 3), ("<unk>", 2), ("<start_of_turn>", 4), ("<end_of_turn>", 4)];
        let pieces = [("\u{2581}", 1), ("h", 1), ("i", 1), ("hi", 1), ("\u{2581}hi", 1)];
        let words: Vec<(String, i32)> =
            named.into_iter().chain(pieces).map(|(word, kind)| (word.to_owned(), kind)).chain(bytes).collect();
        let scores = (0_u16..).zip(&words).map(|(place, _)| Value::F32(-f32::from(place))).collect();
        let count = words.len();
        let (words, kinds): (Vec<_>, Vec<_>) =
            words.into_iter().map(|(word, kind)| (Value::String(word), Value::I32(kind))).unzip();
        tiny.header.retain(|(key, _)| !["tokenizer.ggml.pre", "tokenizer.ggml.merges"].contains(key));
        tiny.set("tokenizer.ggml.model", Value::String("llama".into()));
        tiny.set("tokenizer.ggml.tokens", Value::Array(words));
        tiny.set("tokenizer.ggml.token_type", Value::Array(kinds));
        tiny.set("tokenizer.ggml.eos_token_id", Value::U32(1));
        tiny.set("tokenizer.chat_template", Value::String(PIECES_TEMPLATE.into()));
        tiny.header.push(("tokenizer.ggml.bos_token_id", Value::U32(2)));
        tiny.header.push(("tokenizer.ggml.add_space_prefix", Value::Bool(false)));
        tiny.header.push(("tokenizer.ggml.scores", Value::Array(scores)));
        let embedding = tiny.tensors.iter_mut().find(|(name, _)| name == "token_embd.weight").unwrap();
        let mut random = fastrand::Rng::with_seed(12);
        let numbers: Vec<f32> = (0..count * WIDTH).map(|_| random.f32() * 0.6 - 0.3).collect();
        let numbers = Tensor::from_vec(numbers, (count, WIDTH), &Device::Cpu).unwrap();
        embedding.1 = QTensor::quantize(&numbers, GgmlDType::Q4_1).unwrap();
        tiny
    }

    /// A tensor of a width's length.
    pub(crate) fn ones() -> QTensor {
        let ones = Tensor::ones(WIDTH, candle_core::DType::F32, &Device::Cpu).unwrap();
        QTensor::quantize(&ones, GgmlDType::F32).unwrap()
    }

    /// Puts a number that is none into a tensor.
    pub(crate) fn spoil(&mut self, name: &str, wrong: f32) {
        let (_, tensor) = self.tensors.iter_mut().find(|(own, _)| own == name).unwrap();
        let shape = tensor.shape().clone();
        let mut numbers = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        numbers[100] = wrong;
        let spoilt = Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap();
        *tensor = QTensor::quantize(&spoilt, GgmlDType::F32).unwrap();
    }

    pub(crate) fn write(&self, path: &Path) {
        let header: Vec<_> = self.header.iter().map(|(key, value)| (*key, value)).collect();
        let tensors: Vec<_> = self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        gguf_file::write(&mut BufWriter::new(File::create(path).unwrap()), &header, &tensors).unwrap();
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.header.iter_mut().find(|(name, _)| *name == key).unwrap().1 = value;
    }
}

/// Control tokens, then GPT-2's stand-in for each byte.
fn words() -> Vec<String> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let shown = (0..=u8::MAX).filter(printable).map(char::from);
    let hidden = (0x100..).filter_map(char::from_u32).take((0..=u8::MAX).filter(|byte| !printable(byte)).count());
    CONTROL.iter().map(|name| (*name).to_owned()).chain(shown.chain(hidden).map(String::from)).collect()
}
