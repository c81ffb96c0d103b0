//! Schedules, as JSON beside what they are looked up by.

use sutazai_core::{
    clock::Timestamp,
    store::{KeptAnswer, Page, ScheduleRecord},
};

use super::{
    error::{Fault, Result},
    pool::Lease,
    row::{Columns, unreadable},
    text::{Text, escaped, limit},
    upkeep::remember,
};

pub(super) async fn put(lease: &mut Lease, record: &ScheduleRecord, expected: Option<u64>) -> Result<bool> {
    let json = serde_json::to_string(record).map_err(|error| Fault::Driver(sqlx::Error::Encode(error.into())))?;
    let mut text = Text::default();
    text.add(&*escaped(&record.schedule.name))?;
    text.add(record.next.map(Timestamp::as_millis))?;
    text.add(record.revision.cast_signed())?;
    text.add(json)?;
    let sql = match expected {
        None => {
            "INSERT INTO schedules (name, next, revision, record) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO NOTHING RETURNING 1"
        }
        Some(expected) => {
            text.add(expected.cast_signed())?;
            "UPDATE schedules SET next = $2, revision = $3, record = $4 WHERE name = $1 AND revision = $5 RETURNING 1"
        }
    };
    Ok(!lease.rows(sql, text.arguments).await?.is_empty())
}

/// The same with the answer to the request that asked for it: both, or neither.
pub(super) async fn put_both(
    lease: &mut Lease,
    record: &ScheduleRecord,
    expected: Option<u64>,
    KeptAnswer { key, answer, at }: &KeptAnswer,
) -> Result<bool> {
    lease.begin().await?;
    let both = async { Ok(put(lease, record, expected).await? && remember(lease, key, answer, *at).await?) }.await;
    match both {
        Ok(true) => {
            lease.commit().await?;
            Ok(true)
        }
        outcome => {
            lease.roll_back().await;
            outcome
        }
    }
}

pub(super) async fn get(lease: &mut Lease, name: &str) -> Result<Option<ScheduleRecord>> {
    let mut text = Text::default();
    text.add(&*escaped(name))?;
    Ok(records(lease, "SELECT record FROM schedules WHERE name = $1", text).await?.pop())
}

pub(super) async fn list(lease: &mut Lease, after: Option<&str>, most: usize) -> Result<Page<ScheduleRecord>> {
    let mut text = Text::default();
    text.add(limit(most.saturating_add(1)))?;
    let sql = match after {
        None => "SELECT record FROM schedules ORDER BY name LIMIT $1",
        Some(after) => {
            text.add(&*escaped(after))?;
            "SELECT record FROM schedules WHERE name > $2 ORDER BY name LIMIT $1"
        }
    };
    let mut items = records(lease, sql, text).await?;
    let more = most > 0 && items.len() > most;
    items.truncate(most);
    Ok(Page { items, more })
}

pub(super) async fn due(lease: &mut Lease, now: Timestamp, most: usize) -> Result<Vec<ScheduleRecord>> {
    let mut text = Text::default();
    text.add(now.as_millis())?;
    text.add(limit(most))?;
    let sql = "SELECT record FROM schedules WHERE next IS NOT NULL AND next <= $1 ORDER BY next, name LIMIT $2";
    records(lease, sql, text).await
}

pub(super) async fn drop(lease: &mut Lease, name: &str) -> Result<bool> {
    let mut text = Text::default();
    text.add(&*escaped(name))?;
    Ok(!lease.rows("DELETE FROM schedules WHERE name = $1 RETURNING 1", text.arguments).await?.is_empty())
}

async fn records(lease: &mut Lease, sql: &'static str, text: Text) -> Result<Vec<ScheduleRecord>> {
    let record = |row: &sqlx::postgres::PgRow| {
        serde_json::from_str(Columns::of(row).get::<&str>()?).map_err(unreadable("a schedule"))
    };
    lease.rows(sql, text.arguments).await?.iter().map(record).collect()
}
