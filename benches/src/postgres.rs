//! A PostgreSQL of a bench's own, on the disk that is measured.

use sutazai_testing::{Postgres, PostgresConfig};

use crate::disk;

/// Room for the log, so that checkpoints come by time and not by size; everything else is as PostgreSQL ships it, `fsync=on` among it.
const SETTINGS: [(&str, &str); 1] = [("max_wal_size", "4GB")];

/// A server below [`disk::base`], ended when dropped, or why there is none.
pub async fn start() -> Result<Postgres, String> {
    let start = || {
        let below = disk::base().map_err(|error| error.to_string())?;
        let settings = SETTINGS.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Postgres::start_with(&Postgres::find()?, PostgresConfig { below: Some(below), settings })
    };
    tokio::task::spawn_blocking(start).await.map_err(|error| error.to_string())?
}
