//! Fires schedules: each moment once, whatever processes look at the same time.
//!
//! The task of a firing has a key made of the schedule's name and the moment, so a second firing for that moment, by another process or after a crash, finds the
//! first one's task. Only then is the schedule moved on, and only from the revision that was read.

use std::{sync::Arc, time::Duration};

use super::{inner::Inner, submit::submit_keyed};
use crate::{
    clock::Timestamp,
    error::{Error, ErrorKind, Fault, Result},
    schedule::{Overlap, SCHEDULE_LABEL, Schedule, firings, next_after},
    store::{ScheduleRecord, TaskQuery},
    task::{IdempotencyKey, Task, TaskRequest},
};

/// Schedules looked at together.
const BATCH: usize = 100;

/// How soon a firing that waits for an earlier task looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Fires what is due; when to look again, if a firing has to wait.
pub(crate) async fn fire_due(engine: &Arc<Inner>, now: Timestamp) -> Result<Option<Timestamp>> {
    loop {
        let due = engine.store.due_schedules(now, BATCH).await?;
        let (full, mut waits) = (due.len() == BATCH, false);
        for record in due {
            waits |= !fire(engine, record, now).await?;
        }
        if waits {
            return Ok(Some(now.plus(LOOK_AGAIN)));
        }
        if !full {
            return Ok(None);
        }
    }
}

/// Fires a schedule for every moment that is due; false if one has to wait.
async fn fire(engine: &Arc<Inner>, record: ScheduleRecord, now: Timestamp) -> Result<bool> {
    let name = record.schedule.name.clone();
    let found = firings(&record.schedule, record.created_at, record.last, now);
    let (mut last, mut next) = (record.last, found.next);
    let mut waits = false;
    for at in found.due {
        match fire_at(engine, &record.schedule, at).await {
            Ok(true) => {}
            Ok(false) => {
                (next, waits) = (Some(at), true);
                break;
            }
            Err(error) if error.is_temporary() => return Err(error),
            // Another process has it: that one fires.
            Err(error) if error.code() == "agent_not_found" => {
                tracing::debug!(schedule = name, %at, "left to another process, for its agent is not registered here");
                return Ok(false);
            }
            // Its input may no longer fit: the next firing says so again.
            Err(error) => tracing::error!(schedule = name, %at, error = %error.report(), "a schedule could not fire"),
        }
        last = Some(at);
    }
    if waits && last == record.last && next == record.next {
        return Ok(false);
    }
    // What was missed and is not made up for counts as past.
    if !waits {
        last = last.max(next.and(record.next.filter(|next| *next <= now)));
    }
    let expected = record.revision;
    let moved = ScheduleRecord { last, next, revision: expected + 1, ..record };
    // Refused: somebody changed or removed it, or another process moved it on.
    let _ = engine.store.put_schedule(&moved, Some(expected)).await?;
    Ok(!waits)
}

/// Submits the task of one moment; false if it has to wait for an earlier one.
async fn fire_at(engine: &Arc<Inner>, schedule: &Schedule, at: Timestamp) -> Result<bool> {
    let query = || TaskQuery {
        label: Some((SCHEDULE_LABEL.to_owned(), schedule.name.clone())),
        live: true,
        limit: 200,
        ..TaskQuery::default()
    };
    match schedule.overlap {
        how @ (Overlap::Queue | Overlap::Skip) => {
            let running = engine.store.list(&TaskQuery { limit: 2, ..query() }).await?;
            if running.items.iter().any(|task| !is_of(task, at)) {
                if how == Overlap::Queue {
                    return Ok(false);
                }
                tracing::info!(schedule = schedule.name, %at, "skipped: its last task has not ended");
                return Ok(true);
            }
        }
        Overlap::Cancel => {
            for task in engine.store.list(&query()).await?.items.iter().filter(|task| !is_of(task, at)) {
                match engine.cancel(task.id, None).await {
                    Err(error) if error.code() != "task_finished" => return Err(error),
                    _ => {}
                }
            }
        }
    }
    let request = request(schedule, at);
    let key = key(&request, &format!("schedule {} {}", schedule.name, at.as_millis()));
    submit_keyed(engine, request, Some(key)).await.map(|_| true)
}

/// The moment a task was fired for, in a label of its own.
const MOMENT_LABEL: &str = "schedule_at";

fn is_of(task: &Task, at: Timestamp) -> bool {
    task.labels.get(MOMENT_LABEL).is_some_and(|label| *label == at.to_string())
}

fn request(schedule: &Schedule, at: Timestamp) -> TaskRequest {
    schedule.request().label(MOMENT_LABEL, at.to_string())
}

/// The spaces keep it apart from every key that a request may carry.
fn key(request: &TaskRequest, text: &str) -> IdempotencyKey {
    use sha2::{Digest, Sha256};
    IdempotencyKey { tenant: Arc::clone(&request.tenant), key: text.into(), fingerprint: Sha256::digest(text).into() }
}

/// Stores a new schedule, or with `replace` another one over that of its name.
pub(crate) async fn put(engine: &Arc<Inner>, schedule: Schedule, replace: bool) -> Result<ScheduleRecord> {
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
                "there is a schedule of this name already; change it with PUT",
            )
            .with_code("schedule_exists")
            .during("create schedule")
            .about(name));
        }
        // Intervals count from here: another timing begins anew.
        let same = known.as_ref().filter(|known| known.schedule.timing == schedule.timing);
        let created_at = same.map_or(now, |known| known.created_at);
        let paused = known.as_ref().is_some_and(|known| known.paused);
        let last = known.as_ref().and_then(|known| known.last).max(known.as_ref().map(|_| now));
        let next = if paused { None } else { next_after(&schedule, created_at, now) };
        let record = ScheduleRecord {
            schedule: schedule.clone(),
            created_at,
            paused,
            last,
            next,
            revision: expected.map_or(0, |r| r + 1),
        };
        if engine.store.put_schedule(&record, expected).await? {
            next.iter().for_each(|at| engine.due(*at));
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
pub(crate) async fn pause(engine: &Arc<Inner>, name: &str, paused: bool) -> Result<ScheduleRecord> {
    for _ in 0..16 {
        let Some(known) = engine.store.schedule(name).await? else { return Err(not_found(name)) };
        if known.paused == paused {
            return Ok(known);
        }
        let now = engine.clock.now();
        let next = if paused { None } else { next_after(&known.schedule, known.created_at, now) };
        let expected = known.revision;
        let record = ScheduleRecord { paused, last: known.last.max(Some(now)), next, revision: expected + 1, ..known };
        if engine.store.put_schedule(&record, Some(expected)).await? {
            next.iter().for_each(|at| engine.due(*at));
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
