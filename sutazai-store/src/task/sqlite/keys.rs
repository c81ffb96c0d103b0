//! Idempotency keys: answers to requests that belong to no task, and what has had its day.

use sqlx::{Arguments, Row, sqlite::SqliteArguments};
use sutazai_core::{
    Payload,
    clock::{Clock, SystemClock, Timestamp},
    store::{KEY_LIFE, Recalled},
    task::{IdempotencyKey, TaskId},
};

use super::{
    error::Result,
    read::Readers,
    row::{Columns, payload},
    write::{alone, arguments, rows},
};
use crate::sqlite::writer::{Lease, Writer};

/// Forgets the answers that have had their day. Few come in a moment, so this takes as little.
pub(super) const FORGET_ANSWERS: &str = "DELETE FROM idempotency_keys WHERE rowid IN (SELECT rowid FROM idempotency_keys \
    INDEXED BY idempotency_keys_answer WHERE answer IS NOT NULL AND expires_at <= ? LIMIT 500) RETURNING 1";

/// Keys looked at in one transaction, so that writers wait little.
const FORGET: i64 = 500;

impl Readers {
    pub(super) async fn recall(&self, key: &IdempotencyKey) -> Result<Recalled> {
        let arguments = arguments(|arguments| {
            arguments.add(&*key.tenant)?;
            arguments.add(&*key.key)?;
            arguments.add(SystemClock.now().as_millis())
        })?;
        let sql = "SELECT fingerprint, answer FROM idempotency_keys WHERE tenant = ? AND key = ? AND (answer IS NULL OR expires_at > ?)";
        let rows = self.rows(sql, arguments).await?;
        let Some(row) = rows.first() else { return Ok(Recalled::New) };
        let mut row = Columns::of(row);
        let same = row.get::<&[u8]>()? == key.fingerprint;
        Ok(match row.get::<Option<String>>()? {
            Some(answer) if same => Recalled::Answered(payload(answer)?),
            _ => Recalled::Conflict,
        })
    }
}

pub(super) async fn remember(writer: &Writer, key: &IdempotencyKey, answer: &Payload, now: Timestamp) -> Result<()> {
    let (sql, arguments) = remembering(key, answer, now)?;
    alone(writer, sql, arguments).await.map(drop)
}

/// The statement that keeps an answer unless its key was used; it gives a row if it does.
pub(super) fn remembering(
    key: &IdempotencyKey,
    answer: &Payload,
    now: Timestamp,
) -> Result<(&'static str, SqliteArguments)> {
    let arguments = arguments(|arguments| {
        arguments.add(&*key.tenant)?;
        arguments.add(&*key.key)?;
        arguments.add(&key.fingerprint[..])?;
        arguments.add(now.plus(KEY_LIFE).as_millis())?;
        arguments.add(answer.as_str())?;
        arguments.add(SystemClock.now().as_millis())
    })?;
    let sql = "INSERT INTO idempotency_keys (tenant, key, fingerprint, task_id, expires_at, answer) \
               VALUES (?, ?, ?, x'', ?, ?) ON CONFLICT DO UPDATE \
               SET fingerprint = excluded.fingerprint, expires_at = excluded.expires_at, answer = excluded.answer \
               WHERE answer IS NOT NULL AND expires_at <= ? RETURNING 1";
    Ok((sql, arguments))
}

/// Forgets the keys of tasks that ended a day before `now` and answers that have been kept for a day, and says how many there were.
pub(super) async fn forget(writer: &Writer, now: Timestamp) -> Result<u64> {
    let mut forgotten = 0;
    loop {
        let arguments = arguments(|arguments| arguments.add(now.as_millis()))?;
        let some = alone(writer, FORGET_ANSWERS, arguments).await?.len() as u64;
        forgotten += some;
        if some == 0 {
            break;
        }
    }
    let oldest_kept = TaskId::first_at(now.minus(KEY_LIFE));
    let mut after = Vec::new();
    loop {
        let mut lease = writer.lease().await?;
        match forget_some(&mut lease, &after, oldest_kept.as_bytes(), now).await {
            Ok((deleted, last)) => {
                forgotten += deleted;
                match last {
                    Some(last) => after = last,
                    None => return Ok(forgotten),
                }
            }
            Err(fault) => {
                lease.roll_back().await;
                return Err(fault);
            }
        }
    }
}

/// Looks at some keys of tasks after `after` and before `end`: how many it forgot, and the last task it came to unless that was all.
async fn forget_some(lease: &mut Lease, after: &[u8], end: &[u8], now: Timestamp) -> Result<(u64, Option<Vec<u8>>)> {
    lease.begin().await?;
    let range = arguments(|arguments| {
        arguments.add(after)?;
        arguments.add(end)?;
        arguments.add(FORGET - 1)
    })?;
    let last =
        "SELECT task_id FROM idempotency_keys WHERE task_id > ? AND task_id < ? ORDER BY task_id LIMIT 1 OFFSET ?";
    let last = rows(lease, last, range).await?;
    let last: Option<Vec<u8>> = last.first().map(|row| row.try_get_unchecked(0)).transpose()?;
    let ended = arguments(|arguments| {
        arguments.add(after)?;
        arguments.add(end)?;
        arguments.add(last.as_deref())?;
        arguments.add(now.minus(KEY_LIFE).as_millis())?;
        arguments.add(now.as_millis())
    })?;
    let deleted = rows(
        lease,
        "DELETE FROM idempotency_keys WHERE task_id > ?1 AND task_id < ?2 AND (?3 IS NULL OR task_id <= ?3) \
         AND (expires_at IS NULL OR expires_at <= ?5) \
         AND EXISTS (SELECT 1 FROM tasks AS t WHERE t.id = task_id AND t.finished_at <= ?4) RETURNING 1",
        ended,
    );
    let deleted = deleted.await?.len() as u64;
    lease.commit().await?;
    Ok((deleted, last))
}
