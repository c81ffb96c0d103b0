//! What every store on SQLite shares: how a file is opened, the one connection that writes, and what faults mean.

pub(crate) mod error;
pub(crate) mod writer;

use std::path::Path;

use sqlx::{ConnectOptions, sqlite::SqliteConnectOptions};

/// A connection to the file at `path`, as every store of this crate wants it.
pub(crate) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        // An fsync of macOS leaves data in the drive's cache; elsewhere these do nothing.
        .pragma("fullfsync", "ON")
        .pragma("checkpoint_fullfsync", "ON")
        .disable_statement_logging() // what fails is reported by whoever handles the error
}
