//! Brings the file to this version's schema, or says why it cannot be used.

use sqlx::{
    Connection, SqliteConnection,
    migrate::{MigrateError, Migrator},
};

use super::{
    config::SqliteConfig,
    error::{Fault, Result},
};

/// The newest schema that this version knows.
const KNOWN: i64 = 1;

/// `PRAGMA application_id` of our files: "Suta".
const APPLICATION: i64 = 0x5375_7461;

static MIGRATIONS: Migrator = sqlx::migrate!("src/task/sqlite/migrations");

/// Opens the file to write to it. Makes or updates the schema; refuses files that are damaged, another program's or too new.
pub(super) async fn open(config: &SqliteConfig) -> Result<SqliteConnection> {
    if let Some(folder) = config.folder() {
        tokio::fs::create_dir_all(folder).await.map_err(Fault::Path)?;
    }
    // What is there is looked at before it is opened to write, which would already change another program's file.
    let mut version = 0;
    if tokio::fs::try_exists(&config.path).await.map_err(Fault::Path)? {
        let mut file = SqliteConnection::connect_with(&config.reader()).await?;
        version = check(&mut file).await?;
        file.close().await?;
    }
    let mut connection = SqliteConnection::connect_with(&config.writer()).await?;
    if version < KNOWN {
        MIGRATIONS.run(&mut connection).await.map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Fault::Driver(error),
            error => Fault::OtherSchema(error),
        })?;
    }
    Ok(connection)
}

/// The schema version of the file, 0 for an empty one.
async fn check(connection: &mut SqliteConnection) -> Result<i64> {
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await?;
    if tables == 0 {
        return Ok(0);
    }
    let application: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await?;
    if application != APPLICATION {
        return Err(Fault::Foreign);
    }
    let meta = "SELECT max(value) FILTER (WHERE key = 'schema_version'), max(value) FILTER (WHERE key = 'min_reader') FROM meta";
    let (version, min_reader): (i64, i64) = sqlx::query_as(meta).fetch_one(connection).await?;
    if min_reader > KNOWN {
        return Err(Fault::TooNew { min_reader, known: KNOWN });
    }
    Ok(version)
}
