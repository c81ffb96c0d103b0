//! Schedules as their owners make, change, pause and trigger them.

use std::{sync::Arc, time::Duration};

use super::{
    inner::{Inner, key_conflict},
    submit::submit_keyed,
};
use crate::{
    clock::Timestamp,
    error::{Error, ErrorKind, Fault, Result},
    payload::Payload,
    schedule::{MOMENT_LABEL, Schedule, next_after},
    store::{KeptAnswer, Recalled, ScheduleRecord},
    task::{IdempotencyKey, TaskRequest},
};

/// The task of one moment.
pub(super) fn request(schedule: &Schedule, at: Timestamp) -> TaskRequest {
    schedule.request().label(MOMENT_LABEL, at.to_string())
}

/// The spaces keep it apart from every key that a request may carry.
pub(super) fn key(request: &TaskRequest, text: &str) -> IdempotencyKey {
    use sha2::{Digest, Sha256};
    IdempotencyKey { tenant: Arc::clone(&request.tenant), key: text.into(), fingerprint: Sha256::digest(text).into() }
}

/// What is kept under the key of a request that changes a schedule: its answer, made of the schedule as it then is.
pub(crate) struct Note<'a> {
    pub(crate) key: IdempotencyKey,
    pub(crate) answer: &'a (dyn Fn(&ScheduleRecord) -> Result<Payload> + Send + Sync),
}

impl Note<'_> {
    fn of(&self, record: &ScheduleRecord, at: Timestamp) -> Result<KeptAnswer> {
        Ok(KeptAnswer { key: self.key.clone(), answer: (self.answer)(record)?, at })
    }
}

/// Stores a schedule, and what is to be kept of the request in the same commit; false if somebody has changed the schedule meanwhile.
async fn store(
    engine: &Inner,
    record: &ScheduleRecord,
    expected: Option<u64>,
    note: Option<&Note<'_>>,
) -> Result<bool> {
    let answer = note.map(|note| note.of(record, engine.clock.now())).transpose()?;
    let stored = engine.store.put_schedule(record, expected, answer.as_ref()).await?;
    if !stored
        && let Some(note) = note
        && engine.store.recall(&note.key).await? != Recalled::New
    {
        return Err(key_conflict("change schedule"));
    }
    Ok(stored)
}

/// Stores a new schedule, or with `replace` another one over that of its name.
pub(crate) async fn put(
    engine: &Arc<Inner>,
    schedule: Schedule,
    replace: bool,
    note: Option<&Note<'_>>,
) -> Result<ScheduleRecord> {
    schedule.check()?;
    check_task(engine, &schedule).await?;
    let name = schedule.name.clone();
    let now = engine.clock.now();
    for _ in 0..16 {
        let known = engine.store.schedule(&name).await?;
        let expected = known.as_ref().map(|known| known.revision);
        if known.is_some() && !replace {
            return Err(Error::new(
                ErrorKind::Conflict,
                "there is a schedule of this name already; replace it (PUT, `schedules update`), or choose another name",
            )
            .with_code("schedule_exists")
            .during("create schedule")
            .about(name));
        }
        // Another timing begins anew, and the moment in which it is made may be its first; with the same one only the task is another.
        let timing = |schedule: &Schedule| (schedule.timing.clone(), schedule.time_zone.clone());
        let same = known.as_ref().filter(|known| timing(&known.schedule) == timing(&schedule));
        let paused = known.as_ref().is_some_and(|known| known.paused);
        let (created_at, last) = same.map_or((now, None), |known| (known.created_at, known.last));
        let next = match same {
            _ if paused => None,
            Some(known) => known.next,
            None => next_after(&schedule, now, now.minus(Duration::from_millis(1))),
        };
        let record = ScheduleRecord {
            schedule: schedule.clone(),
            created_at,
            paused,
            last,
            next,
            revision: expected.map_or(0, |r| r + 1),
        };
        if store(engine, &record, expected, note).await? {
            engine.rescheduled.notify_one();
            return Ok(record);
        }
    }
    Err(busy(&name))
}

/// Refuses a schedule whose task could not be submitted now.
async fn check_task(engine: &Arc<Inner>, schedule: &Schedule) -> Result<()> {
    let below = |error: Error| {
        let faults: Vec<Fault> = error.faults().iter().map(|fault| fault.clone().below("/task")).collect();
        Error::invalid("the schedule's task is wrong", faults).with_code(error.code())
    };
    let request = request(schedule, engine.clock.now());
    request.check().map_err(below)?;
    let registered = engine.catalogue.route(&request.target, &request.input, &engine.models).await.map_err(below)?;
    super::submit::check_input(registered, &request.input).map_err(below)
}

/// Pauses or resumes. What falls into a pause is not made up for.
pub(crate) async fn pause(
    engine: &Arc<Inner>,
    name: &str,
    paused: bool,
    note: Option<&Note<'_>>,
) -> Result<ScheduleRecord> {
    for _ in 0..16 {
        let Some(known) = engine.store.schedule(name).await? else { return Err(not_found(name)) };
        let expected = known.revision;
        let record = if known.paused != paused {
            let now = engine.clock.now();
            let next = if paused { None } else { next_after(&known.schedule, known.created_at, now) };
            ScheduleRecord { paused, last: known.last.max(Some(now)), next, revision: expected + 1, ..known }
        } else if note.is_some() {
            known // stored as it is, for the answer's sake
        } else {
            return Ok(known);
        };
        if store(engine, &record, Some(expected), note).await? {
            engine.rescheduled.notify_one();
            return Ok(record);
        }
    }
    Err(busy(name))
}

/// Fires now, once, whatever the schedule says.
pub(crate) async fn trigger(engine: &Arc<Inner>, name: &str, key: Option<IdempotencyKey>) -> Result<super::Submitted> {
    let Some(known) = engine.store.schedule(name).await? else { return Err(not_found(name)) };
    let request = request(&known.schedule, engine.clock.now());
    submit_keyed(engine, request, key).await
}

pub(crate) async fn get(engine: &Inner, name: &str) -> Result<ScheduleRecord> {
    engine.store.schedule(name).await?.ok_or_else(|| not_found(name))
}

pub(crate) async fn remove(engine: &Inner, name: &str) -> Result<()> {
    if engine.store.drop_schedule(name).await? { Ok(()) } else { Err(not_found(name)) }
}

fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, "there is no such schedule; `schedules list` shows all")
        .with_code("schedule_not_found")
        .about(name)
}

fn busy(name: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "the schedule keeps changing; try again").during("change schedule").about(name)
}
