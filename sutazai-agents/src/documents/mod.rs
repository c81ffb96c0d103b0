//! document-knowledge-manager: reads a file or a folder, finds passages, and answers questions with citations.

mod agent;
mod answer;
mod chunk;
mod corpus;
mod evidence;
mod index;
mod library;
mod manifest;
mod options;
mod retrieve;
mod source;
mod sync;
mod types;

pub use self::{
    agent::DocumentManager,
    answer::Grounded,
    evidence::EvidenceOptions,
    options::DocumentsOptions,
    sync::Report,
    types::{Action, Answer, Citation, DocumentsInput, DocumentsOutput, Hit, Hits, Ingested, Timings, Tokens, Warning},
};

use sutazai_core::{Error, ErrorKind, Result};

/// Reading, cutting and ranking: work for the runtime's blocking threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, "a thread that reads documents ended early").because(error))?
}
