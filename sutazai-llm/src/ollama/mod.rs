//! Models that an Ollama serves: chat and embeddings over its HTTP API, and what the server does with its models.

mod answer;
mod chat;
mod client;
mod connect;
mod discover;
mod embedding;
mod generate;
mod keep_alive;
mod models;
mod ndjson;
mod pull;
mod refusal;
mod request;

pub use self::{
    chat::OllamaChat,
    client::OllamaClient,
    connect::OllamaModel,
    discover::{Discovered, answering, default_urls, discover},
    embedding::OllamaEmbedding,
    generate::GenerateRequest,
    keep_alive::KeepAlive,
    models::{Details, Running, Shown, Tag},
    pull::PullProgress,
};

#[cfg(test)]
mod tests;
