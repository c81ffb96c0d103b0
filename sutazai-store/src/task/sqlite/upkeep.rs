//! Work beside the commits: moves the write-ahead log into the file before it grows too long, and forgets old keys.

use std::{
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

use super::{
    error::{Fault, Result},
    write::forget_keys,
    writer::Writer,
};

/// Pages in the log from which on they are moved while commits go on (16 MiB).
const SOFT_PAGES: u64 = 4_096;

/// Pages from which on commits wait for the rest, so that the log starts again (64 MiB).
pub(super) const HARD_PAGES: u64 = 16_384;

/// Commits come in bursts: no look at the log sooner than this after the last.
const REST: Duration = Duration::from_millis(100);

/// How often old keys are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(15 * 60);

/// The upkeep of one store, which ends with it.
pub(super) struct Upkeep {
    committed: Arc<Notify>,
    ending: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl Upkeep {
    pub(super) fn start(options: SqliteConnectOptions, writer: Arc<Writer>) -> Self {
        let (end, ended) = oneshot::channel();
        let committed = Arc::new(Notify::new());
        let task = tokio::spawn(keep(options, writer, Arc::clone(&committed), ended));
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
    committed: Arc<Notify>,
    mut ended: oneshot::Receiver<()>,
) {
    let mut forget = interval_at(Instant::now() + FORGET_EVERY, FORGET_EVERY);
    forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    loop {
        let rest = tokio::select! {
            _ = &mut ended => break,
            () = committed.notified() => {
                match checkpoint(&mut connection, &options, &writer).await {
                    Ok(()) | Err(Fault::Closed) => {}
                    Err(fault) => {
                        // The log only grows meanwhile; the next commit brings the next try.
                        tracing::warn!(error = %Error::from(fault).report(), "the write-ahead log could not be moved");
                        connection = None;
                    }
                }
                REST
            }
            _ = forget.tick() => {
                match forget_keys(&writer, SystemClock.now()).await {
                    Ok(_) | Err(Fault::Closed) => {}
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

async fn checkpoint(
    connection: &mut Option<SqliteConnection>,
    options: &SqliteConnectOptions,
    writer: &Writer,
) -> Result<()> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(options.connect().await?),
    };
    if log(connection, "NOOP").await?.pages < SOFT_PAGES {
        return Ok(());
    }
    let state = log(connection, "PASSIVE").await?;
    if state.pages < HARD_PAGES || state.moved == state.pages {
        return Ok(());
    }
    // Commits never paused long enough for the log to start again: hold them back for the little that came in meanwhile.
    let lease = writer.lease().await?;
    log(connection, "PASSIVE").await?;
    drop(lease);
    Ok(())
}

async fn empty(connection: Option<SqliteConnection>, options: &SqliteConnectOptions) -> Result<()> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => options.connect().await?,
    };
    log(&mut connection, "TRUNCATE").await?;
    Ok(connection.close().await?)
}

/// The log after a checkpoint: how many pages it has, and how many of them are in the file.
struct Log {
    pages: u64,
    moved: u64,
}

async fn log(connection: &mut SqliteConnection, mode: &'static str) -> Result<Log> {
    let sql = sqlx::AssertSqlSafe(format!("PRAGMA wal_checkpoint({mode})"));
    let (_busy, pages, moved): (i64, i64, i64) = sqlx::query_as(sql).fetch_one(connection).await?;
    Ok(Log { pages: pages.max(0).cast_unsigned(), moved: moved.max(0).cast_unsigned() })
}
