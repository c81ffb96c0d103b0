//! Backends of `TaskStore`.

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod shared;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "postgres")]
pub use self::postgres::{PostgresConfig, PostgresStore};
#[cfg(feature = "sqlite")]
pub use self::sqlite::{SqliteConfig, SqliteStore, Synchronous};
