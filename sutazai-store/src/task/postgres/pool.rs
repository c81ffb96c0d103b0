//! Connections, a bounded number of them, so shared out that what must not wait never waits for what may.
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

use super::{
    error::{Fault, Result},
    order,
};

/// A connection that was idle for longer is asked whether it lives before it is used: firewalls forget such.
const FRESH: Duration = Duration::from_secs(30);

/// Connections that are idle for longer are closed when others are used.
const STALE: Duration = Duration::from_secs(600);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The lease of this process: has a connection beside all others.
    Lease,
    /// Changes and claims: may take every other connection, and always finds some that nothing else takes.
    Work,
    /// A look at what is named by its id.
    Look,
    /// A list, a count or a feed, which may take long: leaves connections to short looks.
    Search,
}

/// How many connections each purpose but the first may take of `size`.
fn shares(size: u32) -> [usize; 3] {
    let size = usize::try_from(size).unwrap_or(1).max(1);
    let look = size.saturating_sub(if size < 4 { 1 } else { 2 }).max(1);
    [size, look, look.div_ceil(2)]
}

pub(super) struct Pool {
    options: PgConnectOptions,
    acquire_timeout: Duration,
    size: u32,
    lease: Arc<Semaphore>,
    /// Each purpose takes a place in its own row and in those before it.
    rows: [Arc<Semaphore>; 3],
    /// The one used last is at the end.
    idle: Mutex<Vec<(PgConnection, Instant)>>,
}

impl Pool {
    pub(super) fn new(options: PgConnectOptions, size: u32, acquire_timeout: Duration) -> Arc<Self> {
        let size = size.max(1);
        let rows = shares(size).map(|places| Arc::new(Semaphore::new(places)));
        let lease = Arc::new(Semaphore::new(1));
        Arc::new(Self { options, acquire_timeout, size, lease, rows, idle: Mutex::default() })
    }

    /// The narrowest row first: who waits there holds no place in another.
    async fn permits(&self, purpose: Purpose) -> Result<Vec<OwnedSemaphorePermit>> {
        let rows = match purpose {
            Purpose::Lease => std::slice::from_ref(&self.lease),
            Purpose::Work => &self.rows[..1],
            Purpose::Look => &self.rows[..2],
            Purpose::Search => &self.rows[..],
        };
        let mut permits = Vec::with_capacity(rows.len());
        for row in rows.iter().rev() {
            permits.push(Arc::clone(row).acquire_owned().await.map_err(|_| Fault::Closed)?);
        }
        Ok(permits)
    }

    pub(super) async fn lease(self: &Arc<Self>, purpose: Purpose) -> Result<Lease> {
        let permits = timeout(self.acquire_timeout, self.permits(purpose)).await.map_err(|_| Fault::Busy)??;
        loop {
            let Some((mut connection, since)) = self.pop() else { break };
            if since.elapsed() < FRESH
                || timeout(self.acquire_timeout, connection.ping()).await.is_ok_and(|asked| asked.is_ok())
            {
                return Ok(Lease {
                    connection: Some(connection),
                    pool: Arc::clone(self),
                    healthy: true,
                    _permits: permits,
                });
            }
        }
        let connected = timeout(self.acquire_timeout, PgConnection::connect_with(&self.options)).await;
        let connection = connected.map_err(|_| Fault::Silent)??;
        let mut lease =
            Lease { connection: Some(connection), pool: Arc::clone(self), healthy: true, _permits: permits };
        order::mend(&mut lease).await?;
        Ok(lease)
    }

    fn pop(&self) -> Option<(PgConnection, Instant)> {
        let mut idle = self.idle();
        let first_fresh = idle.partition_point(|(_, since)| since.elapsed() > STALE);
        idle.drain(..first_fresh);
        idle.pop()
    }

    fn is_closed(&self) -> bool {
        self.rows[0].is_closed()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(PgConnection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every connection is back, for as long as a call waits for one, and closes them. No more are given out.
    pub(super) async fn close(&self) {
        if self.is_closed() {
            return;
        }
        let all = async { (self.rows[0].acquire_many(self.size).await, self.lease.acquire().await) };
        let all = timeout(self.acquire_timeout, all).await;
        self.rows.iter().chain([&self.lease]).for_each(|row| row.close());
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
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|_| self.healthy && !self.pool.is_closed()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_wait_always_has_a_place() {
        for size in 2..200 {
            let [all, look, search] = shares(size);
            assert!(look < all && 0 < search && search <= look);
            assert!(look < 2 || search < look, "a search leaves room for looks");
        }
        assert_eq!(shares(10), [10, 8, 4]);
        assert_eq!(shares(1), [1, 1, 1]);
    }
}
