//! `LocalEmbedding` on tiny models with random weights, which need no download.

mod nomic;

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Device, Tensor};
use futures_util::future::join_all;
use serde_json::json;
use sha2::{Digest, Sha256};
use sutazai_core::model::ModelCapabilities;
use tempfile::TempDir;

use super::*;
use crate::registry::{Catalogue, Format, KnownFile, KnownModel, Role, Sources, hex};

const WIDTH: usize = 16;
const CONTEXT: usize = 24;

/// The model and the directory that it reads.
struct Tiny {
    model: LocalEmbedding,
    directory: TempDir,
}

#[async_trait]
impl EmbeddingModel for Tiny {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    async fn ready(&self) -> Result<()> {
        self.model.ready().await
    }

    async fn embed(&self, texts: &[String]) -> Result<Embeddings> {
        self.model.embed(texts).await
    }
}

fn weights() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut tensors = HashMap::new();
    let mut tensor = |name: &str, shape: &[usize]| {
        tensors.insert(name.to_owned(), random_tensor(&mut random, name, shape));
    };
    let linear = |tensor: &mut dyn FnMut(&str, &[usize]), name: &str, from: usize, to: usize| {
        tensor(&format!("{name}.weight"), &[to, from]);
        tensor(&format!("{name}.bias"), &[to]);
    };
    for (name, rows) in [("word", vocabulary().len()), ("position", 32), ("token_type", 2)] {
        tensor(&format!("embeddings.{name}_embeddings.weight"), &[rows, WIDTH]);
    }
    let norm = |tensor: &mut dyn FnMut(&str, &[usize]), name: &str| {
        tensor(&format!("{name}.weight"), &[WIDTH]);
        tensor(&format!("{name}.bias"), &[WIDTH]);
    };
    norm(&mut tensor, "embeddings.LayerNorm");
    for layer in ["encoder.layer.0", "encoder.layer.1"] {
        for part in ["query", "key", "value"] {
            linear(&mut tensor, &format!("{layer}.attention.self.{part}"), WIDTH, WIDTH);
        }
        linear(&mut tensor, &format!("{layer}.attention.output.dense"), WIDTH, WIDTH);
        norm(&mut tensor, &format!("{layer}.attention.output.LayerNorm"));
        linear(&mut tensor, &format!("{layer}.intermediate.dense"), WIDTH, 2 * WIDTH);
        linear(&mut tensor, &format!("{layer}.output.dense"), 2 * WIDTH, WIDTH);
        norm(&mut tensor, &format!("{layer}.output.LayerNorm"));
    }
    written(&tensors)
}

/// A tensor for `name`. What stands in the text decides: layers with larger numbers would make all vectors alike.
fn random_tensor(random: &mut fastrand::Rng, name: &str, shape: &[usize]) -> Tensor {
    let large = ["embeddings.weight", "Norm.weight", "norm1.weight", "norm2.weight", "emb_ln.weight"];
    let scale = if large.iter().any(|end| name.ends_with(end)) { 1.0 } else { 0.2 };
    let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| (random.f32() * 2.0 - 1.0) * scale).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

fn written(tensors: &HashMap<String, Tensor>) -> Vec<u8> {
    let path = tempfile::NamedTempFile::new().unwrap();
    candle_core::safetensors::save(tensors, path.path()).unwrap();
    fs::read(path.path()).unwrap()
}

/// Every letter and digit is a token; whatever else is unknown.
fn vocabulary() -> Vec<String> {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let letters = ('a'..='z').chain('0'..='9').flat_map(|letter| [letter.to_string(), format!("##{letter}")]);
    special.into_iter().chain(letters).collect()
}

/// As in the real one, the file asks for padding and cutting that must not be obeyed.
fn tokenizer() -> Vec<u8> {
    let ids: HashMap<_, _> = vocabulary().into_iter().zip(0..).collect::<HashMap<_, usize>>();
    json!({
        "version": "1.0",
        "truncation": {"max_length": 5, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 5}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": ids},
    })
    .to_string()
    .into_bytes()
}

fn config() -> Vec<u8> {
    json!({
        "vocab_size": vocabulary().len(), "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 2 * WIDTH, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "max_position_embeddings": 32,
        "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0, "model_type": "bert",
    })
    .to_string()
    .into_bytes()
}

/// A store that knows the tiny model, made of these files, and has pulled it.
async fn tiny_of(weights: &[u8], tokenizer: &[u8], config: &[u8]) -> Tiny {
    let directory = tempfile::tempdir().unwrap();
    let given = directory.path().join("given");
    fs::create_dir(&given).unwrap();
    let file = |role, name: &'static str, format, bytes: &[u8]| {
        fs::write(given.join(name), bytes).unwrap();
        let sha256 = hex(&Sha256::digest(bytes)).leak();
        KnownFile { role, name, format, bytes: bytes.len() as u64, sha256, origins: &[] }
    };
    let files = vec![
        file(Role::Weights, "model.safetensors", Format::Safetensors, weights),
        file(Role::Tokenizer, "tokenizer.json", Format::Json, tokenizer),
        file(Role::Config, "config.json", Format::Json, config),
    ];
    let model = KnownModel {
        name: "tiny-bert",
        aliases: &[],
        description: "a model for tests",
        family: "bert",
        parameters: 1,
        quantisation: "F32",
        memory_bytes: 1,
        context_length: CONTEXT,
        dimension: WIDTH,
        capabilities: ModelCapabilities { embedding: true, ..ModelCapabilities::default() },
        license: "MIT",
        files: files.leak(),
    };
    let store = ModelStore::new(directory.path().join("models")).with_catalogue(Catalogue::of(vec![model].leak()));
    let sources = Sources::none().with_from(Some(given));
    for pulled in store.pull(&["tiny-bert".into()], &sources, Arc::new(())).await {
        pulled.unwrap();
    }
    Tiny { model: LocalEmbedding::new(store, "tiny-bert").unwrap(), directory }
}

async fn tiny() -> Tiny {
    tiny_of(&weights(), &tokenizer(), &config()).await
}

sutazai_core::embedding_conformance!(tiny().await);

#[tokio::test]
async fn tokens_are_counted_and_cut_at_the_context() {
    let model = tiny().await;
    let count = async |text: &str| model.embed(&[text.to_owned()]).await.unwrap().tokens;
    // With the two that stand around a text.
    assert_eq!((count("").await, count("abc").await, count(&"a ".repeat(100)).await), (2, 5, 24));
}

#[tokio::test]
async fn many_texts_and_many_callers_get_their_own_vectors() {
    let model = tiny().await;
    let texts: Vec<String> = (0..200).map(|i| format!("text {i} {}", "z".repeat(i % 17))).collect();
    let together = model.embed(&texts).await.unwrap();
    let alone = join_all(texts.iter().map(|text| model.embed(std::slice::from_ref(text)))).await;
    for (i, alone) in alone.into_iter().enumerate() {
        let cosine: f32 = alone.unwrap().vectors[0].iter().zip(&together.vectors[i]).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.9999, "{i}: {cosine}");
    }
}

#[tokio::test]
async fn a_caller_that_goes_disturbs_nobody() {
    let model = tiny().await;
    let texts = vec!["a text".to_owned(); 300];
    for _ in 0..20 {
        let embed = model.embed(&texts);
        tokio::select! { biased; _ = embed => {}, () = tokio::task::yield_now() => {} }
    }
    assert_eq!(model.embed(&texts).await.unwrap().vectors.len(), 300);
}

#[tokio::test]
async fn its_weights_come_into_memory_and_go() {
    let Tiny { model, directory } = tiny().await;
    let text = ["x".to_owned()];
    model.unload().await.unwrap();
    assert!(!model.worker.is_loaded());
    model.load().await.unwrap();
    assert!(model.worker.is_loaded());
    fs::remove_dir_all(directory.path().join("models")).unwrap();
    model.embed(&text).await.unwrap();
    model.unload().await.unwrap();
    assert!(!model.worker.is_loaded());
    assert_eq!(model.embed(&text).await.unwrap_err().code(), "model_not_found", "they were in memory alone");
}

#[tokio::test]
async fn who_asks_beside_an_unload_is_answered() {
    let Tiny { model, directory: _directory } = tiny().await;
    let texts = vec!["a text".to_owned(); 40];
    let both = (0..50).map(|_| async { futures_util::join!(model.embed(&texts), model.unload()) });
    for (embedded, unloaded) in join_all(both).await {
        assert_eq!(embedded.unwrap().vectors.len(), 40);
        unloaded.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_there_says_how_to_get_it() {
    let model = tiny().await;
    fs::remove_dir_all(model.directory.path().join("models")).unwrap();
    for error in [model.ready().await.unwrap_err(), model.embed(&["x".into()]).await.unwrap_err()] {
        assert_eq!((error.code(), error.kind()), ("model_not_found", ErrorKind::NotFound));
        assert!(error.to_string().contains("models pull tiny-bert"), "{error}");
    }
    let error = LocalEmbedding::new(ModelStore::new("unused"), "smollm2:135m").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn damage_is_found_before_a_vector_is_made() {
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        let model = tiny().await;
        let path = model.directory.path().join("models/tiny-bert").join(name);
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_damaged(&model, &path).await;
        // The thread outlives it: once the file is mended, the model works.
        fs::write(&path, &whole).unwrap();
        model.embed(&["x".into()]).await.unwrap();
    }
}

#[tokio::test]
async fn files_that_make_no_model_are_refused() {
    let nonsense = b"nonsense".as_slice();
    let (weights, tokenizer, config) = (weights(), tokenizer(), config());
    let other = String::from_utf8(config.clone())
        .unwrap()
        .replace("\"num_hidden_layers\":2", "\"num_hidden_layers\":3")
        .into_bytes();
    for files in [
        [nonsense, &tokenizer, &config],
        [&weights, nonsense, &config],
        [&weights, &tokenizer, nonsense],
        [&weights, &tokenizer, &other],
    ] {
        let model = tiny_of(files[0], files[1], files[2]).await;
        assert_damaged(&model, model.directory.path()).await;
    }
}

async fn assert_damaged(model: &Tiny, path: &Path) {
    let error = model.embed(&["x".into()]).await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("model_damaged", ErrorKind::Corrupt), "{}: {error:?}", path.display());
}
