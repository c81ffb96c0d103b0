//! Decides what becomes of each write of a batch, and leaves one row to write for each task that it touches.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use sutazai_core::{
    store::TaskWrite,
    task::{Event, IdempotencyKey, Revision, Task, TaskId},
};

/// What the store holds of what a batch names.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) revisions: HashMap<TaskId, Revision>,
    /// By tenant and key.
    pub(super) keys: HashMap<(String, String), FirstUse>,
}

pub(super) struct FirstUse {
    pub(super) fingerprint: Vec<u8>,
    pub(super) task: TaskId,
}

/// One task's share of a batch: its final image and every event on the way there.
pub(super) struct Write<'a> {
    pub(super) task: &'a Arc<Task>,
    /// The revision it is stored at, `None` for a new task.
    pub(super) expected: Option<Revision>,
    pub(super) events: Vec<&'a [Event]>,
    pub(super) key: Option<&'a IdempotencyKey>,
}

impl<'a> Write<'a> {
    pub(super) fn events(&self) -> impl Iterator<Item = &'a Event> {
        self.events.iter().copied().flatten()
    }
}

pub(super) enum Verdict<'a> {
    Apply,
    /// A repetition of a task that this batch writes, as it is at this point of the batch.
    ReplayOf(&'a Arc<Task>),
    /// A repetition of a task that is stored.
    ReplayStored(TaskId),
    KeyConflict,
    Stale,
}

#[derive(Default)]
pub(super) struct Plan<'a> {
    pub(super) verdicts: Vec<Verdict<'a>>,
    pub(super) writes: Vec<Write<'a>>,
}

impl Plan<'_> {
    pub(super) fn applies_all(&self) -> bool {
        self.verdicts.iter().all(|verdict| matches!(verdict, Verdict::Apply))
    }
}

/// Judges a batch against what is stored, or, without that, as if nothing stood in its way.
pub(super) fn plan<'a>(batch: &'a [TaskWrite], stored: Option<&Stored>) -> Plan<'a> {
    let mut plan = Plan { verdicts: Vec::with_capacity(batch.len()), writes: Vec::with_capacity(batch.len()) };
    // Where in `plan.writes` a task or the first use of a key stands.
    let mut tasks: HashMap<TaskId, usize> = HashMap::with_capacity(batch.len());
    let mut keys: HashMap<(&str, &str), (&[u8; 32], usize)> = HashMap::new();
    for write in batch {
        let verdict = match write {
            TaskWrite::Insert { task, events, key } => {
                let known = key.as_ref().and_then(|key| {
                    let of_batch = keys.get(&(&*key.tenant, &*key.key));
                    if let Some((fingerprint, place)) = of_batch {
                        return Some(replay(
                            **fingerprint == key.fingerprint,
                            Verdict::ReplayOf(plan.writes[*place].task),
                        ));
                    }
                    let first = stored?.keys.get(&(key.tenant.to_string(), key.key.to_string()))?;
                    let of_task = match tasks.get(&first.task) {
                        Some(place) => Verdict::ReplayOf(plan.writes[*place].task),
                        None => Verdict::ReplayStored(first.task),
                    };
                    Some(replay(first.fingerprint == key.fingerprint, of_task))
                });
                match (known, tasks.entry(task.id)) {
                    (Some(verdict), _) => verdict,
                    (None, Entry::Occupied(_)) => Verdict::Stale,
                    (None, Entry::Vacant(_)) if stored.is_some_and(|s| s.revisions.contains_key(&task.id)) => {
                        Verdict::Stale
                    }
                    (None, Entry::Vacant(place)) => {
                        place.insert(plan.writes.len());
                        if let Some(key) = key {
                            keys.insert((&key.tenant, &key.key), (&key.fingerprint, plan.writes.len()));
                        }
                        plan.writes.push(Write { task, expected: None, events: vec![events], key: key.as_ref() });
                        Verdict::Apply
                    }
                }
            }
            TaskWrite::Update { task, expected, events } => match tasks.entry(task.id) {
                Entry::Occupied(place) => {
                    let write = &mut plan.writes[*place.get()];
                    if write.task.revision == *expected {
                        write.task = task;
                        write.events.push(events);
                        Verdict::Apply
                    } else {
                        Verdict::Stale
                    }
                }
                Entry::Vacant(place) => {
                    if stored.is_none_or(|stored| stored.revisions.get(&task.id) == Some(expected)) {
                        place.insert(plan.writes.len());
                        plan.writes.push(Write { task, expected: Some(*expected), events: vec![events], key: None });
                        Verdict::Apply
                    } else {
                        Verdict::Stale
                    }
                }
            },
        };
        plan.verdicts.push(verdict);
    }
    plan
}

fn replay(same: bool, verdict: Verdict<'_>) -> Verdict<'_> {
    if same { verdict } else { Verdict::KeyConflict }
}
