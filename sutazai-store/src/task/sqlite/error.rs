//! What can go wrong in here, and what callers are told.

use sutazai_core::{Error, ErrorKind};

pub(super) type Result<T, E = Fault> = std::result::Result<T, E>;

/// A fault before it has met its operation and its file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the store is closed; open another one")]
    Closed,
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
    #[error(transparent)]
    Driver(#[from] sqlx::Error),
}

impl Fault {
    /// SQLite's extended result code, if it gave one.
    fn sqlite_code(&self) -> Option<i32> {
        match self {
            Self::Driver(sqlx::Error::Database(error)) => error.code()?.parse().ok(),
            _ => None,
        }
    }

    /// Whether the statement contradicts what is stored: a duplicate, or a guard that does not hold.
    pub(super) fn is_constraint(&self) -> bool {
        self.sqlite_code().is_some_and(|code| code & 0xff == 19)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let (kind, code) = match &fault {
            Fault::Closed => (ErrorKind::Unavailable, "store_closed"),
            Fault::TooNew { .. } | Fault::OtherSchema(_) => (ErrorKind::Corrupt, "store_version"),
            Fault::Foreign | Fault::Value(..) => (ErrorKind::Corrupt, "store_damaged"),
            Fault::Path(_) => (ErrorKind::Unavailable, "store_unavailable"),
            Fault::Driver(sqlx::Error::PoolClosed) => return Fault::Closed.into(),
            Fault::Driver(error) => {
                let (kind, code, message) = match fault.sqlite_code() {
                    Some(code) => of_sqlite(code),
                    None => of_driver(error),
                };
                let error = Self::new(kind, message).with_code(code);
                return match fault {
                    // The driver's wrapper says the same as what it wraps.
                    Fault::Driver(sqlx::Error::Database(source)) => error.because(source.into_error()),
                    fault => error.because(fault),
                };
            }
        };
        let error = Self::new(kind, fault.to_string()).with_code(code);
        match fault {
            Fault::OtherSchema(source) => error.because(source),
            Fault::Value(_, source) => error.because(source),
            Fault::Path(source) => error.because(source),
            _ => error,
        }
    }
}

type Told = (ErrorKind, &'static str, &'static str);

/// The driver's own faults.
fn of_driver(error: &sqlx::Error) -> Told {
    match error {
        sqlx::Error::PoolTimedOut => (ErrorKind::Timeout, "store_busy", "every reading connection is busy; try again"),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            (ErrorKind::Corrupt, "store_damaged", "a stored value cannot be read back; restore the file from a backup")
        }
        _ => (ErrorKind::Unavailable, "store_unavailable", "the database does not answer; try again"),
    }
}

/// SQLite's codes (<https://www.sqlite.org/rescode.html>) as far as they tell an operator different things.
fn of_sqlite(code: i32) -> Told {
    // Writes of all kinds that a full disk refuses: IOERR_WRITE, FSYNC, DIR_FSYNC, TRUNCATE, SHMSIZE, SHMMAP.
    const FAILED_WRITES: [i32; 6] = [778, 1034, 1290, 1546, 4874, 5386];
    match code & 0xff {
        13 => (ErrorKind::Full, "store_full", "the disk is full; free some space and the store goes on"),
        10 if FAILED_WRITES.contains(&code) => {
            (ErrorKind::Full, "store_full", "the disk takes no more; free some space and the store goes on")
        }
        5 | 6 => (ErrorKind::Unavailable, "store_busy", "another process holds the file; try again"),
        11 | 26 => {
            (ErrorKind::Corrupt, "store_damaged", "the file is damaged or no database; restore it from a backup")
        }
        8 => (ErrorKind::Unavailable, "store_unavailable", "the file cannot be written; check its permissions"),
        14 => (ErrorKind::Unavailable, "store_unavailable", "the file cannot be opened; check path and permissions"),
        10 => (ErrorKind::Unavailable, "store_unavailable", "the disk fails; check it and its mount"),
        1 | 19 | 20 | 21 => (ErrorKind::Internal, "internal", "the database refused a statement"),
        _ => (ErrorKind::Unavailable, "store_unavailable", "the database does not answer; try again"),
    }
}
