//! A model of nomic's kind beside its formulas in double precision.

use super::*;

const HEADS: usize = 2;
const INNER: usize = 24;
const LAYERS: usize = 2;

/// The tensors of a model that has, and of one that has not, kinds of tokens.
fn tensors(kinds: usize) -> HashMap<String, Tensor> {
    let mut random = fastrand::Rng::with_seed(8);
    let mut shapes = vec![("embeddings.word_embeddings.weight".to_owned(), vec![vocabulary().len(), WIDTH])];
    if kinds > 0 {
        shapes.push(("embeddings.token_type_embeddings.weight".into(), vec![kinds, WIDTH]));
    }
    shapes.extend(["weight", "bias"].map(|part| (format!("emb_ln.{part}"), vec![WIDTH])));
    for layer in 0..LAYERS {
        let name = |part: &str| format!("encoder.layers.{layer}.{part}");
        shapes.extend([
            (name("attn.Wqkv.weight"), vec![3 * WIDTH, WIDTH]),
            (name("attn.out_proj.weight"), vec![WIDTH, WIDTH]),
            (name("mlp.fc11.weight"), vec![INNER, WIDTH]),
            (name("mlp.fc12.weight"), vec![INNER, WIDTH]),
            (name("mlp.fc2.weight"), vec![WIDTH, INNER]),
        ]);
        shapes
            .extend(["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"].map(|part| (name(part), vec![WIDTH])));
    }
    shapes.into_iter().map(|(name, shape)| (name.clone(), random_tensor(&mut random, &name, &shape))).collect()
}

fn config(kinds: usize) -> serde_json::Value {
    json!({
        "model_type": "nomic_bert", "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_inner": INNER,
        "vocab_size": vocabulary().len(), "type_vocab_size": kinds, "n_positions": 64, "layer_norm_epsilon": 1e-12,
        "activation_function": "swiglu", "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": false,
        "qkv_proj_bias": false, "mlp_fc1_bias": false, "mlp_fc2_bias": false, "prenorm": false,
    })
}

async fn tiny(kinds: usize) -> Tiny {
    tiny_of(&written(&tensors(kinds)), &tokenizer(), config(kinds).to_string().as_bytes()).await
}

#[tokio::test]
async fn vectors_are_what_the_formulas_say() {
    for kinds in [2, 0] {
        let tensors = tensors(kinds);
        let floats = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let weights: HashMap<_, Vec<f64>> = tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), floats(tensor).into_iter().map(f64::from).collect()))
            .collect();
        let model = tiny(kinds).await;
        // Texts of one length share their products, and others come between them.
        let texts = ["ab c", "x", "ba d", "a b c d e f g h i", ""].map(str::to_owned);
        let found = model.embed(&texts).await.unwrap();
        for (text, found) in texts.iter().zip(&found.vectors) {
            let expected = reference(&weights, &ids(text));
            let off = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            assert!(off < 1e-5, "{text:?}: {off}");
        }
    }
}

#[tokio::test]
async fn what_is_not_built_is_unsupported() {
    let mut other = config(2);
    other["activation_function"] = json!("geglu");
    let mut kind = config(2);
    kind["model_type"] = json!("mpnet");
    for (config, part) in [(other, "activation_function"), (kind, "mpnet")] {
        let model = tiny_of(&written(&tensors(2)), &tokenizer(), config.to_string().as_bytes()).await;
        let error = model.embed(&["x".into()]).await.unwrap_err();
        assert_eq!((error.code(), error.kind()), ("model_unsupported", ErrorKind::Unsupported));
        assert!(error.report().contains(part), "{}", error.report());
    }
}

/// The tokens of a text of letters and spaces: 2 and 3 stand around it, a word begins with its letter and goes on with letters of the other kind.
fn ids(text: &str) -> Vec<usize> {
    let word = |word: &str| -> Vec<usize> {
        word.bytes().enumerate().map(|(at, letter)| 5 + 2 * usize::from(letter - b'a') + usize::from(at > 0)).collect()
    };
    [vec![2], text.split_whitespace().flat_map(word).collect(), vec![3]].concat()
}

fn reference(weights: &HashMap<String, Vec<f64>>, ids: &[usize]) -> Vec<f64> {
    let norm = |x: &[f64], name: &str| -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / WIDTH as f64;
        let root = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / WIDTH as f64 + 1e-12).sqrt();
        let (scale, shift) = (&weights[&format!("{name}.weight")], &weights[&format!("{name}.bias")]);
        (0..WIDTH).map(|n| (x[n] - mean) / root * scale[n] + shift[n]).collect()
    };
    let kind = weights
        .get("embeddings.token_type_embeddings.weight")
        .map_or(vec![0.0; WIDTH], |kinds| kinds[..WIDTH].to_vec());
    let words = &weights["embeddings.word_embeddings.weight"];
    let mut hidden: Vec<Vec<f64>> =
        ids.iter().map(|id| norm(&plus(&words[id * WIDTH..(id + 1) * WIDTH], &kind), "emb_ln")).collect();
    let size = WIDTH / HEADS;
    for layer in 0..LAYERS {
        let name = |part: &str| format!("encoder.layers.{layer}.{part}");
        let get = |part: &str| &weights[&name(&format!("{part}.weight"))];
        // Queries, keys and values of each position; the heads of the first two turned.
        let mixed: Vec<Vec<f64>> = hidden
            .iter()
            .enumerate()
            .map(|(position, x)| {
                let mut mixed = times(get("attn.Wqkv"), x);
                for head in mixed[..2 * WIDTH].chunks_mut(size) {
                    for pair in 0..size / 2 {
                        let angle = position as f64 / 1000f64.powf(2.0 * pair as f64 / size as f64);
                        let (a, b) = (head[pair], head[pair + size / 2]);
                        head[pair] = a * angle.cos() - b * angle.sin();
                        head[pair + size / 2] = a * angle.sin() + b * angle.cos();
                    }
                }
                mixed
            })
            .collect();
        hidden = (0..ids.len())
            .map(|position| {
                let mut attended = Vec::new();
                for head in 0..HEADS {
                    let part = |at: usize, part: usize| &mixed[at][part * WIDTH + head * size..][..size];
                    let score = |at: usize| (dot(part(position, 0), part(at, 1)) / (size as f64).sqrt()).exp();
                    let total: f64 = (0..ids.len()).map(score).sum();
                    attended.extend(
                        (0..size).map(|n| (0..ids.len()).map(|at| score(at) / total * part(at, 2)[n]).sum::<f64>()),
                    );
                }
                let middle = norm(&plus(&times(get("attn.out_proj"), &attended), &hidden[position]), &name("norm1"));
                let (up, gate) = (times(get("mlp.fc11"), &middle), times(get("mlp.fc12"), &middle));
                let gated: Vec<f64> =
                    up.iter().zip(&gate).map(|(up, gate)| up * gate / (1.0 + (-gate).exp())).collect();
                norm(&plus(&times(get("mlp.fc2"), &gated), &middle), &name("norm2"))
            })
            .collect();
    }
    let sum = hidden.iter().fold(vec![0.0; WIDTH], |sum, x| plus(&sum, x));
    let length = dot(&sum, &sum).sqrt();
    sum.into_iter().map(|x| x / length).collect()
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
