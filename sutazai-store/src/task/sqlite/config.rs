//! The settings of a SQLite task store.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use super::error::{Fault, Result};

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
    /// The database file; it and its folder are made if missing. Files with the endings `-wal`, `-shm` and `.lock` stand beside it.
    pub path: PathBuf,
    /// When a commit counts as done; default [`Synchronous::Full`].
    pub synchronous: Synchronous,
    /// Connections for lists and histories at most, opened as they are needed; default 2. One more is the engine's own.
    pub readers: u32,
    /// How long to wait for another process that holds the file; default 5 s.
    pub busy_timeout: Duration,
    /// The size the file may grow to; default none but that of the disk. Beyond it, writes fail as full.
    pub max_bytes: Option<u64>,
    /// Whether other processes may have the file open as well, all of them with this set; default no. No task is granted twice then either,
    /// but an engine that starts takes back all tasks that run under its node's name: no two may run agents under one name at a time.
    pub shared: bool,
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
            shared: false,
        }
    }

    /// The folder of the file, unless that is the current one.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty())
    }

    /// Refuses paths that SQLite takes for something else than a file.
    pub(super) fn check(&self) -> Result<()> {
        let text = self.path.to_string_lossy();
        if text.is_empty() || text == ":memory:" || text.starts_with("file:") {
            return Err(Fault::NoFile);
        }
        Ok(())
    }

    /// The file that whoever has the store open holds.
    pub(super) fn lock(&self) -> PathBuf {
        beside(&self.path, ".lock")
    }

    /// The write-ahead log, which SQLite puts beside what links lead to.
    pub(super) async fn log(&self) -> io::Result<PathBuf> {
        Ok(beside(&tokio::fs::canonicalize(&self.path).await?, "-wal"))
    }

    fn options(&self) -> SqliteConnectOptions {
        crate::sqlite::options(&self.path)
            .busy_timeout(self.busy_timeout)
            .foreign_keys(false)
            .pragma("temp_store", "MEMORY")
    }

    /// For a first look at a file that a crash left in the middle of something: the driver mends that, and nothing else is changed.
    pub(super) fn mender(&self) -> SqliteConnectOptions {
        self.options().create_if_missing(false)
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
            .statement_cache_capacity(128)
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

    /// For the connection that moves the log into the file. It waits but little for readers: commits may wait for it.
    pub(super) fn checkpointer(&self) -> SqliteConnectOptions {
        self.options()
            .busy_timeout(super::upkeep::PATIENCE.min(self.busy_timeout))
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", "0")
            .pragma("cache_size", "-256")
            .thread_name(|_| "sqlite-upkeep".to_owned())
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}
