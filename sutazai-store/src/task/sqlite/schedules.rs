//! Schedules: records as JSON, with what is looked for beside.

use sqlx::{
    Arguments,
    sqlite::{SqliteArguments, SqliteRow},
};
use sutazai_core::{
    clock::Timestamp,
    store::{KeptAnswer, Page, ScheduleRecord},
};

use super::{
    error::{Fault, Result},
    keys,
    read::{Readers, page},
    row::{Columns, unreadable},
    write::{alone, arguments, limit, rows},
};
use crate::sqlite::writer::{Lease, Writer};

pub(super) async fn put(writer: &Writer, record: &ScheduleRecord, expected: Option<u64>) -> Result<bool> {
    let (sql, arguments) = putting(record, expected)?;
    Ok(!alone(writer, sql, arguments).await?.is_empty())
}

/// The same with the answer to the request that asked for it: both, or neither.
pub(super) async fn put_both(
    writer: &Writer,
    record: &ScheduleRecord,
    expected: Option<u64>,
    answer: &KeptAnswer,
) -> Result<bool> {
    let mut lease = writer.lease().await?;
    let stored = put_and_remember(&mut lease, record, expected, answer).await;
    if !matches!(stored, Ok(true)) {
        lease.roll_back().await;
    }
    stored
}

async fn put_and_remember(
    lease: &mut Lease,
    record: &ScheduleRecord,
    expected: Option<u64>,
    answer: &KeptAnswer,
) -> Result<bool> {
    lease.begin().await?;
    for (sql, arguments) in [putting(record, expected)?, keys::remembering(&answer.key, &answer.answer, answer.at)?] {
        if rows(lease, sql, arguments).await?.is_empty() {
            return Ok(false);
        }
    }
    lease.commit().await?;
    Ok(true)
}

/// The statement that stores a schedule; it gives a row if it does.
fn putting(record: &ScheduleRecord, expected: Option<u64>) -> Result<(&'static str, SqliteArguments)> {
    let text = serde_json::to_string(record).map_err(|error| Fault::Driver(sqlx::Error::Encode(error.into())))?;
    let arguments = arguments(|arguments| {
        arguments.add(record.schedule.name.as_str())?;
        arguments.add(record.revision.cast_signed())?;
        arguments.add(record.next.map(Timestamp::as_millis))?;
        arguments.add(text)?;
        match expected {
            Some(expected) => arguments.add(expected.cast_signed()),
            None => Ok(()),
        }
    })?;
    let sql = match expected {
        None => {
            "INSERT INTO schedules (name, revision, next, record) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING RETURNING 1"
        }
        Some(_) => {
            "UPDATE schedules SET revision = ?2, next = ?3, record = ?4 WHERE name = ?1 AND revision = ?5 RETURNING 1"
        }
    };
    Ok((sql, arguments))
}

pub(super) async fn remove(writer: &Writer, name: &str) -> Result<bool> {
    let arguments = arguments(|arguments| arguments.add(name))?;
    Ok(!alone(writer, "DELETE FROM schedules WHERE name = ? RETURNING 1", arguments).await?.is_empty())
}

impl Readers {
    pub(super) async fn schedule(&self, name: &str) -> Result<Option<ScheduleRecord>> {
        let arguments = arguments(|arguments| arguments.add(name))?;
        let rows = self.rows("SELECT record FROM schedules WHERE name = ?", arguments).await?;
        rows.first().map(decode).transpose()
    }

    pub(super) async fn schedules(&self, after: Option<&str>, most: usize) -> Result<Page<ScheduleRecord>> {
        let arguments = arguments(|arguments| {
            arguments.add(after)?;
            arguments.add(limit(most.saturating_add(1)))
        })?;
        let sql = "SELECT record FROM schedules WHERE ?1 IS NULL OR name > ?1 ORDER BY name LIMIT ?2";
        let items = self.long_rows(sql, arguments).await?.iter().map(decode).collect::<Result<Vec<_>>>()?;
        Ok(page(items, most))
    }

    pub(super) async fn due_schedules(&self, now: Timestamp, most: usize) -> Result<Vec<ScheduleRecord>> {
        let arguments = arguments(|arguments| {
            arguments.add(now.as_millis())?;
            arguments.add(limit(most))
        })?;
        let sql = "SELECT record FROM schedules INDEXED BY schedules_next WHERE next IS NOT NULL AND next <= ? ORDER BY next LIMIT ?";
        self.rows(sql, arguments).await?.iter().map(decode).collect()
    }
}

fn decode(row: &SqliteRow) -> Result<ScheduleRecord> {
    serde_json::from_str(Columns::of(row).get()?).map_err(unreadable("a schedule"))
}
