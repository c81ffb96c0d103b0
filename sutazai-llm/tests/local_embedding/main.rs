//! all-MiniLM-L6-v2 where its weights are on disk: its vectors are those of an independent implementation.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what it finds by panicking")]

use std::{error::Error, sync::Arc};

use futures_util::future::BoxFuture;
use libtest_mimic::{Arguments, Failed};
use serde::Deserialize;
use sutazai_core::{
    conformance::embedding,
    model::{EmbeddingModel, EmbeddingModelExt},
};
use sutazai_llm::{local::LocalEmbedding, registry::ModelStore};
use sutazai_testing::trial;

const MODEL: &str = "all-minilm";

type Outcome = Result<(), Failed>;
type Case = fn(Arc<dyn EmbeddingModel>) -> BoxFuture<'static, Outcome>;

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?);
    // One model for all: loading it is most of the work.
    let model: Arc<dyn EmbeddingModel> = Arc::new(LocalEmbedding::new(ModelStore::from_env()?, MODEL)?);
    let why = |_| format!("{MODEL} is not on this machine; `cargo run --release -- models pull {MODEL}` gets it");
    let found = runtime.block_on(model.ready()).map(|()| model).map_err(why);

    let mut trials = Vec::new();
    for (name, case) in embedding::cases() {
        let runtime = runtime.clone();
        let run = move |model| runtime.block_on(case(model)).map_err(|error| error.report().into());
        trials.push(trial(format!("conformance::{name}"), found.clone(), run));
    }
    for (name, case) in [("vectors_are_the_reference_ones", vectors as Case), ("meaning_counts", meaning)] {
        let runtime = runtime.clone();
        trials.push(trial(name, found.clone(), move |model| runtime.block_on(case(model))));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}

/// Computed once in double precision from the same weights, by the formulas of the model, without this crate and without candle.
#[derive(Deserialize)]
struct Golden {
    text: Option<String>,
    repeat: Option<(String, usize)>,
    tokens: u32,
    vector: Vec<f32>,
}

fn vectors(model: Arc<dyn EmbeddingModel>) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let goldens: Vec<Golden> = serde_json::from_str(include_str!("../goldens/all-minilm.json"))?;
        let text = |golden: &Golden| match (&golden.text, &golden.repeat) {
            (Some(text), _) => text.clone(),
            (None, Some((text, times))) => text.repeat(*times),
            (None, None) => String::new(),
        };
        let texts: Vec<_> = goldens.iter().map(text).collect();
        let embeddings = model.embed(&texts).await?;
        assert_eq!(embeddings.tokens, goldens.iter().map(|golden| golden.tokens).sum::<u32>());
        for ((golden, found), text) in goldens.iter().zip(&embeddings.vectors).zip(&texts) {
            let cosine = cosine(&golden.vector, found);
            assert!(cosine > 0.999_999, "{text}: {cosine}");
        }
        Ok(())
    })
}

fn meaning(model: Arc<dyn EmbeddingModel>) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let question = model.embed_one("How do I make sure that no work is lost when a machine crashes?").await?;
        let near = model
            .embed_one("Tasks are written to disk before they are acknowledged, so they survive a power failure.")
            .await?;
        let far = model.embed_one("The restaurant serves fresh pasta with tomatoes and basil.").await?;
        let (near, far) = (cosine(&question, &near), cosine(&question, &far));
        assert!(near > far + 0.2, "{near} {far}");
        Ok(())
    })
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
