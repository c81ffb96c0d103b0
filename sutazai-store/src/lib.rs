#![doc = include_str!("../README.md")]

#[cfg(feature = "redis")]
pub mod cache;
#[cfg(any(feature = "sqlite", feature = "usearch"))]
mod lock;
#[cfg(any(feature = "sqlite", feature = "usearch"))]
mod sqlite;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub mod task;
#[cfg(feature = "usearch")]
pub mod vector;

#[cfg(feature = "redis")]
pub use cache::{RedisAnswers, RedisAnswersConfig};
#[cfg(feature = "postgres")]
pub use task::{PostgresConfig, PostgresStore};
#[cfg(feature = "sqlite")]
pub use task::{SqliteConfig, SqliteStore, Synchronous};
