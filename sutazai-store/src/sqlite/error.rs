//! What a fault of SQLite or its driver means to a caller: the same in every store.

use sutazai_core::{Error, ErrorKind};

/// Kind, code and message.
type Told = (ErrorKind, &'static str, &'static str);

/// SQLite's extended result code, if it gave one.
pub(crate) fn code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// The public error.
pub(crate) fn told(error: sqlx::Error) -> Error {
    let (kind, code, message) = match code(&error) {
        Some(code) => of_sqlite(code),
        None => of_driver(&error),
    };
    let told = Error::new(kind, message).with_code(code);
    match error {
        sqlx::Error::PoolClosed => told,
        // The driver's wrapper says the same as what it wraps.
        sqlx::Error::Database(source) => told.because(source.into_error()),
        error => told.because(error),
    }
}

/// The driver's own faults.
fn of_driver(error: &sqlx::Error) -> Told {
    match error {
        sqlx::Error::PoolClosed => (ErrorKind::Unavailable, "store_closed", "the store is closed; open another one"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        let full = [13, 778, 1034, 4874].map(of_sqlite);
        assert!(full.iter().all(|(kind, code, _)| (*kind, *code) == (ErrorKind::Full, "store_full")));
        assert!([5, 261, 517, 6].map(of_sqlite).iter().all(|told| told.1 == "store_busy"));
        assert!([11, 267, 26].map(of_sqlite).iter().all(|told| told.0 == ErrorKind::Corrupt));
        assert!([8, 776, 14, 10, 266].map(of_sqlite).iter().all(|told| told.1 == "store_unavailable"));
        assert_eq!(of_sqlite(531).1, "internal");
    }
}
