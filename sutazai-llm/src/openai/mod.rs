//! Models behind an API in OpenAI's format: OpenAI itself, vLLM, llama.cpp's server, and whatever else speaks it.
//!
//! The format cannot say everything that a request here can, nor does every server keep to it:
//!
//! * it does not tell what a model can do or how much it reads at once: [`OpenAiChatConfig`] says so, and a request for more fails first;
//! * it has no word for thinking aloud or not: a request that asks for it is unsupported. What a server sends as thoughts is passed on;
//! * a server that sends no usage is taken to have used 0 tokens.

mod answer;
mod calls;
mod chat;
mod client;
mod embedding;
mod refusal;
mod request;
mod sse;

pub use self::{
    chat::{OpenAiChat, OpenAiChatConfig},
    client::OpenAiClient,
    embedding::OpenAiEmbedding,
};

#[cfg(test)]
mod tests;
