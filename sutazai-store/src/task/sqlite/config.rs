//! The settings of a SQLite task store.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// When it is on the disk: survives the loss of power. One `fsync` a commit.
    #[default]
    Full,
    /// When it is with the operating system: survives the end of the process. A loss of power may take the newest commits, never the file.
    Normal,
}

/// Settings of a [`SqliteStore`](super::SqliteStore).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SqliteConfig {
    /// The database file; it and its folder are made if missing. Two files with the endings `-wal` and `-shm` stand beside it.
    pub path: PathBuf,
    /// When a commit counts as done; default [`Synchronous::Full`].
    pub synchronous: Synchronous,
    /// Reading connections at most, opened as they are needed; default 2.
    pub readers: u32,
    /// How long to wait for another process that holds the file; default 5 s.
    pub busy_timeout: Duration,
    /// The size the file may grow to; default none but that of the disk. Beyond it, writes fail as full.
    pub max_bytes: Option<u64>,
}

/// SQLite's default, and what [`SqliteConfig::max_bytes`] counts in.
pub(super) const PAGE_BYTES: u64 = 4_096;

impl SqliteConfig {
    /// The defaults, for the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            synchronous: Synchronous::default(),
            readers: 2,
            busy_timeout: Duration::from_secs(5),
            max_bytes: None,
        }
    }

    /// The folder of the file, unless that is the current one.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty())
    }

    fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .busy_timeout(self.busy_timeout)
            .foreign_keys(false)
            .pragma("temp_store", "MEMORY")
            .disable_statement_logging() // what fails is reported by whoever handles the error
    }

    /// For the one connection that writes. Checkpoints are another's work.
    pub(super) fn writer(&self) -> SqliteConnectOptions {
        let synchronous = match self.synchronous {
            Synchronous::Full => SqliteSynchronous::Full,
            Synchronous::Normal => SqliteSynchronous::Normal,
        };
        let options = self
            .options()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .pragma("wal_autocheckpoint", "0")
            .pragma("journal_size_limit", (super::upkeep::HARD_PAGES * PAGE_BYTES).to_string())
            .pragma("cache_size", "-4096")
            .statement_cache_capacity(64)
            .row_buffer_size(1_024)
            .thread_name(|_| "sqlite-writer".to_owned());
        match self.max_bytes {
            Some(bytes) => options.pragma("max_page_count", (bytes / PAGE_BYTES).max(1).to_string()),
            None => options,
        }
    }

    /// For connections that only read.
    pub(super) fn reader(&self) -> SqliteConnectOptions {
        self.options()
            .read_only(true)
            .pragma("cache_size", "-1024")
            .statement_cache_capacity(32)
            .row_buffer_size(256)
            .thread_name(|n| format!("sqlite-reader-{n}"))
    }

    /// For the connection that moves the log into the file.
    pub(super) fn checkpointer(&self) -> SqliteConnectOptions {
        self.options()
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", "0")
            .pragma("cache_size", "-256")
            .thread_name(|_| "sqlite-upkeep".to_owned())
    }
}
