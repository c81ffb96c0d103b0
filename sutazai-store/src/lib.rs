#![doc = include_str!("../README.md")]

#[cfg(feature = "sqlite")]
pub mod task;
#[cfg(feature = "usearch")]
pub mod vector;

#[cfg(feature = "sqlite")]
pub use task::{SqliteConfig, SqliteStore, Synchronous};
