//! Work beside the commits: moves the write-ahead log into the file before it grows too long, keeps room ahead of it, and forgets old keys.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use sutazai_core::{
    Error,
    clock::{Clock, SystemClock},
};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use super::{ahead::Ahead, error::Result, keys};
use crate::sqlite::writer::Writer;

/// Pages from which on commits wait for the rest, so that the log starts again (64 MiB).
pub(super) const HARD_PAGES: u64 = 16_384;

/// The log's bounds, in pages.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// From here on pages are moved while commits go on.
    pub(super) soft: u64,
    /// From here on commits wait for the rest.
    pub(super) hard: u64,
}

/// 16 MiB and 64 MiB.
const BOUNDS: Bounds = Bounds { soft: 4_096, hard: HARD_PAGES };

/// How long commits wait for readers of the log, which keep it from starting again.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// How long commits are left alone after they waited in vain.
const TRUCE: Duration = Duration::from_secs(5);

/// Commits come in bursts: no look at the log sooner than this after the last.
const REST: Duration = Duration::from_millis(100);

/// When old keys are first looked for: a process that lives but briefly does so as well.
const FORGET_FIRST: Duration = Duration::from_secs(60);

/// How often old keys are looked for then.
const FORGET_EVERY: Duration = Duration::from_secs(15 * 60);

/// The upkeep of one store, which ends with it.
pub(super) struct Upkeep {
    committed: Arc<Notify>,
    ending: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl Upkeep {
    /// Of the store with this writer and this log.
    pub(super) fn start(options: SqliteConnectOptions, writer: Arc<Writer>, log: PathBuf) -> Self {
        let (end, ended) = oneshot::channel();
        let committed = Arc::new(Notify::new());
        let task = tokio::spawn(keep(options, writer, Ahead::of(log), Arc::clone(&committed), ended));
        Self { committed, ending: Mutex::new(Some((end, task))) }
    }

    /// Something was committed.
    pub(super) fn committed(&self) {
        self.committed.notify_one();
    }

    /// Empties the log and waits until that is done.
    pub(super) async fn end(&self) {
        let ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((end, task)) = ending else { return };
        drop(end);
        if let Err(error) = task.await {
            tracing::error!(%error, "the upkeep of the store broke off");
        }
    }
}

/// Runs until `ended` says so or the store is gone, then empties the log.
async fn keep(
    options: SqliteConnectOptions,
    writer: Arc<Writer>,
    mut ahead: Ahead,
    committed: Arc<Notify>,
    mut ended: oneshot::Receiver<()>,
) {
    let mut forget = interval_at(Instant::now() + FORGET_FIRST, FORGET_EVERY);
    forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    let mut truce: Option<Instant> = None;
    loop {
        let rest = tokio::select! {
            _ = &mut ended => break,
            () = committed.notified() => {
                let hard = truce.is_none_or(|end| Instant::now() >= end);
                let bounds = Bounds { hard: if hard { BOUNDS.hard } else { u64::MAX }, ..BOUNDS };
                match checkpoint(&mut connection, &options, &writer, bounds).await {
                    Ok(Checkpoint::Hindered) => truce = Some(Instant::now() + TRUCE),
                    Ok(Checkpoint::Done { pages }) => ahead.keep(&writer, pages).await,
                    Err(fault) if fault.is_closed() => {}
                    Err(fault) => {
                        // The log only grows meanwhile; the next commit brings the next try.
                        tracing::warn!(error = %Error::from(fault).report(), "the write-ahead log could not be moved");
                        connection = None;
                    }
                }
                REST
            }
            _ = forget.tick() => {
                match keys::forget(&writer, SystemClock.now()).await {
                    Ok(_) => {}
                    Err(fault) if fault.is_closed() => {}
                    Err(fault) => {
                        tracing::warn!(error = %Error::from(fault).report(), "old idempotency keys could not be forgotten");
                    }
                }
                Duration::ZERO
            }
        };
        tokio::select! {
            _ = &mut ended => break,
            () = sleep(rest) => {}
        }
    }
    if let Err(fault) = empty(connection, &options).await {
        let error = Error::from(fault).report();
        tracing::warn!(%error, "the write-ahead log could not be emptied; it is read at the next start");
    }
}

/// How a checkpoint went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Checkpoint {
    /// As far as it should; so many pages are in the log.
    Done { pages: u64 },
    /// The log is too long and cannot start again: somebody still reads from it.
    Hindered,
}

pub(super) async fn checkpoint(
    connection: &mut Option<SqliteConnection>,
    options: &SqliteConnectOptions,
    writer: &Writer,
    bounds: Bounds,
) -> Result<Checkpoint> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(options.connect().await?),
    };
    let mut pages = log(connection, "NOOP").await?.pages;
    if pages >= bounds.soft {
        pages = log(connection, "PASSIVE").await?.pages;
    }
    if pages < bounds.hard {
        return Ok(Checkpoint::Done { pages });
    }
    // Commits or readers never paused long enough for the log to start again: hold commits back, and wait a little for the readers.
    let lease = writer.lease().await?;
    let state = log(connection, "RESTART").await?;
    drop(lease);
    Ok(if state.hindered { Checkpoint::Hindered } else { Checkpoint::Done { pages: state.pages } })
}

async fn empty(connection: Option<SqliteConnection>, options: &SqliteConnectOptions) -> Result<()> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => options.connect().await?,
    };
    log(&mut connection, "TRUNCATE").await?;
    Ok(connection.close().await?)
}

/// The log after a checkpoint.
pub(super) struct Log {
    /// Somebody's reading or writing kept it from being completed.
    hindered: bool,
    pub(super) pages: u64,
}

pub(super) async fn log(connection: &mut SqliteConnection, mode: &'static str) -> Result<Log> {
    let sql = sqlx::AssertSqlSafe(format!("PRAGMA wal_checkpoint({mode})"));
    let (busy, pages, _moved): (i64, i64, i64) = sqlx::query_as(sql).fetch_one(connection).await?;
    Ok(Log { hindered: busy != 0, pages: pages.max(0).cast_unsigned() })
}
