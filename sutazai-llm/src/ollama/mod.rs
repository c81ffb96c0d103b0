//! Models that an Ollama serves: chat and embeddings over its HTTP API.

mod chat;
mod client;
mod discover;
mod embedding;
mod wire;

pub use self::{
    chat::OllamaChat,
    client::OllamaClient,
    discover::{Discovered, answering, default_urls, discover},
    embedding::OllamaEmbedding,
    wire::{Details, Shown, Tag},
};

#[cfg(test)]
mod tests;
