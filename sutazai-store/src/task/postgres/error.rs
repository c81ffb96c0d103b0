//! What can go wrong in here, and what callers are told.

use sutazai_core::{Error, ErrorKind};

pub(super) type Result<T, E = Fault> = std::result::Result<T, E>;

/// A fault before it has met its operation and its database.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(
        "the store was written by a newer version (it admits programs that know schema {min_reader}, this one knows {known}); use the newer program"
    )]
    TooNew { min_reader: i64, known: i64 },
    #[error(
        "the schema is not the one that this version made; restore the database from a backup, or choose another schema"
    )]
    OtherSchema(#[source] sqlx::migrate::MigrateError),
    #[error("the schema holds tables of another program; choose another one")]
    Foreign,
    #[error("a stored value cannot be read back: {0}; restore the database from a backup")]
    Value(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0}")]
    Setting(String),
    #[error("the database keeps text as {0}; make one with the encoding UTF8")]
    Encoding(String),
    #[error("a write has more than {0} events; split it")]
    TooManyEvents(i64),
    #[error("the store is closed; open another one")]
    Closed,
    #[error("every connection is busy; try again, or allow the store more of them")]
    Busy,
    #[error("the database did not answer in time; try again")]
    Silent,
    #[error(transparent)]
    Driver(#[from] sqlx::Error),
}

impl Fault {
    /// PostgreSQL's code (<https://www.postgresql.org/docs/current/errcodes-appendix.html>), if it gave one.
    pub(super) fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        match self {
            Self::Driver(error) => error.as_database_error()?.code(),
            _ => None,
        }
    }

    /// Whether the statement contradicts what is stored: a duplicate, or a guard that does not hold.
    pub(super) fn is_constraint(&self) -> bool {
        self.code().is_some_and(|code| code.starts_with("23") || code == GUARD)
    }

    /// Whether the transaction stood in the way of another and was rolled back for that.
    pub(super) fn is_collision(&self) -> bool {
        self.code().is_some_and(|code| matches!(&*code, "40001" | "40P01"))
    }

    /// Whether the connection is of no use any more: all but what the database says about a statement.
    pub(super) fn is_of_connection(&self) -> bool {
        match self {
            // One that turned to reading only leads to a server that is not the first any more.
            Self::Driver(sqlx::Error::Database(error)) => error.code().is_none_or(|code| {
                code == READ_ONLY || ["57P", "08", "25P"].iter().any(|class| code.starts_with(class))
            }),
            Self::Driver(sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => false,
            Self::Driver(_) | Self::Silent => true,
            _ => false,
        }
    }
}

/// Division by zero: what a guard ends in.
const GUARD: &str = "22012";

/// A change where only reading is allowed.
const READ_ONLY: &str = "25006";

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let (kind, code) = match &fault {
            Fault::TooNew { .. } | Fault::OtherSchema(_) => (ErrorKind::Corrupt, "store_version"),
            Fault::Foreign | Fault::Value(..) => (ErrorKind::Corrupt, "store_damaged"),
            Fault::Setting(_) | Fault::Encoding(_) | Fault::TooManyEvents(_) => (ErrorKind::Invalid, "invalid"),
            Fault::Closed => (ErrorKind::Unavailable, "store_closed"),
            Fault::Busy => (ErrorKind::Timeout, "store_busy"),
            Fault::Silent => (ErrorKind::Timeout, "store_timeout"),
            Fault::Driver(_) => (ErrorKind::Unavailable, "store_unavailable"),
        };
        let error = Self::new(kind, fault.to_string()).with_code(code);
        match fault {
            Fault::Driver(error) => told(error),
            Fault::OtherSchema(source) => error.because(source),
            Fault::Value(_, source) => error.because(source),
            _ => error,
        }
    }
}

/// Kind, code and message.
type Told = (ErrorKind, &'static str, &'static str);

fn told(error: sqlx::Error) -> Error {
    let (kind, code, message) = match error.as_database_error().and_then(|error| error.code()) {
        Some(code) => of_state(&code),
        None => of_driver(&error),
    };
    let told = Error::new(kind, message).with_code(code);
    match error {
        // The driver's wrapper says the same as what it wraps.
        sqlx::Error::Database(source) => told.because(source.into_error()),
        error => told.because(error),
    }
}

/// The driver's own faults.
fn of_driver(error: &sqlx::Error) -> Told {
    match error {
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => (
            ErrorKind::Corrupt,
            "store_damaged",
            "a stored value cannot be read back; restore the database from a backup",
        ),
        sqlx::Error::Configuration(_) => (ErrorKind::Invalid, "invalid", "the URL of the database is wrong"),
        sqlx::Error::Tls(_) => (
            ErrorKind::Unavailable,
            "store_unavailable",
            "the connection cannot be encrypted; check sslmode and certificates",
        ),
        _ => (
            ErrorKind::Unavailable,
            "store_unavailable",
            "the database does not answer; check its address, or try again",
        ),
    }
}

/// PostgreSQL's codes as far as they tell an operator different things.
fn of_state(code: &str) -> Told {
    match code {
        "53100" => {
            (ErrorKind::Full, "store_full", "the database's disk is full; free some space and the store goes on")
        }
        "28P01" | "28000" => (
            ErrorKind::Invalid,
            "store_denied",
            "the database refuses this user or this password; check them in the URL",
        ),
        "3D000" => {
            (ErrorKind::Invalid, "store_missing", "there is no such database; create it, or name another in the URL")
        }
        "42501" => {
            (ErrorKind::Invalid, "store_denied", "the user may not do this; grant it the schema, or let it create one")
        }
        "53300" => (
            ErrorKind::Unavailable,
            "store_busy",
            "the database has no connection left; allow it more, or the store fewer, and try again",
        ),
        "57014" => {
            (ErrorKind::Timeout, "store_timeout", "the database took longer than the statement timeout; try again")
        }
        "55P03" => (
            ErrorKind::Timeout,
            "store_busy",
            "another transaction holds a lock for longer than the lock timeout; try again",
        ),
        "40001" | "40P01" => {
            (ErrorKind::Unavailable, "store_busy", "other transactions kept standing in the way; try again")
        }
        READ_ONLY => (
            ErrorKind::Unavailable,
            "store_unavailable",
            "the database takes no changes at present; it is asked again with each call, or name the one that takes them",
        ),
        "57P01" | "57P02" | "57P03" => {
            (ErrorKind::Unavailable, "store_unavailable", "the database is starting or stopping; try again")
        }
        "XX001" | "XX002" => (ErrorKind::Corrupt, "store_damaged", "the database is damaged; restore it from a backup"),
        _ if code.starts_with("08") || code.starts_with("53") || code.starts_with("58") || code.starts_with("57") => {
            (ErrorKind::Unavailable, "store_unavailable", "the database cannot serve at present; try again")
        }
        _ if code.starts_with("25P") => (
            ErrorKind::Unavailable,
            "store_unavailable",
            "the database ended a transaction that stood still; try again",
        ),
        _ => (ErrorKind::Internal, "internal", "the database refused a statement"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        assert_eq!(of_state("53100").0, ErrorKind::Full);
        assert!(
            ["57P01", "57P03", "08006", "53200", "58030", "25P03", "53300"]
                .map(of_state)
                .iter()
                .all(|told| told.0 == ErrorKind::Unavailable)
        );
        assert!(["57014", "55P03"].map(of_state).iter().all(|told| told.0 == ErrorKind::Timeout));
        assert!(["28P01", "28000", "3D000", "42501"].map(of_state).iter().all(|told| told.0 == ErrorKind::Invalid));
        assert_eq!(of_state("42601").1, "internal");
    }
}
