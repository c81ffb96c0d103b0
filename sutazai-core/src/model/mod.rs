//! Models: chat and embedding behind one trait each.

mod chat;
mod embedding;
mod info;
mod registry;

pub(crate) use self::chat::collect;
pub use self::{
    chat::{
        ChatEvent, ChatModel, ChatModelExt, ChatReply, ChatRequest, ChatStream, Finish, Message, ResponseFormat, Role,
        Sampling, StopReason, ToolCall, ToolSpec, Usage,
    },
    embedding::{EmbeddingModel, EmbeddingModelExt, Embeddings},
    info::{ModelCapabilities, ModelInfo},
    registry::Models,
};
