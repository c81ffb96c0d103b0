//! Records in SQLite: the truth that every index can be built from.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use futures_util::TryStreamExt;
use sqlx::{
    AssertSqlSafe, Connection, Row, Sqlite, SqliteConnection, SqlitePool,
    sqlite::{SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};
use sutazai_core::{
    Result,
    store::{Page, VectorRecord},
};

use super::error::{Failure, Told};
use crate::sqlite::{
    options,
    writer::{Lease, Writer},
};

/// Bits of a key that hold the sequence; the collection's number stands above them.
const SEQUENCE_BITS: u32 = 40;

/// Rows that one statement takes: the driver's cost is per statement.
const ROWS: usize = 64;

/// The layout in `schema.sql`.
const VERSION: i64 = 1;

static INSERT_MANY: LazyLock<Arc<str>> = LazyLock::new(|| {
    let values = vec!["(?, ?, ?, ?, ?)"; ROWS].join(", ");
    format!("INSERT INTO records (key, collection, id, payload, vector) VALUES {values}").into()
});
static DELETE_MANY: LazyLock<Arc<str>> = LazyLock::new(|| {
    let ids = vec!["?"; ROWS].join(", ");
    format!("DELETE FROM records WHERE collection = ? AND id IN ({ids}) RETURNING key").into()
});

/// A collection's row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) number: i64,
    pub(super) stamp: i64,
    pub(super) dimension: usize,
}

/// A record's row, its vector of unit length.
pub(super) struct Stored {
    pub(super) key: i64,
    pub(super) id: Arc<str>,
    pub(super) payload: Arc<str>,
    pub(super) vector: Vec<f32>,
}

/// The connections: one that writes, few that read.
pub(super) struct Database {
    writer: Writer,
    readers: SqlitePool,
}

impl Database {
    pub(super) async fn open(path: &Path) -> Result<Self> {
        let options = options(path)
            .create_if_missing(true)
            .page_size(8192)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let readers = SqlitePoolOptions::new().max_connections(4).test_before_acquire(false);
        let open = async {
            let connection = SqliteConnection::connect_with(&options).await?;
            let writer = Writer::new(options.clone(), "PRAGMA foreign_keys = ON", connection).await?;
            migrate(&mut writer.lease().await?).await?;
            Ok(writer)
        };
        let writer = open.await.map_err(|failure: Failure| failure.told("open vectors", &path.display()))?;
        Ok(Self { writer, readers: readers.connect_lazy_with(options) })
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        if let Err(error) = self.writer.close().await {
            tracing::warn!(%error, "the database of vectors was not closed properly");
        }
    }

    /// Waits for its turn to write. Whoever holds the lease is the only one that changes anything, in memory too.
    pub(super) async fn writer(&self) -> Result<Lease> {
        self.writer.lease().await.told("write vectors", &"")
    }

    pub(super) async fn numbers(&self) -> Result<Vec<i64>> {
        sqlx::query_scalar("SELECT collection FROM collections")
            .fetch_all(&self.readers)
            .await
            .told("list collections", &"")
    }

    pub(super) async fn find(&self, name: &str) -> Result<Option<Identity>> {
        find(&self.readers, name).await.told("find collection", &name)
    }

    /// The keys of a collection's records, ascending, and the largest key that was ever given.
    pub(super) async fn keys(&self, of: Identity) -> Result<(Vec<i64>, i64)> {
        let read = async {
            let mut read = self.readers.acquire().await?;
            let mut read = read.begin().await?;
            let keys = sqlx::query_scalar("SELECT key FROM records WHERE collection = ?").bind(of.number);
            let mut keys: Vec<i64> = keys.fetch_all(&mut *read).await?;
            let next = sqlx::query_scalar("SELECT next FROM collections WHERE collection = ?").bind(of.number);
            let next: Option<i64> = next.fetch_optional(&mut *read).await?;
            keys.sort_unstable();
            Ok((keys, first_key(of.number) + next.unwrap_or(1) - 1))
        };
        read.await.map_err(|error: sqlx::Error| Failure::from(error).told("load collection", &of.number))
    }

    /// Hands over the records of a collection after `key`, in the order of their keys.
    pub(super) async fn after(&self, of: Identity, key: i64, mut take: impl FnMut(Stored)) -> Result<()> {
        let rows = sqlx::query("SELECT key, id, payload, vector FROM records WHERE key > ? AND key < ? ORDER BY key")
            .bind(key.max(first_key(of.number)))
            .bind(first_key(of.number + 1));
        let mut rows = rows.fetch(&self.readers);
        let mut next = async || -> Result<Option<Stored>, Failure> {
            rows.try_next().await?.map(|row| stored(&row, of)).transpose()
        };
        while let Some(record) = next().await.map_err(|failure| failure.told("load collection", &of.number))? {
            take(record);
        }
        Ok(())
    }

    pub(super) async fn scan(&self, of: Identity, after: Option<&str>, limit: usize) -> Result<Page<VectorRecord>> {
        let more = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        // No id is empty, so every id is greater than that.
        let rows =
            sqlx::query("SELECT id, payload, vector FROM records WHERE collection = ? AND id > ? ORDER BY id LIMIT ?")
                .bind(of.number)
                .bind(after.unwrap_or_default().to_owned())
                .bind(more)
                .fetch_all(&self.readers)
                .await
                .told("scan vectors", &of.number)?;
        let records = rows.iter().take(limit).map(|row| record(row, of)).collect::<Result<_, Failure>>();
        let items = records.map_err(|failure| failure.told("scan vectors", &of.number))?;
        Ok(Page { items, more: rows.len() > limit })
    }

    pub(super) async fn count(&self, of: Identity) -> Result<u64> {
        let count = sqlx::query_scalar("SELECT count(*) FROM records WHERE collection = ?").bind(of.number);
        let count: i64 = count.fetch_one(&self.readers).await.told("count vectors", &of.number)?;
        Ok(count.unsigned_abs())
    }
}

/// The key below every key of a collection.
pub(super) fn first_key(number: i64) -> i64 {
    number << SEQUENCE_BITS
}

/// Makes a collection unless there is one of that name, and says what is there then.
pub(super) async fn create(lease: &mut Lease, name: &str, dimension: usize) -> Result<Option<Identity>, Failure> {
    lease.begin().await?;
    let made = created(lease, name, dimension).await;
    ended(lease, made).await
}

async fn created(lease: &mut Lease, name: &str, dimension: usize) -> Result<Option<Identity>, Failure> {
    let write = lease.connection()?;
    sqlx::query("INSERT INTO collections (name, dimension, stamp) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
        .bind(name.to_owned())
        .bind(i64::try_from(dimension).unwrap_or(i64::MAX))
        .bind(fastrand::i64(..))
        .execute(&mut *write)
        .await?;
    Ok(find(write, name).await?)
}

/// Removes a collection with its records, and says its number.
pub(super) async fn drop(lease: &mut Lease, name: &str) -> Result<Option<i64>, Failure> {
    lease.begin().await?;
    let dropped =
        sqlx::query_scalar("DELETE FROM collections WHERE name = ? RETURNING collection").bind(name.to_owned());
    let dropped = dropped.fetch_optional(lease.connection()?).await.map_err(Failure::from);
    ended(lease, dropped).await
}

/// Commits what went well and undoes what did not, so that the next one finds no transaction.
async fn ended<T>(lease: &mut Lease, outcome: Result<T, Failure>) -> Result<T, Failure> {
    let outcome = match outcome {
        Ok(done) => lease.commit().await.map(|()| done).map_err(Failure::of_commit),
        failed => failed,
    };
    if outcome.is_err() {
        lease.roll_back().await;
    }
    outcome
}

/// What is written of a record.
pub(super) struct NewRow {
    pub(super) id: Arc<str>,
    pub(super) payload: Arc<str>,
    pub(super) vector: Vec<u8>,
}

/// Writes records in one transaction; gives the keys that they replace and the key of the first, which the others follow.
pub(super) async fn upsert(lease: &mut Lease, of: Identity, rows: Vec<NewRow>) -> Result<(Vec<i64>, i64), Failure> {
    lease.begin().await?;
    let upserted = upserted(lease, of, rows).await;
    ended(lease, upserted).await
}

async fn upserted(lease: &mut Lease, of: Identity, rows: Vec<NewRow>) -> Result<(Vec<i64>, i64), Failure> {
    let write = lease.connection()?;
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let next = sqlx::query_scalar("UPDATE collections SET next = next + ? WHERE collection = ? RETURNING next");
    let next: Option<i64> = next.bind(count).bind(of.number).fetch_optional(&mut *write).await?;
    let next = next.ok_or(Failure::Gone)?;
    if next >= 1 << SEQUENCE_BITS {
        return Err(Failure::KeysSpent);
    }
    let first = first_key(of.number) + next - count;
    let replaced = delete_ids(write, of, rows.iter().map(|row| row.id.clone()).collect()).await?;
    let mut rows = (first..).zip(rows).peekable();
    while rows.peek().is_some() {
        let chunk: Vec<_> = rows.by_ref().take(ROWS).collect();
        if chunk.len() == ROWS {
            let insert = sqlx::query(AssertSqlSafe(INSERT_MANY.clone()));
            let insert = chunk.into_iter().fold(insert, |insert, (key, row)| {
                insert.bind(key).bind(of.number).bind(row.id).bind(row.payload).bind(row.vector)
            });
            insert.execute(&mut *write).await?;
        } else {
            for (key, row) in chunk {
                sqlx::query("INSERT INTO records (key, collection, id, payload, vector) VALUES (?, ?, ?, ?, ?)")
                    .bind(key)
                    .bind(of.number)
                    .bind(row.id)
                    .bind(row.payload)
                    .bind(row.vector)
                    .execute(&mut *write)
                    .await?;
            }
        }
    }
    Ok((replaced, first))
}

/// Removes records by id in one transaction and gives the keys that they had.
pub(super) async fn delete(lease: &mut Lease, of: Identity, ids: Vec<Arc<str>>) -> Result<Vec<i64>, Failure> {
    lease.begin().await?;
    let deleted = match lease.connection() {
        Ok(write) => delete_ids(write, of, ids).await,
        Err(error) => Err(error.into()),
    };
    ended(lease, deleted).await
}

async fn delete_ids(write: &mut SqliteConnection, of: Identity, ids: Vec<Arc<str>>) -> Result<Vec<i64>, Failure> {
    let (mut keys, mut ids) = (Vec::new(), ids.into_iter().peekable());
    while ids.peek().is_some() {
        let chunk: Vec<_> = ids.by_ref().take(ROWS).collect();
        if chunk.len() == ROWS {
            let delete = sqlx::query_scalar::<_, i64>(AssertSqlSafe(DELETE_MANY.clone())).bind(of.number);
            let delete = chunk.into_iter().fold(delete, |delete, id| delete.bind(id));
            keys.extend(delete.fetch_all(&mut *write).await?);
        } else {
            for id in chunk {
                let delete =
                    sqlx::query_scalar::<_, i64>("DELETE FROM records WHERE collection = ? AND id = ? RETURNING key");
                keys.extend(delete.bind(of.number).bind(id).fetch_optional(&mut *write).await?);
            }
        }
    }
    Ok(keys)
}

async fn find<'c>(on: impl sqlx::Executor<'c, Database = Sqlite>, name: &str) -> Result<Option<Identity>, sqlx::Error> {
    let row = sqlx::query("SELECT collection, stamp, dimension FROM collections WHERE name = ?").bind(name.to_owned());
    let Some(row) = row.fetch_optional(on).await? else { return Ok(None) };
    let dimension = usize::try_from(row.try_get::<i64, _>(2)?).unwrap_or_default();
    Ok(Some(Identity { number: row.try_get(0)?, stamp: row.try_get(1)?, dimension }))
}

async fn migrate(lease: &mut Lease) -> Result<(), Failure> {
    lease.begin().await?;
    let migrated = migrated(lease).await;
    ended(lease, migrated).await
}

async fn migrated(lease: &mut Lease) -> Result<(), Failure> {
    let write = lease.connection()?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *write).await?;
    match version {
        0 => {
            sqlx::raw_sql(include_str!("schema.sql")).execute(&mut *write).await?;
            sqlx::raw_sql("PRAGMA user_version = 1").execute(write).await?;
            Ok(())
        }
        VERSION => Ok(()),
        newer => Err(Failure::Newer(newer)),
    }
}

fn stored(row: &SqliteRow, of: Identity) -> Result<Stored, Failure> {
    let mut vector = floats(row.try_get(3)?, of)?;
    super::similarity::normalise(&mut vector);
    Ok(Stored {
        key: row.try_get(0)?,
        id: row.try_get::<&str, _>(1)?.into(),
        payload: row.try_get::<&str, _>(2)?.into(),
        vector,
    })
}

fn record(row: &SqliteRow, of: Identity) -> Result<VectorRecord, Failure> {
    let payload = serde_json::from_str(row.try_get(1)?).map_err(|error| Failure::Damaged(error.into()))?;
    Ok(VectorRecord { id: row.try_get(0)?, vector: floats(row.try_get(2)?, of)?, payload })
}

fn floats(bytes: &[u8], of: Identity) -> Result<Vec<f32>, Failure> {
    let (floats, rest) = bytes.as_chunks::<4>();
    if floats.len() != of.dimension || !rest.is_empty() {
        return Err(Failure::Damaged(
            format!("a vector of {} bytes in a collection of dimension {}", bytes.len(), of.dimension).into(),
        ));
    }
    Ok(floats.iter().map(|float| f32::from_le_bytes(*float)).collect())
}
