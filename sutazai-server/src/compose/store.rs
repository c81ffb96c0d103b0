//! Which store keeps the tasks.

use std::sync::Arc;

use secrecy::ExposeSecret;
use sutazai_core::{Error, ErrorKind, Result, store::TaskStore};
use sutazai_store::{SqliteConfig, SqliteStore, Synchronous};

use crate::{
    config::{Fsync, Settings},
    node::DataDir,
};

/// The store of the settings: a file in the data directory, or a database that other servers share.
pub(super) async fn tasks(settings: &Settings, dir: &DataDir) -> Result<Arc<dyn TaskStore>> {
    if settings.store.expose_secret() != "sqlite" {
        let message = "this build has no PostgreSQL";
        return Err(Error::new(ErrorKind::Unsupported, message).with_code("store_unsupported"));
    }
    let mut config = SqliteConfig::new(dir.join("tasks.db"));
    config.synchronous = match settings.sqlite_synchronous {
        Fsync::Full => Synchronous::Full,
        Fsync::Normal => Synchronous::Normal,
    };
    Ok(Arc::new(SqliteStore::connect(config).await?))
}
