//! Keys of requests, what retention asks for, and what the store forgets by itself.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use sutazai_core::{
    Error, Payload,
    clock::{Clock, SystemClock, Timestamp},
    store::{Ended, KEY_LIFE, POST_LIFE, Recalled},
    task::{IdempotencyKey, TaskId, TaskState},
};
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    error::{Fault, Result},
    follow::{EXPIRED, key_end},
    pool::{Lease, Pool, Purpose, safe},
    row::{Columns, payload, unreadable},
    text::{Text, escaped, limit, uuid, uuids},
};

/// Keys looked at in one transaction.
const FORGET: i64 = 500;

/// When old keys are first looked for: a process that lives but briefly does so as well.
const FORGET_FIRST: Duration = Duration::from_secs(60);

/// How often old keys are looked for then.
const FORGET_EVERY: Duration = Duration::from_secs(15 * 60);

pub(super) async fn recall(lease: &mut Lease, key: &IdempotencyKey) -> Result<Recalled> {
    let mut text = Text::default();
    text.add(&*escaped(&key.tenant))?;
    text.add(&*escaped(&key.key))?;
    let sql = format!(
        "SELECT k.fingerprint, k.answer FROM idempotency_keys AS k WHERE k.tenant = $1 AND k.key = $2 AND NOT {EXPIRED}"
    );
    let rows = lease.rows(safe(sql), text.arguments).await?;
    let Some(row) = rows.first() else { return Ok(Recalled::New) };
    let mut row = Columns::of(row);
    let same = row.get::<&[u8]>()? == key.fingerprint;
    match row.get::<Option<String>>()? {
        Some(answer) if same => Ok(Recalled::Answered(payload(answer)?)),
        _ => Ok(Recalled::Conflict),
    }
}

/// Keeps an answer; false if its key was used.
pub(super) async fn remember(
    lease: &mut Lease,
    key: &IdempotencyKey,
    answer: &Payload,
    now: Timestamp,
) -> Result<bool> {
    let mut text = Text::default();
    text.add(&*escaped(&key.tenant))?;
    text.add(&*escaped(&key.key))?;
    text.add(&key.fingerprint[..])?;
    text.add(answer.as_str())?;
    text.add(key_end(now))?;
    let sql = format!(
        "INSERT INTO idempotency_keys AS k (tenant, key, fingerprint, answer, expires_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, key) \
         DO UPDATE SET fingerprint = excluded.fingerprint, answer = excluded.answer, expires_at = excluded.expires_at WHERE {EXPIRED} RETURNING 1"
    );
    Ok(!lease.rows(safe(sql), text.arguments).await?.is_empty())
}

pub(super) async fn ended(
    lease: &mut Lease,
    after: Option<TaskId>,
    created_before: Timestamp,
    most: usize,
) -> Result<Vec<Ended>> {
    let mut text = Text::default();
    text.add(after.map_or(Uuid::nil(), uuid))?;
    text.add(created_before.as_millis())?;
    text.add(limit(most))?;
    text.add(uuid(TaskId::first_at(created_before)))?;
    let sql = "SELECT id, state, finished_at FROM tasks \
               WHERE id > $1 AND id < $4 AND created_at < $2 AND state IN ('completed', 'failed', 'cancelled') ORDER BY id LIMIT $3";
    let ended = |row: &sqlx::postgres::PgRow| {
        let mut row = Columns::of(row);
        let id = row.id()?;
        let state = row.get::<&str>()?.parse().map_err(unreadable("a state"))?;
        Ok(Ended { id, state, finished_at: row.time()? })
    };
    lease.rows(sql, text.arguments).await?.iter().map(ended).collect()
}

pub(super) async fn nth_newest(lease: &mut Lease, state: TaskState, n: u64) -> Result<Option<TaskId>> {
    let mut text = Text::default();
    text.add(i64::try_from(n).unwrap_or(i64::MAX))?;
    let narrow = if matches!(state, TaskState::Assigned | TaskState::Running) { " AND node IS NOT NULL" } else { "" };
    let sql = format!("SELECT id FROM tasks WHERE state = '{state}'{narrow} ORDER BY id DESC LIMIT 1 OFFSET $1");
    let rows = lease.rows(safe(sql), text.arguments).await?;
    rows.first().map(|row| Columns::of(row).id()).transpose()
}

pub(super) async fn purge(lease: &mut Lease, tasks: &[TaskId], now: Timestamp) -> Result<u64> {
    let mut ids = tasks.to_vec();
    ids.sort_unstable();
    let mut text = Text::default();
    text.add(uuids(&ids))?;
    for moment in [now.minus(KEY_LIFE), now, now.minus(POST_LIFE)] {
        text.add(moment.as_millis())?;
    }
    let sql = "WITH gone AS MATERIALIZED (SELECT id, labels FROM tasks AS t WHERE id = ANY($1) AND state IN ('completed', 'failed', 'cancelled') \
         AND NOT EXISTS (SELECT 1 FROM idempotency_keys AS k WHERE k.task_id = t.id AND (t.finished_at > $2 OR k.expires_at > $3)) \
         AND (t.finished_at > $4 AND (SELECT true FROM deliveries AS d WHERE d.task_id = t.id AND d.due_at IS NOT NULL)) IS NOT TRUE \
         ORDER BY id FOR UPDATE SKIP LOCKED), \
         t AS (DELETE FROM tasks USING gone WHERE tasks.id = gone.id RETURNING 1), \
         e AS (DELETE FROM task_events AS o USING gone WHERE o.task_id = gone.id), \
         j AS (DELETE FROM journal_entries AS o USING gone WHERE o.task_id = gone.id), \
         s AS (DELETE FROM signals AS o USING gone WHERE o.task_id = gone.id), \
         d AS (DELETE FROM deliveries AS o USING gone WHERE o.task_id = gone.id), \
         k AS (DELETE FROM idempotency_keys AS o USING gone WHERE o.task_id = gone.id AND o.task_id IS NOT NULL), \
         l AS (DELETE FROM task_labels AS o USING (SELECT id, key, value FROM gone CROSS JOIN LATERAL json_each_text(gone.labels::json) AS each(key, value) \
         WHERE gone.labels IS NOT NULL) AS of WHERE o.key = of.key AND o.value = of.value AND o.task_id = of.id) \
         SELECT count(*) FROM t";
    let rows = lease.rows(sql, text.arguments).await?;
    rows.first().map_or(Ok(0), |row| Columns::of(row).count())
}

/// Forgets the keys of tasks that ended a day before `now`, and answers whose day has passed, and says how many there were.
pub(super) async fn forget_keys(lease: &mut Lease, now: Timestamp) -> Result<u64> {
    let until = now.minus(KEY_LIFE).as_millis();
    let mut after = Uuid::nil();
    let mut forgotten = 0;
    loop {
        let mut text = Text::default();
        text.add(after)?;
        text.add(uuid(TaskId::first_at(Timestamp::from_millis(until))))?;
        text.add(FORGET)?;
        text.add(until)?;
        text.add(now.as_millis())?;
        let sql = "WITH old AS MATERIALIZED (SELECT k.tenant, k.key, k.task_id, k.expires_at FROM idempotency_keys AS k \
             WHERE k.task_id IS NOT NULL AND k.task_id > $1 AND k.task_id < $2 ORDER BY k.task_id LIMIT $3 FOR UPDATE SKIP LOCKED), \
             gone AS (DELETE FROM idempotency_keys AS k USING old JOIN tasks AS t ON t.id = old.task_id \
             WHERE k.tenant = old.tenant AND k.key = old.key AND t.finished_at <= $4 AND coalesce(old.expires_at, 0) <= $5 RETURNING 1) \
             SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM old), (SELECT task_id FROM old ORDER BY task_id DESC LIMIT 1)";
        let rows = lease.rows(sql, text.arguments).await?;
        let Some(row) = rows.first() else { break };
        let mut row = Columns::of(row);
        forgotten += row.count()?;
        let (looked_at, last) = (row.get::<i64>()?, row.get::<Option<Uuid>>()?);
        match last {
            Some(last) if looked_at == FORGET => after = last,
            _ => break,
        }
    }
    loop {
        let mut text = Text::default();
        text.add(now.as_millis())?;
        text.add(FORGET)?;
        let sql = "WITH old AS MATERIALIZED (SELECT tenant, key FROM idempotency_keys WHERE task_id IS NULL AND expires_at <= $1 \
             ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED) \
             DELETE FROM idempotency_keys AS k USING old WHERE k.tenant = old.tenant AND k.key = old.key RETURNING 1";
        let gone = lease.rows(sql, text.arguments).await?.len();
        forgotten += gone as u64;
        if limit(gone) < FORGET {
            return Ok(forgotten);
        }
    }
}

/// Forgets old keys now and then, as long as the store is there.
pub(super) async fn keep(pool: Weak<Pool>) {
    let mut rest = FORGET_FIRST;
    loop {
        sleep(rest).await;
        rest = FORGET_EVERY;
        let Some(pool): Option<Arc<Pool>> = pool.upgrade() else { return };
        let forget = async { forget_keys(&mut pool.lease(Purpose::Search).await?, SystemClock.now()).await };
        match forget.await {
            Ok(_) => {}
            Err(Fault::Closed) => return,
            Err(fault) => {
                tracing::warn!(error = %Error::from(fault).report(), "old idempotency keys could not be forgotten");
            }
        }
    }
}
