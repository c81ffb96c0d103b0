//! How fast the embedded embedding model is: `cargo bench --bench embedding -- [--json] [CASE...]`.
//!
//! `batch32`: sentences per second, 32 different sentences of the documentation's length in a call. `alone`: milliseconds for one of them.
//! Medians; without the weights nothing is measured.

use std::{error::Error, time::Instant};

use sutazai_benches::{figures::Figure, notes::note, stats::median};
use sutazai_core::model::EmbeddingModel;
use sutazai_llm::{local::LocalEmbedding, registry::ModelStore};

type Fallible<T> = Result<T, Box<dyn Error>>;

const BENCH: &str = "embedding";
const MODEL: &str = "all-minilm";
const BATCH: usize = 32;
const RUNS: usize = 31;

/// Sentences as documents have them, some 20 word pieces each; each gets its number, so that no two are the same.
const SENTENCES: [&str; 8] = [
    "A lease is the time-bounded, fenced right of one worker to execute one task.",
    "Finished tasks leave the hot index, so a claim costs the same with a thousand rows.",
    "The writer groups what arrives within a moment into one commit.",
    "Waiting costs nothing: a task that waits holds no thread and no memory of a pool.",
    "Every model call goes through one gateway, which admits, budgets and retries.",
    "After a crash the journal is replayed, and no recorded step runs again.",
    "The monitor slows down admission before the memory of the machine is used up.",
    "Backends are chosen by the URL in the configuration, not by the agent's code.",
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Fallible<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let model = LocalEmbedding::new(ModelStore::from_env()?, MODEL)?;
    if let Err(error) = model.ready().await {
        return skip(&error.to_string());
    }
    let texts: Vec<String> = (0..BATCH).map(|i| format!("{i}. {}", SENTENCES[i % SENTENCES.len()])).collect();
    for (case, texts) in [("batch32", texts.as_slice()), ("alone", &texts[..1])] {
        if !wanted.is_empty() && !wanted.iter().any(|word| word == case) {
            continue;
        }
        let mut seconds = Vec::with_capacity(RUNS);
        // The first runs load the model and warm up.
        for run in 0..RUNS + 3 {
            let began = Instant::now();
            model.embed(texts).await?;
            if run >= 3 {
                seconds.push(began.elapsed().as_secs_f64());
            }
        }
        let median = median(seconds);
        match case {
            "alone" => Figure::new(BENCH, case, median * 1000.0, "ms").print(),
            _ => Figure::new(BENCH, case, BATCH as f64 / median, "sentences/s").print(),
        }
    }
    Ok(())
}

fn skip(reason: &str) -> Fallible<()> {
    note(BENCH, format_args!("left out: {reason}"));
    Ok(())
}
