//! Reference backends that live in memory: complete, and gone with the process.

mod embedding;
mod task;

pub use self::{embedding::HashedEmbedding, task::MemoryTaskStore};
