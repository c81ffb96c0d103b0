//! Models that run in this process.

mod chat;
mod embedding;
mod simd;

#[cfg(feature = "llama-cpp")]
pub use self::chat::LlamaCppChat;
pub use self::chat::{LocalChat, LocalChatConfig, ModelFile, Tokenizer};
pub use self::embedding::LocalEmbedding;

/// What a panic said.
fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}
