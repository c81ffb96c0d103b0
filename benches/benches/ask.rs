//! A question over this repository's documents, end to end with the embedded models: `cargo bench --bench ask -- [--json] [CASE...]`.
//!
//! The questions of `data/questions.txt` over `docs/`, one after the other; p50 in milliseconds of finding the evidence (`retrieve`), of wording the
//! answer where one was found (`generate`), and from submit to output (`total`). The index is made before and kept in files, as in a server that has
//! read the documents. `decided` is the share of these questions that were found and of those in `data/unanswerable.txt` that were not. Without the
//! models nothing is measured.

use std::{error::Error, path::PathBuf, sync::Arc, time::Instant};

use serde_json::json;
use sutazai_agents::documents::{Answer, DocumentManager, DocumentsOptions};
use sutazai_benches::{disk::directory, figures::Figure, notes::note, stats::median};
use sutazai_core::{Orchestrator, agent::typed};
use sutazai_llm::{
    local::{LocalChat, LocalChatConfig, LocalEmbedding},
    registry::{ModelStore, Role},
};
use sutazai_store::vector::UsearchStore;

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
        note(BENCH, format_args!("left out: `sutazai-server models pull {CHAT} {EMBEDDING}` gets the models"));
        return Ok(());
    };
    let (weights, _) = chat.file(Role::Weights)?;
    let disk = directory()?;
    let vectors = Arc::new(UsearchStore::open(disk.path()).await?);
    let orchestrator = Orchestrator::builder()
        .agent(typed(DocumentManager::new(DocumentsOptions::default())))
        .chat_model(Arc::new(LocalChat::new(LocalChatConfig::new(CHAT, weights))))
        .embedding_model(Arc::new(LocalEmbedding::new(models, EMBEDDING)?))
        .vectors(Arc::clone(&vectors) as _)
        .start()
        .await?;
    let docs: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../docs"].iter().collect();
    let ask = async |question: &str| -> Fallible<(Answer, f64)> {
        let input = json!({"text": question, "docs": docs});
        let began = Instant::now();
        let answer: Answer = orchestrator.submit(DocumentManager::NAME, &input).await?.output().await?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        if std::env::var_os("ASK_VERBOSE").is_some() {
            note(question, serde_json::to_string(&answer)?);
        }
        Ok((answer, took))
    };
    let (mut retrieve, mut generate, mut total) = (Vec::new(), Vec::new(), Vec::new());
    let (mut asked, mut decided) = (0, 0);
    for (number, question) in QUESTIONS.lines().enumerate() {
        if number == 0 {
            // Reads the documents and loads the models.
            ask(question).await?;
        }
        let (answer, took) = ask(question).await?;
        asked += 1;
        decided += usize::from(answer.found);
        retrieve.push(answer.timings_ms.retrieve);
        total.push(took);
        if answer.found {
            generate.push(answer.timings_ms.generate);
        }
    }
    for question in UNANSWERABLE.lines() {
        asked += 1;
        decided += usize::from(!ask(question).await?.0.found);
    }
    let is_wanted = |case: &str| wanted.is_empty() || wanted.iter().any(|word| word == case);
    for (case, times) in [("retrieve", retrieve), ("generate", generate), ("total", total)] {
        if is_wanted(case) {
            Figure::new(BENCH, case, median(times), "ms").print();
        }
    }
    if is_wanted("decided") {
        Figure::new(BENCH, "decided", decided as f64 / asked as f64, "ratio").print();
    }
    drop(orchestrator);
    vectors.close().await;
    Ok(())
}
