//! What can fail here, and how it is told.

use std::{error::Error as StdError, fmt::Display, io};

use sutazai_core::{Error, ErrorKind};

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
    /// The public error.
    pub(super) fn told(self, operation: &'static str, subject: &dyn Display) -> Error {
        let error = match self {
            Self::Gone => Error::new(ErrorKind::NotFound, Self::Gone.to_string()).with_code("collection_not_found"),
            Self::KeysSpent => Error::new(ErrorKind::Full, Self::KeysSpent.to_string()),
            newer @ Self::Newer(_) => Error::new(ErrorKind::Unsupported, newer.to_string()).with_code("newer_layout"),
            Self::Damaged(source) => {
                Error::new(ErrorKind::Corrupt, "stored data cannot be read back: restore the database from a backup")
                    .because(source)
            }
            Self::File(source) => file(source),
            Self::Database(source) | Self::Unsure(source) => database(source),
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
    let (kind, message) = match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (ErrorKind::Full, "the disk is full: make room"),
        _ => (ErrorKind::Unavailable, "the file system refuses: see whether the path exists and may be written"),
    };
    Error::new(kind, message).because(source)
}

/// SQLite's result codes: 11 and 26 damage, 13 no room, 8 and 14 no access.
fn database(source: sqlx::Error) -> Error {
    let code = source.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok()).map(|code| code & 0xff);
    let (kind, message) = match (&source, code) {
        (_, Some(11 | 26)) => (ErrorKind::Corrupt, "the database is damaged: restore it from a backup"),
        (_, Some(13)) => (ErrorKind::Full, "the disk is full: make room"),
        (_, Some(8 | 14)) => {
            (ErrorKind::Unavailable, "the database cannot be opened: see whether the path exists and may be written")
        }
        (sqlx::Error::PoolClosed, _) => (ErrorKind::Unavailable, "the store is closed"),
        (sqlx::Error::PoolTimedOut, _) => (ErrorKind::Unavailable, "the database is busy: try again"),
        _ => (ErrorKind::Unavailable, "the database does not answer as it should"),
    };
    Error::new(kind, message).because(source)
}
