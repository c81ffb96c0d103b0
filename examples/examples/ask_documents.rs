//! A question over a folder of documents, answered with citations. `cargo run --example ask_documents -- PATH QUESTION`.
//! Needs both embedded models: `cargo run --release -- models pull smollm2:135m all-minilm`.

use std::sync::Arc;

use serde_json::json;
use sutazai_agents::documents::{Answer, DocumentManager, DocumentsOptions};
use sutazai_core::{memory::MemoryVectorStore, prelude::*};
use sutazai_llm::{
    local::{LocalChat, LocalChatConfig, LocalEmbedding},
    registry::{ModelStore, Role},
};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let docs = arguments.next().unwrap_or_else(|| "docs".into());
    let question = arguments.next().unwrap_or_else(|| "How many attempts does a task have by default?".into());

    // Without the models these errors say how to get them.
    let models = ModelStore::from_env()?;
    models.installed("all-minilm").await?;
    let chat = models.installed("smollm2:135m").await?;
    let (weights, _) = chat.file(Role::Weights)?;

    let orchestrator = Orchestrator::builder()
        .agent(typed(DocumentManager::new(DocumentsOptions::default())))
        .chat_model(Arc::new(LocalChat::new(LocalChatConfig::new(chat.model.name, weights))))
        .embedding_model(Arc::new(LocalEmbedding::new(models, "all-minilm")?))
        .vectors(Arc::new(MemoryVectorStore::new()))
        .start()
        .await?;

    let input = json!({ "action": "ask", "text": question, "docs": docs });
    let answer: Answer = orchestrator.submit("document-knowledge-manager", &input).await?.output().await?;
    println!("{question}\n{}", answer.answer);
    for citation in &answer.citations {
        println!("  {}:{}-{}", citation.path, citation.start_line, citation.end_line);
    }
    println!(
        "index {:.0} ms, retrieve {:.0} ms, generate {:.0} ms",
        answer.timings_ms.index, answer.timings_ms.retrieve, answer.timings_ms.generate
    );
    Ok(())
}
