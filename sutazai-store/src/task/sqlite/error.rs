//! What can go wrong in here, and what callers are told.

use sutazai_core::{Error, ErrorKind};

use crate::sqlite;

pub(super) type Result<T, E = Fault> = std::result::Result<T, E>;

/// A fault before it has met its operation and its file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(
        "the store was written by a newer version (it admits binaries that know schema {min_reader}, this one knows {known}); use the newer binary"
    )]
    TooNew { min_reader: i64, known: i64 },
    #[error("the schema is not the one that this version made; restore the file from a backup")]
    OtherSchema(#[source] sqlx::migrate::MigrateError),
    #[error("the file is a database of another program; choose another path")]
    Foreign,
    #[error("a stored value cannot be read back: {0}; restore the file from a backup")]
    Value(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the path cannot be used; check it and its permissions")]
    Path(#[source] std::io::Error),
    #[error(
        "another process has these tasks open; stop it, or set `shared` in every process that uses them and let one run the agents"
    )]
    InUse,
    #[error("the path must name a file: a database in memory cannot be shared by connections")]
    NoFile,
    #[error("the file system admits no write-ahead log (the journal is `{0}`); use a local disk")]
    NoLog(String),
    #[error(transparent)]
    Driver(#[from] sqlx::Error),
}

impl Fault {
    /// Whether the statement contradicts what is stored: a duplicate, or a guard that does not hold.
    pub(super) fn is_constraint(&self) -> bool {
        matches!(self, Self::Driver(error) if sqlite::error::code(error).is_some_and(|code| code & 0xff == 19))
    }

    /// Whether the store was closed meanwhile.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Driver(sqlx::Error::PoolClosed))
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let (kind, code) = match &fault {
            Fault::TooNew { .. } | Fault::OtherSchema(_) => (ErrorKind::Corrupt, "store_version"),
            Fault::Foreign | Fault::Value(..) => (ErrorKind::Corrupt, "store_damaged"),
            Fault::Path(_) | Fault::NoLog(_) => (ErrorKind::Unavailable, "store_unavailable"),
            Fault::InUse => (ErrorKind::Unavailable, "store_in_use"),
            Fault::NoFile => (ErrorKind::Invalid, "invalid"),
            Fault::Driver(_) => (ErrorKind::Unavailable, "store_unavailable"),
        };
        let error = Self::new(kind, fault.to_string()).with_code(code);
        match fault {
            Fault::Driver(error) => sqlite::error::told(error),
            Fault::OtherSchema(source) => error.because(source),
            Fault::Value(_, source) => error.because(source),
            Fault::Path(source) => error.because(source),
            _ => error,
        }
    }
}
