//! Reference backends that live in memory: complete, and gone with the process.

mod chat;
mod embedding;
mod task;

pub use self::{
    chat::{Script, ScriptedChat},
    embedding::HashedEmbedding,
    task::MemoryTaskStore,
};
