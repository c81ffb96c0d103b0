#![doc = include_str!("../README.md")]

#[cfg(any(feature = "sqlite", feature = "usearch"))]
mod lock;
#[cfg(any(feature = "sqlite", feature = "usearch"))]
mod sqlite;
#[cfg(feature = "sqlite")]
pub mod task;
#[cfg(feature = "usearch")]
pub mod vector;

#[cfg(feature = "sqlite")]
pub use task::{SqliteConfig, SqliteStore, Synchronous};
