//! Reference backends that live in memory: complete, and gone with the process.

mod budget;
mod chat;
mod embedding;
mod task;
mod vector;

pub use self::{
    budget::MemoryBudgetStore,
    chat::{Script, ScriptedChat},
    embedding::HashedEmbedding,
    task::MemoryTaskStore,
    vector::MemoryVectorStore,
};
