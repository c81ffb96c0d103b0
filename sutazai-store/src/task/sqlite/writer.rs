//! The one connection that writes.
//!
//! Each transaction runs under a lease on it. Whatever ends a lease early (an error, or a caller that stops waiting) leaves no transaction
//! behind: it is rolled back before anybody else gets the connection, and a connection that cannot even do that is replaced.

use std::sync::Arc;

use sqlx::{
    ConnectOptions, Connection, Executor, SqliteConnection, query_with,
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteRow},
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{
    error::{Fault, Result},
    statement::Statement,
};

/// SQLite's code for a statement that makes no sense now, such as a rollback without a transaction.
const NOT_NOW: &str = "1";

/// Shared by everything that writes.
pub(super) struct Writer {
    options: SqliteConnectOptions,
    slot: Arc<Mutex<Slot>>,
}

#[derive(Default)]
struct Slot {
    connection: Option<SqliteConnection>,
    /// A transaction has begun and nobody knows yet how it ended.
    open: bool,
    closed: bool,
}

impl Slot {
    /// Ends what was left open; afterwards the connection is clean or gone.
    async fn clean(&mut self) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let Some(connection) = &mut self.connection else { return };
        match connection.execute("ROLLBACK").await {
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(NOT_NOW) => {}
            Err(error) => {
                tracing::warn!(%error, "the writing connection is replaced");
                self.connection = None;
            }
        }
    }
}

impl Writer {
    /// Writes through `connection`, and through others with these options if that breaks.
    pub(super) async fn new(options: SqliteConnectOptions, connection: SqliteConnection) -> Result<Self> {
        let connection = Some(guarded(connection).await?);
        Ok(Self { options, slot: Arc::new(Mutex::new(Slot { connection, ..Slot::default() })) })
    }

    /// The connection, clean and for nobody else.
    pub(super) async fn lease(&self) -> Result<Lease> {
        let mut slot = Arc::clone(&self.slot).lock_owned().await;
        if slot.closed {
            return Err(Fault::Closed);
        }
        slot.clean().await;
        if slot.connection.is_none() {
            slot.connection = Some(guarded(self.options.connect().await?).await?);
        }
        Ok(Lease { slot: Some(slot) })
    }

    /// Waits for the transaction under way and closes; later leases fail.
    pub(super) async fn close(&self) -> Result<()> {
        let mut slot = self.slot.lock().await;
        slot.closed = true;
        slot.clean().await;
        match slot.connection.take() {
            Some(connection) => Ok(connection.close().await?),
            None => Ok(()),
        }
    }
}

/// Gives a connection the row that a transaction sets to whether its update changed as many tasks as it should: anything but yes is refused.
async fn guarded(mut connection: SqliteConnection) -> Result<SqliteConnection> {
    let guard = "CREATE TEMP TABLE guard (ok INTEGER NOT NULL CHECK (ok)); INSERT INTO guard VALUES (1)";
    connection.execute(guard).await?;
    Ok(connection)
}

/// The right to write.
pub(super) struct Lease {
    slot: Option<OwnedMutexGuard<Slot>>,
}

impl Lease {
    fn connection(&mut self) -> Result<&mut SqliteConnection> {
        let slot = self.slot.as_mut().ok_or(Fault::Closed)?;
        slot.open = true;
        slot.connection.as_mut().ok_or(Fault::Closed)
    }

    /// Begins a transaction.
    pub(super) async fn begin(&mut self) -> Result<()> {
        self.connection()?.execute("BEGIN IMMEDIATE").await?;
        Ok(())
    }

    /// Runs statements one after the other.
    pub(super) async fn run(&mut self, statements: Vec<Statement>) -> Result<()> {
        for statement in statements {
            let (sql, arguments) = statement.into_parts();
            query_with(sql, arguments).execute(self.connection()?).await?;
        }
        Ok(())
    }

    /// Runs a query inside the transaction.
    pub(super) async fn rows(
        &mut self,
        sql: impl sqlx::SqlSafeStr,
        arguments: SqliteArguments,
    ) -> Result<Vec<SqliteRow>> {
        Ok(query_with(sql, arguments).fetch_all(self.connection()?).await?)
    }

    /// Commits.
    pub(super) async fn commit(&mut self) -> Result<()> {
        self.connection()?.execute("COMMIT").await?;
        Ok(())
    }

    /// The transaction has committed: nothing is left to be ended.
    pub(super) fn committed(mut self) {
        if let Some(slot) = &mut self.slot {
            slot.open = false;
        }
    }

    /// Undoes whatever the transaction did; the lease can go on with another.
    pub(super) async fn roll_back(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.clean().await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut slot) = self.slot.take_if(|slot| slot.open) else { return };
        // Without a runtime the process is ending, and the connection with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { slot.clean().await });
        }
    }
}
