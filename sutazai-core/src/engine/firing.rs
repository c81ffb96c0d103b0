//! Fires schedules: each moment once, whatever processes look at the same time.
//!
//! The task of a firing has a key made of the schedule's name and the moment, so a second firing for that moment, by another process or after a crash, finds the
//! first one's task. Only then is the schedule moved on, and only from the revision that was read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    inner::{Inner, SLOW_POLL, backoff},
    schedules::{key, request},
    submit::submit_keyed,
};
use crate::{
    clock::Timestamp,
    error::{Error, ErrorKind, Result},
    schedule::{CatchUp, MOMENT_LABEL, Overlap, SCHEDULE_LABEL, Schedule, firings},
    store::{ScheduleRecord, TaskQuery},
    task::Task,
};

/// Schedules looked at together.
const BATCH: usize = 100;

/// How soon is looked again at a firing that waits for an earlier task, or failed for now.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long one firing may take: routing by meaning asks a model.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of a schedule that was due.
enum Fired {
    /// It has moved on.
    On,
    /// More is due at once, or somebody else has changed it.
    More,
    /// It waits for an earlier task.
    Waits,
    /// No agent here can do its task: it is left, due as it is, to a process that has one.
    Elsewhere,
}

/// What is remembered of the last look at what is due.
#[derive(Default)]
struct Looked {
    /// Schedules that were left to other processes.
    elsewhere: BTreeSet<String>,
    /// Up to when the firings of a schedule are made up for: by then nobody had been there for them.
    missed_until: BTreeMap<String, Timestamp>,
}

/// Fires what is due, whatever else the engine does, until aborted.
pub(crate) async fn keep_schedules(engine: Arc<Inner>) {
    let (mut failures, mut looked) = (0, Looked::default());
    loop {
        let pause = match fire_due(&engine, &mut looked).await {
            Ok(pause) => {
                failures = 0;
                pause
            }
            Err(error) => {
                tracing::warn!(error = %error.report(), "due schedules cannot be read");
                failures += 1;
                backoff(failures)
            }
        };
        tokio::select! {
            biased;
            () = engine.rescheduled.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Fires every schedule that is due, each on its own; how long until the next look.
async fn fire_due(engine: &Arc<Inner>, looked: &mut Looked) -> Result<Duration> {
    let now = engine.clock.now();
    let mut pause = SLOW_POLL;
    // Those that stay due come again, before the others.
    let (mut left, mut seen) = (BTreeSet::new(), Looked::default());
    loop {
        let limit = left.len() + BATCH;
        let due = engine.store.due_schedules(now, limit).await?;
        let full = due.len() == limit;
        for record in due.into_iter().filter(|record| !left.contains(&record.schedule.name)).collect::<Vec<_>>() {
            let name = record.schedule.name.clone();
            let mut missed_until = looked.missed_until.get(&name).copied();
            let fired = fire(engine, record, now, &mut missed_until).await;
            seen.missed_until.extend(missed_until.map(|until| (name.clone(), until)));
            let stays = match fired {
                Ok(Fired::On) => continue,
                Ok(Fired::More) => Duration::ZERO,
                Ok(Fired::Waits) => LOOK_AGAIN,
                Ok(Fired::Elsewhere) => {
                    if !looked.elsewhere.contains(&name) {
                        tracing::info!(schedule = name, "left to another process: no agent here can do its task");
                    }
                    seen.elsewhere.insert(name.clone());
                    SLOW_POLL
                }
                Err(error) => {
                    tracing::warn!(schedule = name, error = %error.report(), "a schedule cannot fire yet");
                    LOOK_AGAIN
                }
            };
            pause = pause.min(stays);
            left.insert(name);
        }
        if !full {
            break;
        }
    }
    *looked = seen;
    let next = engine.store.due_schedules(Timestamp::NEVER, left.len() + 1).await?;
    let next = next.iter().filter_map(|record| record.next).filter(|next| *next > now).min();
    Ok(next.map_or(pause, |next| pause.min(engine.clock.now().until(next))))
}

/// Fires a schedule for every moment that is due. Those up to `missed_until` are made up for one after the other, whatever overlaps.
async fn fire(
    engine: &Arc<Inner>,
    record: ScheduleRecord,
    now: Timestamp,
    missed_until: &mut Option<Timestamp>,
) -> Result<Fired> {
    let name = record.schedule.name.clone();
    let found = firings(&record.schedule, record.created_at, record.last, now);
    let first = found.due.first().copied();
    *missed_until = missed_until.filter(|until| first.is_some_and(|first| first <= *until));
    if missed_until.is_none() && record.schedule.catch_up == CatchUp::All {
        // Of moments that somebody is there for, each is decided upon as it comes.
        let missed = found.due.len() > 1 || first.is_some_and(|first| first.until(now) >= LOOK_AGAIN);
        *missed_until = missed.then_some(now);
    }
    let (mut last, mut next) = (record.last, found.next);
    let mut stays = None;
    for at in found.due {
        let is_missed = missed_until.is_some_and(|until| at <= until);
        let overlap = if is_missed { Overlap::Queue } else { record.schedule.overlap };
        let fired = tokio::time::timeout(PATIENCE, fire_at(engine, &record.schedule, at, overlap)).await;
        match fired.unwrap_or_else(|_| Err(too_late())) {
            Ok(true) => {}
            Ok(false) => stays = Some(Ok(Fired::Waits)),
            Err(error) if error.is_temporary() => stays = Some(Err(error)),
            Err(error) if matches!(error.code(), "agent_not_found" | "capability_not_found" | "agent_required") => {
                stays = Some(Ok(Fired::Elsewhere));
            }
            // Its input may no longer fit: the next firing says so again.
            Err(error) => tracing::error!(schedule = name, %at, error = %error.report(), "a schedule could not fire"),
        }
        if stays.is_some() {
            next = Some(at);
            break;
        }
        last = Some(at);
    }
    if let Some(stays) = stays {
        // What was fired before it counts all the same.
        if last != record.last || next != record.next {
            moved(engine, record, last, next).await?;
        }
        return stays;
    }
    // What was missed and is not made up for counts as past.
    let last = last.max(next.and(record.next.filter(|next| *next <= now)));
    let more = next.is_some_and(|next| next <= now);
    Ok(if moved(engine, record, last, next).await? && !more { Fired::On } else { Fired::More })
}

/// Moves a schedule on; false if somebody changed or removed it, or another process moved it on.
async fn moved(
    engine: &Inner,
    record: ScheduleRecord,
    last: Option<Timestamp>,
    next: Option<Timestamp>,
) -> Result<bool> {
    let expected = record.revision;
    let moved = ScheduleRecord { last, next, revision: expected + 1, ..record };
    engine.store.put_schedule(&moved, Some(expected), None).await
}

fn too_late() -> Error {
    Error::new(ErrorKind::Timeout, "the firing took too long").during("fire a schedule")
}

/// Submits the task of one moment; false if it has to wait for an earlier one.
async fn fire_at(engine: &Arc<Inner>, schedule: &Schedule, at: Timestamp, overlap: Overlap) -> Result<bool> {
    let mut query = TaskQuery {
        label: Some((SCHEDULE_LABEL.to_owned(), schedule.name.clone())),
        live: true,
        limit: 200,
        ..TaskQuery::default()
    };
    match overlap {
        how @ (Overlap::Queue | Overlap::Skip) => {
            let running = engine.store.list(&TaskQuery { limit: 2, ..query }).await?;
            if running.items.iter().any(|task| !is_of(task, at)) {
                if how == Overlap::Queue {
                    return Ok(false);
                }
                tracing::info!(schedule = schedule.name, %at, "skipped: its last task has not ended");
                return Ok(true);
            }
        }
        Overlap::Cancel => loop {
            let page = engine.store.list(&query).await?;
            for task in page.items.iter().filter(|task| !is_of(task, at)) {
                match engine.cancel(task.id, None).await {
                    Err(error) if error.code() != "task_finished" => return Err(error),
                    _ => {}
                }
            }
            query.before = page.items.last().map(|task| task.id);
            if !page.more {
                break;
            }
        },
    }
    let request = request(schedule, at);
    let key = key(&request, &format!("schedule {} {}", schedule.name, at.as_millis()));
    submit_keyed(engine, request, Some(key)).await.map(|_| true)
}

fn is_of(task: &Task, at: Timestamp) -> bool {
    task.labels.get(MOMENT_LABEL).is_some_and(|label| *label == at.to_string())
}
