//! Brings the file to this version's schema, or says why it cannot be used.

use std::time::{Duration, Instant};

use sqlx::{
    AssertSqlSafe, Connection, SqliteConnection,
    migrate::{MigrateError, Migrator},
    sqlite::SqliteConnectOptions,
};
use sutazai_core::task::{queue_name, version_line};

use super::{
    config::SqliteConfig,
    error::{Fault, Result},
};
use crate::sqlite;

/// `PRAGMA application_id` of our files: "Suta".
const APPLICATION: i64 = 0x5375_7461;

static MIGRATIONS: Migrator = sqlx::migrate!("src/task/sqlite/migrations");

/// The newest schema that this version knows.
fn known() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// How long opening waits for others that open the same new file: going over to the log fails at once where all else waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens the file to write to it. Makes or updates the schema; refuses files that are damaged, another program's or too new.
pub(super) async fn open(config: &SqliteConfig) -> Result<SqliteConnection> {
    let began = Instant::now();
    loop {
        match try_open(config).await {
            Err(Fault::Driver(error)) if is(&error, BUSY) && began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            opened => return opened,
        }
    }
}

async fn try_open(config: &SqliteConfig) -> Result<SqliteConnection> {
    // What is there is looked at before it is opened to write, which would already change another program's file.
    if tokio::fs::try_exists(&config.path).await.map_err(Fault::Path)? {
        match look(config.reader()).await {
            // What a crash left must be mended before it can be read, and that takes the right to write.
            Err(Fault::Driver(error)) if is(&error, READ_ONLY) => {
                look(config.mender()).await?;
            }
            looked => looked?,
        }
    }
    let mut connection = SqliteConnection::connect_with(&config.writer()).await?;
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut connection).await?;
    if journal != "wal" {
        return Err(Fault::NoLog(journal));
    }
    // All or nothing, and one process at a time: a start that is cut short leaves no half of a schema.
    let mut write = connection.begin_with("BEGIN IMMEDIATE").await?;
    let version = check(&mut write).await?;
    if version < known() {
        MIGRATIONS.run_direct(None, &mut *write, false).await.map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Fault::Driver(error),
            error => Fault::OtherSchema(error),
        })?;
    }
    if (1..QUEUES).contains(&version) {
        name_queues(&mut write).await?;
    }
    write.commit().await?;
    Ok(connection)
}

/// The schema from which on tasks have queues.
const QUEUES: i64 = 2;

/// Gives the tasks that may run again the queues that older versions did not know. Which version belongs to which line is the program's to say.
async fn name_queues(connection: &mut SqliteConnection) -> Result<()> {
    const NAMELESS: &str = "queue IS NULL AND state NOT IN ('completed', 'cancelled')";
    let sql = format!(
        "SELECT DISTINCT agent, agent_version FROM tasks INDEXED BY tasks_state WHERE state <> 'completed' AND {NAMELESS}"
    );
    let versions: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *connection).await?;
    for (agent, version) in versions {
        let sql = format!(
            "UPDATE tasks INDEXED BY tasks_state SET queue = ? \
             WHERE agent = ? AND agent_version = ? AND state <> 'completed' AND {NAMELESS}"
        );
        let queue = queue_name(&agent, version_line(&version));
        sqlx::query(AssertSqlSafe(sql)).bind(queue).bind(agent).bind(version).execute(&mut *connection).await?;
    }
    Ok(())
}

/// SQLite's code for a write that the connection may not do.
const READ_ONLY: i32 = 8;
/// SQLite's code for a file that another connection holds.
const BUSY: i32 = 5;

fn is(error: &sqlx::Error, code: i32) -> bool {
    sqlite::error::code(error).is_some_and(|found| found & 0xff == code)
}

async fn look(options: SqliteConnectOptions) -> Result<()> {
    let mut file = SqliteConnection::connect_with(&options).await?;
    check(&mut file).await?;
    Ok(file.close().await?)
}

/// The schema version of the file, 0 for an empty one.
async fn check(connection: &mut SqliteConnection) -> Result<i64> {
    // Earlier versions could leave the migrator's own table behind, and nothing else.
    let tables = "SELECT count(*) FROM sqlite_schema WHERE tbl_name <> '_sqlx_migrations'";
    let tables: i64 = sqlx::query_scalar(tables).fetch_one(&mut *connection).await?;
    if tables == 0 {
        return Ok(0);
    }
    let application: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await?;
    if application != APPLICATION {
        return Err(Fault::Foreign);
    }
    let meta = "SELECT max(value) FILTER (WHERE key = 'schema_version'), max(value) FILTER (WHERE key = 'min_reader') FROM meta";
    let (version, min_reader): (i64, i64) = sqlx::query_as(meta).fetch_one(connection).await?;
    if min_reader > known() {
        return Err(Fault::TooNew { min_reader, known: known() });
    }
    Ok(version)
}
