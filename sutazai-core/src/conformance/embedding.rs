//! What every [`EmbeddingModel`] must do.

use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};

use crate::{
    error::Result,
    model::{Caller, EmbeddingModel, Embeddings},
    task::Priority,
};

/// Every case as one `#[tokio::test]`, against the model that the expression makes (it may use `.await`). Where tests are made at run
/// time, [`cases`](crate::conformance::embedding::cases) has the same list.
///
/// ```ignore
/// sutazai_core::embedding_conformance!(HashedEmbedding::default());
/// ```
#[macro_export]
macro_rules! embedding_conformance {
    (@list $rule:ident $($args:tt)*) => {
        // Braces serve where items stand and where an expression stands.
        $crate::embedding_conformance! { @$rule [
            describes_itself, an_empty_batch_is_free, vectors_are_unit_length, texts_are_told_apart, order_is_kept, the_batch_changes_nothing,
            odd_texts_have_vectors, long_texts_are_cut, callers_do_not_mix, who_asks_changes_nothing
        ] $($args)* }
    };
    (@tests [$($case:ident),*] $make:expr) => {
        mod embedding_conformance {
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    let model: ::std::sync::Arc<dyn $crate::model::EmbeddingModel> = ::std::sync::Arc::new($make);
                    $crate::conformance::embedding::$case(model).await.map_err(|error| error.report()).unwrap();
                }
            )*
        }
    };
    (@table [$($case:ident),*]) => {
        vec![$((stringify!($case), |model| Box::pin($crate::conformance::embedding::$case(model)))),*]
    };
    ($make:expr) => { $crate::embedding_conformance!(@list tests $make); };
}

/// One case: a name and what to run.
pub type Case = (&'static str, fn(Arc<dyn EmbeddingModel>) -> BoxFuture<'static, Result<()>>);

/// Every case, by name.
#[must_use]
pub fn cases() -> Vec<Case> {
    crate::embedding_conformance!(@list table)
}

/// Rounding that another batch may bring.
const NEAR: f32 = 1e-4;

const TEXTS: [&str; 5] = [
    "A lease is the fenced right of one worker to execute one task.",
    "dogs",
    "The quick brown fox jumps over the lazy dog, again and again, until it is tired of jumping.",
    "Köln, 東京 and Αθήνα 🦀",
    "1984",
];

/// It says what it is, and that it can embed.
pub async fn describes_itself(model: Arc<dyn EmbeddingModel>) -> Result<()> {
    model.ready().await?;
    let info = model.info();
    assert!(!info.name.is_empty() && !info.backend.is_empty());
    assert!(info.capabilities.embedding && info.dimension > 0 && info.context_length > 0, "{info:?}");
    Ok(())
}

/// An empty batch gives an empty answer.
pub async fn an_empty_batch_is_free(model: Arc<dyn EmbeddingModel>) -> Result<()> {
    assert_eq!(model.embed(&[]).await?, Embeddings { vectors: Vec::new(), tokens: 0 });
    Ok(())
}

/// One vector per text, each of unit length and of the declared dimension.
pub async fn vectors_are_unit_length(model: Arc<dyn EmbeddingModel>) -> Result<()> {
    let vectors = embed(&*model, &TEXTS).await?;
    assert_eq!(vectors.len(), TEXTS.len());
    vectors.iter().for_each(|vector| assert_unit(&*model, vector));
    Ok(())
}

/// Different texts have different vectors.
pub async fn texts_are_told_apart(model: Arc<dyn EmbeddingModel>) -> Result<()> {
    let vectors = embed(&*model, &TEXTS).await?;
    for (index, vector) in vectors.iter().enumerate() {
        for (other, text) in vectors[..index].iter().zip(TEXTS) {
            let cosine: f32 = vector.iter().zip(other).map(|(a, b)| a * b).sum();
            assert!(cosine < 1.0 - 10.0 * NEAR, "{:?} and {text:?} have one vector ({cosine})", TEXTS[index]);
        }
    }
    Ok(())
}

/// The vectors come in the order of the texts, whatever their lengths.
pub async fn order_is_kept(model: Arc<dyn EmbeddingModel>) -> Result<()> {
    let forward = embed(&*model, &TEXTS).await?;
    let mut texts = TEXTS;
    texts.reverse();
    let mut backward = embed(&*model, &texts).await?;
    backward.reverse();
    assert_near(&forward, &backward);
    Ok(())
}

/// A text alone, among others, and twice in a batch has one vector, up to rounding.
pub async fn the_batch_changes_nothing(model: Arc<dyn EmbeddingModel>) -> Result<()> {
    let together = embed(&*model, &TEXTS).await?;
    for (text, expected) in TEXTS.iter().zip(&together) {
        let twice = embed(&*model, &[text, text]).await?;
        assert_near(&[expected.clone(), expected.clone()], &twice);
        assert_near(std::slice::from_ref(expected), &embed(&*model, &[text]).await?);
    }
    Ok(())
}

/// Empty, blank and strange texts get a vector like any other.
pub async fn odd_texts_have_vectors(model: Arc<dyn EmbeddingModel>) -> Result<()> {
    let texts = ["", " \t\r\n", "\0", "[CLS] [PAD] <|im_end|>", "\u{200d}\u{feff}", "!?…", "👩‍👩‍👧‍👦"];
    let vectors = embed(&*model, &texts).await?;
    assert_eq!(vectors.len(), texts.len());
    vectors.iter().for_each(|vector| assert_unit(&*model, vector));
    Ok(())
}

/// A text beyond the context is cut at its end: what stands after the cut is not read.
pub async fn long_texts_are_cut(model: Arc<dyn EmbeddingModel>) -> Result<()> {
    let long = "word ".repeat(model.info().context_length + 50);
    let longer = format!("{long} and a different ending");
    let vectors = embed(&*model, &[&long, &longer]).await?;
    vectors.iter().for_each(|vector| assert_unit(&*model, vector));
    assert_near(&vectors[..1], &vectors[1..]);
    Ok(())
}

/// Callers at the same time get each their own vectors.
pub async fn callers_do_not_mix(model: Arc<dyn EmbeddingModel>) -> Result<()> {
    let expected = embed(&*model, &TEXTS).await?;
    let calls = (0..40).map(|i| {
        let model = &*model;
        async move { (i % TEXTS.len(), embed(model, &[TEXTS[i % TEXTS.len()]]).await) }
    });
    for (text, vectors) in join_all(calls).await {
        assert_near(&expected[text..=text], &vectors?);
    }
    Ok(())
}

/// A text has one vector, whoever asks for it and for whom.
pub async fn who_asks_changes_nothing(model: Arc<dyn EmbeddingModel>) -> Result<()> {
    let caller = Caller { tenant: Some("somebody".into()), priority: Priority::MAX, ..Caller::default() };
    let texts: Vec<String> = TEXTS.iter().map(|text| (*text).to_owned()).collect();
    let asked = model.embed_for(&caller, &texts).await?;
    assert_near(&embed(&*model, &TEXTS).await?, &asked.vectors);
    let nothing = model.embed_for(&caller, &[]).await?;
    assert_eq!(nothing, Embeddings { vectors: Vec::new(), tokens: 0 });
    Ok(())
}

async fn embed(model: &dyn EmbeddingModel, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    Ok(model.embed(&texts).await?.vectors)
}

fn assert_unit(model: &dyn EmbeddingModel, vector: &[f32]) {
    assert_eq!(vector.len(), model.info().dimension);
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((length - 1.0).abs() < 1e-3, "the length is {length}");
}

fn assert_near(expected: &[Vec<f32>], found: &[Vec<f32>]) {
    assert_eq!(expected.len(), found.len());
    for (expected, found) in expected.iter().zip(found) {
        assert_eq!(expected.len(), found.len());
        let cosine: f32 = expected.iter().zip(found).map(|(a, b)| a * b).sum();
        assert!(cosine > 1.0 - NEAR, "the cosine of what should be one vector is {cosine}");
    }
}
