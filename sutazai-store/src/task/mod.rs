//! Backends of `TaskStore`.

mod sqlite;

pub use self::sqlite::{SqliteConfig, SqliteStore, Synchronous};
