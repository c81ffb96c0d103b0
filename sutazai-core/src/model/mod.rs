//! Models: chat and embedding behind one trait each.

mod caller;
mod chat;
mod embedding;
mod info;
mod registry;
mod stream;

pub(crate) use self::chat::collect;
pub use self::{
    caller::Caller,
    chat::{
        Caching, ChatEvent, ChatModel, ChatModelExt, ChatReply, ChatRequest, Finish, Image, Message, ResponseFormat,
        Role, Sampling, StopReason, ToolCall, ToolSpec, Usage,
    },
    embedding::{EmbeddingModel, EmbeddingModelExt, Embeddings},
    info::{ModelCapabilities, ModelInfo},
    registry::Models,
    stream::{CacheUse, ChatStream, Served},
};
