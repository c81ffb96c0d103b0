//! Brings the schema to what this version needs, or says why it cannot be used.

use sqlx::{
    Connection, Executor, PgConnection, Row,
    migrate::{MigrateError, Migrator},
    postgres::PgConnectOptions,
};

use super::{
    error::{Fault, Result},
    pool::safe,
};

static MIGRATIONS: Migrator = sqlx::migrate!("src/task/postgres/migrations");

/// The newest schema that this version knows.
fn known() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// What the database makes of a commit.
pub(super) struct Settings {
    /// Whether it waits for the disk.
    pub(super) durable: bool,
}

/// Makes or updates the schema; refuses one that is another program's or too new. Many processes may do so at the same time.
pub(super) async fn open(options: &PgConnectOptions, schema: &str) -> Result<Settings> {
    let mut connection = PgConnection::connect_with(options).await?;
    let sql =
        "SELECT current_setting('server_encoding'), current_setting('synchronous_commit'), current_setting('fsync')";
    let row = connection.fetch_one(sql).await?;
    let (encoding, commit, fsync): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if encoding != "UTF8" {
        return Err(Fault::Encoding(encoding));
    }
    // A start where all is done takes no lock that others wait for.
    if check(&mut connection, schema).await? < known() {
        update(&mut connection, schema).await?;
    }
    connection.close().await?;
    Ok(Settings { durable: commit != "off" && fsync == "on" })
}

/// All or nothing, and one process at a time.
async fn update(connection: &mut PgConnection, schema: &str) -> Result<()> {
    let mut write = connection.begin().await?;
    write.execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0").await?;
    write
        .execute(safe(format!("SELECT pg_advisory_xact_lock(hashtextextended('sutazai schema {schema}', 0))")))
        .await?;
    // The right to make schemas is asked for even where this one is there.
    if !exists(&mut write, schema).await? {
        write.execute(safe(format!("CREATE SCHEMA {schema}"))).await?;
    }
    if check(&mut write, schema).await? < known() {
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
