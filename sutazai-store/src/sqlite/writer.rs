//! The one connection that writes.
//!
//! Each transaction runs under a lease on it. Whatever ends a lease early (an error, or a caller that stops waiting) leaves no transaction
//! behind: it is rolled back before anybody else gets the connection, and a connection that cannot even do that is replaced.

use std::sync::Arc;

use sqlx::{ConnectOptions, Connection, Error, Executor, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::{Mutex, OwnedMutexGuard};

type Result<T> = std::result::Result<T, Error>;

/// SQLite's code for a statement that makes no sense now, such as a rollback without a transaction.
const NOT_NOW: &str = "1";

/// Shared by everything that writes.
pub(crate) struct Writer {
    options: SqliteConnectOptions,
    /// What each new connection runs first.
    prepare: &'static str,
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
            Err(Error::Database(error)) if error.code().as_deref() == Some(NOT_NOW) => {}
            Err(error) => {
                tracing::warn!(%error, "the writing connection is replaced");
                self.connection = None;
            }
        }
    }
}

impl Writer {
    /// Writes through `connection`, and through others with these options if that breaks; each runs `prepare` first.
    pub(crate) async fn new(
        options: SqliteConnectOptions,
        prepare: &'static str,
        mut connection: SqliteConnection,
    ) -> Result<Self> {
        connection.execute(prepare).await?;
        let slot = Slot { connection: Some(connection), ..Slot::default() };
        Ok(Self { options, prepare, slot: Arc::new(Mutex::new(slot)) })
    }

    /// The connection, clean and for nobody else.
    pub(crate) async fn lease(&self) -> Result<Lease> {
        let mut slot = Arc::clone(&self.slot).lock_owned().await;
        if slot.closed {
            return Err(Error::PoolClosed);
        }
        slot.clean().await;
        if slot.connection.is_none() {
            let mut connection = self.options.connect().await?;
            connection.execute(self.prepare).await?;
            slot.connection = Some(connection);
        }
        Ok(Lease { slot: Some(slot) })
    }

    /// Waits for the transaction under way and closes; later leases fail.
    pub(crate) async fn close(&self) -> Result<()> {
        let mut slot = self.slot.lock().await;
        slot.closed = true;
        slot.clean().await;
        match slot.connection.take() {
            Some(connection) => connection.close().await,
            None => Ok(()),
        }
    }
}

/// The right to write.
pub(crate) struct Lease {
    slot: Option<OwnedMutexGuard<Slot>>,
}

impl Lease {
    /// The connection, to be used inside a transaction.
    pub(crate) fn connection(&mut self) -> Result<&mut SqliteConnection> {
        let slot = self.slot.as_mut().ok_or(Error::PoolClosed)?;
        slot.open = true;
        slot.connection.as_mut().ok_or(Error::PoolClosed)
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        self.connection()?.execute("BEGIN IMMEDIATE").await?;
        Ok(())
    }

    /// Commits. If SQLite itself refuses, nothing was committed; after any other error nobody knows.
    pub(crate) async fn commit(&mut self) -> Result<()> {
        self.connection()?.execute("COMMIT").await?;
        self.committed();
        Ok(())
    }

    /// The transaction has committed: nothing is left to be ended.
    pub(crate) fn committed(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.open = false;
        }
    }

    /// Undoes whatever the transaction did; the lease can go on with another.
    pub(crate) async fn roll_back(&mut self) {
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
