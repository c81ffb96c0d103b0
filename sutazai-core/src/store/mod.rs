//! The store traits: what a backend must do and what it guarantees.

mod task;
mod vector;

pub use self::{
    task::{Claim, Page, QueueDepths, StoreInfo, TaskQuery, TaskStore, TaskWrite, WriteOutcome},
    vector::{CollectionSpec, Filter, Selector, VectorCapabilities, VectorHit, VectorQuery, VectorRecord, VectorStore},
};
