//! Brings the schema to what this version needs, or says why it cannot be used.

use std::time::Duration;

use sqlx::{
    Connection, Executor, PgConnection, Row,
    migrate::{MigrateError, Migrator},
    postgres::PgConnectOptions,
};
use tokio::time::timeout;

use super::{
    error::{Fault, Result},
    pool::safe,
};

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("src/task/postgres/migrations");

/// The newest schema that this version knows.
fn known() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// What the database makes of a commit.
pub(super) struct Settings {
    /// Whether it waits for the disk.
    pub(super) durable: bool,
}

/// How long it may take to make or update the schema, with all waiting; the database's own limits are below it.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// Limits of a transaction that makes or updates the schema: for its turn, and for each statement then. An index over a long history takes time.
const FOR_TURN: &str = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '5min'";
const FOR_CHANGES: &str = "SET LOCAL statement_timeout = '10min'; SET LOCAL lock_timeout = '1min'";

/// Makes or updates the schema; refuses one that is another program's or too new. Many processes may do so at the same time. The database has to answer
/// within `patience` unless there is something to make.
pub(super) async fn open(options: &PgConnectOptions, schema: &str, patience: Duration) -> Result<Settings> {
    let looked = timeout(patience, look(options, schema)).await;
    let (mut connection, settings, found) = looked.map_err(|_| Fault::Silent)??;
    // A start where all is done takes no lock that others wait for.
    if found < known() {
        timeout(PATIENCE, update(&mut connection, schema, found)).await.map_err(|_| Fault::Silent)??;
    }
    let _ = timeout(patience, connection.close()).await;
    Ok(settings)
}

async fn look(options: &PgConnectOptions, schema: &str) -> Result<(PgConnection, Settings, i64)> {
    let mut connection = PgConnection::connect_with(options).await?;
    let sql =
        "SELECT current_setting('server_encoding'), current_setting('synchronous_commit'), current_setting('fsync')";
    let row = connection.fetch_one(sql).await?;
    let (encoding, commit, fsync): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if encoding != "UTF8" {
        return Err(Fault::Encoding(encoding));
    }
    let found = check(&mut connection, schema).await?;
    Ok((connection, Settings { durable: commit != "off" && fsync == "on" }, found))
}

/// All or nothing, and one process at a time.
async fn update(connection: &mut PgConnection, schema: &str, found: i64) -> Result<()> {
    let mut write = connection.begin().await?;
    write.execute(FOR_TURN).await?;
    let turn = format!("advisory_xact_lock(hashtextextended('sutazai schema {schema}', 0))");
    let free: bool = write.fetch_one(safe(format!("SELECT pg_try_{turn}"))).await?.try_get(0)?;
    if !free {
        tracing::info!(schema, "another process makes or updates the schema; waiting until it is done");
        write.execute(safe(format!("SELECT pg_{turn}"))).await?;
    }
    write.execute(FOR_CHANGES).await?;
    // The right to make schemas is asked for even where this one is there.
    if !exists(&mut write, schema).await? {
        write.execute(safe(format!("CREATE SCHEMA {schema}"))).await?;
    }
    if check(&mut write, schema).await? < known() {
        tracing::info!(
            schema,
            from = found,
            to = known(),
            "updating the schema; it waits for transactions that use its tables"
        );
        MIGRATIONS.run_direct(None, &mut *write, false).await.map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Fault::Driver(error),
            error => Fault::OtherSchema(error),
        })?;
    }
    Ok(write.commit().await?)
}

async fn exists(connection: &mut PgConnection, schema: &str) -> Result<bool> {
    // By a look at the table: what the session remembers of names may be from before the lock.
    let sql = format!("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = '{schema}')");
    Ok(connection.fetch_one(safe(sql)).await?.try_get(0)?)
}

/// The version of the schema, 0 for an empty one.
async fn check(connection: &mut PgConnection, schema: &str) -> Result<i64> {
    let sql = format!(
        "SELECT count(*), count(*) FILTER (WHERE c.relname = 'meta') FROM pg_class AS c \
         JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = '{schema}' AND c.relkind IN ('r', 'p')"
    );
    let row = connection.fetch_one(safe(sql)).await?;
    let (tables, meta): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    match (tables, meta) {
        (0, _) => return Ok(0),
        (_, 0) => return Err(Fault::Foreign),
        _ => {}
    }
    let sql = "SELECT max(value) FILTER (WHERE key = 'schema_version'), max(value) FILTER (WHERE key = 'min_reader') FROM meta";
    let row = connection.fetch_one(sql).await.map_err(Fault::from).map_err(|fault| match fault.code().as_deref() {
        // No such column, or not of that type.
        Some(code) if code.starts_with("42") => Fault::Foreign,
        _ => fault,
    })?;
    let found: (Option<i64>, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    let (Some(version), Some(min_reader)) = found else { return Err(Fault::Foreign) };
    if min_reader > known() {
        return Err(Fault::TooNew { min_reader, known: known() });
    }
    Ok(version)
}
