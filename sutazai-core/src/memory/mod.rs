//! Reference backends that live in memory: complete, and gone with the process.

mod chat;
mod embedding;
mod task;
mod vector;

pub use self::{
    chat::{Script, ScriptedChat},
    embedding::HashedEmbedding,
    task::MemoryTaskStore,
    vector::MemoryVectorStore,
};
