//! Models that run in this process.

mod chat;
mod embedding;
mod simd;

#[cfg(feature = "llama-cpp")]
pub use self::chat::LlamaCppChat;
pub use self::chat::{LocalChat, LocalChatConfig, Tokenizer};
pub use self::embedding::LocalEmbedding;
