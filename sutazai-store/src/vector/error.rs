//! What can fail here, and how it is told.

use std::{error::Error as StdError, fmt::Display, io};

use sutazai_core::{Error, ErrorKind};

use crate::sqlite;

/// A failure before it is known what it was about.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the collection was dropped meanwhile")]
    Gone,
    #[error("the collection has been written to so often that it has no keys left: drop it and fill it anew")]
    KeysSpent,
    #[error("the file has layout {0}, this program knows layouts up to 1: start a newer one")]
    Newer(i64),
    #[error("stored data cannot be read back: restore the database from a backup")]
    Damaged(#[source] Box<dyn StdError + Send + Sync>),
    #[error("the index file cannot be used: {0}")]
    Index(&'static str),
    #[error("the index file cannot be read or written")]
    File(#[from] io::Error),
    #[error("the graph of neighbours fails")]
    Graph(#[source] Box<dyn StdError + Send + Sync>),
    #[error("the database refuses")]
    Database(#[from] sqlx::Error),
    /// Committed or not: memory has to be loaded anew.
    #[error("whether the write was committed is not known: repeat it")]
    Unsure(#[source] sqlx::Error),
}

impl Failure {
    /// Of a commit that failed: where SQLite itself refused, nothing was committed.
    pub(super) fn of_commit(error: sqlx::Error) -> Self {
        if error.as_database_error().is_some() { Self::Database(error) } else { Self::Unsure(error) }
    }

    /// The public error.
    pub(super) fn told(self, operation: &'static str, subject: &dyn Display) -> Error {
        let error = match self {
            Self::Gone => Error::new(ErrorKind::NotFound, Self::Gone.to_string()).with_code("collection_not_found"),
            Self::KeysSpent => Error::new(ErrorKind::Full, Self::KeysSpent.to_string()),
            newer @ Self::Newer(_) => Error::new(ErrorKind::Unsupported, newer.to_string()).with_code("newer_layout"),
            Self::Damaged(source) => {
                Error::new(ErrorKind::Corrupt, "stored data cannot be read back: restore the database from a backup")
                    .with_code("store_damaged")
                    .because(source)
            }
            Self::File(source) => file(source),
            Self::Database(source) | Self::Unsure(source) => sqlite::error::told(source),
            other @ (Self::Index(_) | Self::Graph(_)) => {
                Error::new(ErrorKind::Internal, "the index fails").because(other)
            }
        };
        error.during(operation).about(subject)
    }
}

/// Tells a driver's error.
pub(super) trait Told<T> {
    fn told(self, operation: &'static str, subject: &dyn Display) -> Result<T, Error>;
}

impl<T> Told<T> for Result<T, sqlx::Error> {
    fn told(self, operation: &'static str, subject: &dyn Display) -> Result<T, Error> {
        self.map_err(|error| Failure::from(error).told(operation, subject))
    }
}

impl<T> Told<T> for io::Result<T> {
    fn told(self, operation: &'static str, subject: &dyn Display) -> Result<T, Error> {
        self.map_err(|error| Failure::from(error).told(operation, subject))
    }
}

fn file(source: io::Error) -> Error {
    let (kind, code, message) = match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (ErrorKind::Full, "store_full", "the disk is full; free some space and the store goes on")
        }
        _ => (
            ErrorKind::Unavailable,
            "store_unavailable",
            "the file system refuses; see whether the path exists and may be written",
        ),
    };
    Error::new(kind, message).with_code(code).because(source)
}
