//! A question over this repository's documents, end to end with the embedded models: `cargo bench --bench ask -- [--json] [CASE...]`.
//!
//! The questions of `data/questions.txt` over `docs/`, one after the other; p50 in milliseconds of finding the evidence, of wording the answer and of both.
//! The index is made before, as it is in a server that has read the documents. `decided` is the share of these questions that were found and of those
//! in `data/unanswerable.txt` that were not. Without the models nothing is measured.

use std::{error::Error, path::PathBuf, sync::Arc};

use serde_json::json;
use sutazai_agents::documents::{Answer, DocumentManager, DocumentsOptions};
use sutazai_benches::{figures::Figure, stats::median};
use sutazai_core::{Orchestrator, agent::typed, memory::MemoryVectorStore};
use sutazai_llm::{
    local::{LocalChat, LocalChatConfig, LocalEmbedding},
    registry::{ModelStore, Role},
};

type Fallible<T> = Result<T, Box<dyn Error>>;

const BENCH: &str = "ask";
const CHAT: &str = "smollm2:135m";
const EMBEDDING: &str = "all-minilm";
const QUESTIONS: &str = include_str!("../data/questions.txt");
const UNANSWERABLE: &str = include_str!("../data/unanswerable.txt");

#[tokio::main]
async fn main() -> Fallible<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let models = ModelStore::from_env()?;
    let (chat, embedding) = (models.installed(CHAT).await, models.installed(EMBEDDING).await);
    let (Ok(chat), Ok(_)) = (chat, embedding) else {
        return skip(&format!("the models are not on disk; `sutazai-server models pull {CHAT} {EMBEDDING}` gets them"));
    };
    let (weights, _) = chat.file(Role::Weights)?;
    let orchestrator = Orchestrator::builder()
        .agent(typed(DocumentManager::new(DocumentsOptions::default())))
        .chat_model(Arc::new(LocalChat::new(LocalChatConfig::new(CHAT, weights))))
        .embedding_model(Arc::new(LocalEmbedding::new(models, EMBEDDING)?))
        .vectors(Arc::new(MemoryVectorStore::new()))
        .start()
        .await?;
    let docs: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../docs"].iter().collect();
    let ask = async |question: &str| -> Fallible<Answer> {
        let input = json!({"text": question, "docs": docs});
        let answer: Answer = orchestrator.submit(DocumentManager::NAME, &input).await?.output().await?;
        if std::env::var_os("ASK_VERBOSE").is_some() {
            note(&format!("{question}\n  {}", serde_json::to_string(&answer)?));
        }
        Ok(answer)
    };
    let mut times: [Vec<f64>; 3] = Default::default();
    let (mut asked, mut decided) = (0, 0);
    for (number, question) in QUESTIONS.lines().enumerate() {
        if number == 0 {
            // Reads the documents and loads the models.
            ask(question).await?;
        }
        let answer = ask(question).await?;
        asked += 1;
        decided += usize::from(answer.found);
        let took = answer.timings_ms;
        for (times, took) in times.iter_mut().zip([took.retrieve, took.generate, took.total]) {
            times.push(took);
        }
    }
    for question in UNANSWERABLE.lines() {
        asked += 1;
        decided += usize::from(!ask(question).await?.found);
    }
    let is_wanted = |case: &str| wanted.is_empty() || wanted.iter().any(|word| word == case);
    for (case, times) in ["retrieve", "generate", "total"].into_iter().zip(times) {
        if is_wanted(case) {
            Figure::new(BENCH, case, median(times), "ms").print();
        }
    }
    if is_wanted("decided") {
        Figure::new(BENCH, "decided", decided as f64 / asked as f64, "ratio").print();
    }
    Ok(())
}

#[allow(clippy::print_stderr, reason = "standard output is for figures")]
fn note(text: &str) {
    eprintln!("{text}");
}

fn skip(reason: &str) -> Fallible<()> {
    note(&format!("{BENCH}: left out: {reason}"));
    Ok(())
}
