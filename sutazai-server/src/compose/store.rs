//! Which store keeps the tasks.

use std::{sync::Arc, time::Duration};

use secrecy::ExposeSecret;
use sutazai_core::{
    Result,
    store::{BudgetStore, TaskStore},
};
use sutazai_store::{PostgresConfig, PostgresStore, SqliteConfig, SqliteStore, Synchronous};

use crate::{
    config::{Fsync, Settings},
    node::DataDir,
};

/// One store in its roles.
pub(super) struct Stored {
    pub(super) tasks: Arc<dyn TaskStore>,
    pub(super) budgets: Arc<dyn BudgetStore>,
}

impl Stored {
    fn of(store: impl TaskStore + BudgetStore) -> Self {
        let store = Arc::new(store);
        Self { tasks: Arc::clone(&store) as _, budgets: store }
    }
}

/// The store of the settings: a file in the data directory, or a database that other servers share.
pub(super) async fn open(settings: &Settings, dir: &DataDir) -> Result<Stored> {
    match settings.store.expose_secret() {
        "sqlite" => sqlite(settings, dir).await,
        url => postgres(settings, url).await,
    }
}

async fn sqlite(settings: &Settings, dir: &DataDir) -> Result<Stored> {
    let mut config = SqliteConfig::new(dir.join("tasks.db"));
    config.synchronous = match settings.sqlite_synchronous {
        Fsync::Full => Synchronous::Full,
        Fsync::Normal => Synchronous::Normal,
    };
    Ok(Stored::of(SqliteStore::connect(config).await?))
}

async fn postgres(settings: &Settings, url: &str) -> Result<Stored> {
    let mut config = PostgresConfig::from_url(url)?;
    config.schema.clone_from(&settings.postgres_schema);
    config.max_connections = settings.postgres_connections;
    config.acquire_timeout = Duration::from_millis(settings.postgres_acquire_ms);
    config.statement_timeout = Duration::from_millis(settings.postgres_statement_ms);
    config.lock_timeout = Duration::from_millis(settings.postgres_lock_ms);
    config.idle_in_transaction_timeout = Duration::from_millis(settings.postgres_idle_ms);
    config.slow_query = Duration::from_millis(settings.postgres_slow_ms);
    Ok(Stored::of(PostgresStore::connect(config).await?))
}
