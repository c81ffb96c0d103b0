//! The suites that every backend of a trait must pass, this crate's own and other people's alike.

pub mod chat;
pub mod embedding;
pub mod task;
pub mod vector;
