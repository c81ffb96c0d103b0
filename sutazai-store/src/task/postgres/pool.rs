//! Connections, a bounded number of them.
//!
//! Not the driver's pool: that one asks the database a question each time a connection comes back, which doubles the round trips of a write.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, SqlSafeStr,
    postgres::{PgArguments, PgConnectOptions, PgRow},
    query_with,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::error::{Fault, Result};

/// A connection that was idle for longer is asked whether it lives before it is used: firewalls forget such.
const FRESH: Duration = Duration::from_secs(30);

/// Connections that are idle for longer are closed when others are used.
const STALE: Duration = Duration::from_secs(600);

pub(super) struct Pool {
    options: PgConnectOptions,
    acquire_timeout: Duration,
    size: u32,
    permits: Arc<Semaphore>,
    /// The one used last is at the end.
    idle: Mutex<Vec<(PgConnection, Instant)>>,
}

impl Pool {
    pub(super) fn new(options: PgConnectOptions, size: u32, acquire_timeout: Duration) -> Arc<Self> {
        let size = size.max(1);
        let permits = Arc::new(Semaphore::new(usize::try_from(size).unwrap_or(1)));
        Arc::new(Self { options, acquire_timeout, size, permits, idle: Mutex::default() })
    }

    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease> {
        let permit = timeout(self.acquire_timeout, Arc::clone(&self.permits).acquire_owned());
        let permit = permit.await.map_err(|_| Fault::Busy)?.map_err(|_| Fault::Closed)?;
        loop {
            let Some((mut connection, since)) = self.pop() else { break };
            if since.elapsed() < FRESH
                || timeout(self.acquire_timeout, connection.ping()).await.is_ok_and(|asked| asked.is_ok())
            {
                return Ok(Lease {
                    connection: Some(connection),
                    pool: Arc::clone(self),
                    healthy: true,
                    _permit: permit,
                });
            }
        }
        let connected = timeout(self.acquire_timeout, PgConnection::connect_with(&self.options)).await;
        let connection = connected.map_err(|_| Fault::Silent)??;
        Ok(Lease { connection: Some(connection), pool: Arc::clone(self), healthy: true, _permit: permit })
    }

    fn pop(&self) -> Option<(PgConnection, Instant)> {
        let mut idle = self.idle();
        let first_fresh = idle.partition_point(|(_, since)| since.elapsed() > STALE);
        idle.drain(..first_fresh);
        idle.pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(PgConnection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every connection is back, for as long as a call waits for one, and closes them. No more are given out.
    pub(super) async fn close(&self) {
        if self.permits.is_closed() {
            return;
        }
        let all = timeout(self.acquire_timeout, self.permits.acquire_many(self.size)).await;
        self.permits.close();
        drop(all);
        let idle = std::mem::take(&mut *self.idle());
        for (connection, _) in idle {
            let _ = timeout(Duration::from_secs(1), connection.close()).await;
        }
    }
}

/// A connection in use. It goes back when dropped, unless something has gone wrong with it or is still under way.
pub(super) struct Lease {
    connection: Option<PgConnection>,
    pool: Arc<Pool>,
    healthy: bool,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|_| self.healthy && !self.pool.permits.is_closed()) {
            self.pool.idle().push((connection, Instant::now()));
        }
    }
}

impl Lease {
    /// Runs a prepared statement.
    pub(super) async fn rows(&mut self, sql: impl SqlSafeStr, arguments: PgArguments) -> Result<Vec<PgRow>> {
        let connection = self.connection.as_mut().ok_or(Fault::Closed)?;
        // Who is cancelled in the middle leaves a connection that nobody knows the state of.
        let was = std::mem::replace(&mut self.healthy, false);
        let rows = query_with(sql, arguments).fetch_all(connection).await.map_err(Fault::from);
        self.after(was, rows)
    }

    /// Runs statements without arguments or results.
    pub(super) async fn run(&mut self, sql: &'static str) -> Result<()> {
        let connection = self.connection.as_mut().ok_or(Fault::Closed)?;
        let was = std::mem::replace(&mut self.healthy, false);
        let done = connection.execute(sqlx::raw_sql(sql)).await.map(|_| ()).map_err(Fault::from);
        self.after(was, done)
    }

    fn after<T>(&mut self, was: bool, result: Result<T>) -> Result<T> {
        match &result {
            Err(fault) if fault.is_of_connection() => {
                self.connection = None;
                // The others are most likely lost as well: what ends one ends all, as a rule.
                self.pool.idle().clear();
            }
            _ => self.healthy = was,
        }
        result
    }

    /// Begins a transaction; a connection that is not told its end is not used again.
    pub(super) async fn begin(&mut self) -> Result<()> {
        self.run("BEGIN").await?;
        self.healthy = false;
        Ok(())
    }

    pub(super) async fn commit(&mut self) -> Result<()> {
        self.run("COMMIT").await?;
        self.healthy = true;
        Ok(())
    }

    pub(super) async fn roll_back(&mut self) {
        self.healthy = self.connection.is_some() && self.run("ROLLBACK").await.is_ok();
    }
}

/// SQL that was put together here.
pub(super) fn safe(sql: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(sql)
}
