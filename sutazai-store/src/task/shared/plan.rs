//! Decides what becomes of each write of a batch, and leaves one row to write for each task that it touches.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use sutazai_core::{
    clock::Timestamp,
    store::{Child, JournalCopy, TaskWrite},
    task::{Entry, Event, IdempotencyKey, Revision, Signal, Task, TaskId},
};

use super::track::{Known, Wake, Write};

/// What the store holds of what a batch names.
#[derive(Default)]
pub(in crate::task) struct Stored {
    pub(in crate::task) tasks: HashMap<TaskId, Known>,
    /// By tenant and key.
    pub(in crate::task) keys: HashMap<(String, String), FirstUse>,
    /// How many entries journals hold that the batch adds to.
    pub(in crate::task) lengths: HashMap<Journal, u64>,
    /// How many entries are there of the beginnings that the batch copies, by journal and length.
    pub(in crate::task) beginnings: HashMap<(Journal, u64), u64>,
}

/// A task and an era.
pub(in crate::task) type Journal = (TaskId, u32);

pub(in crate::task) struct FirstUse {
    pub(in crate::task) fingerprint: Vec<u8>,
    /// None for a request that belongs to no task.
    pub(in crate::task) task: Option<TaskId>,
}

/// What a write becomes.
#[derive(Clone)]
pub(in crate::task) enum Verdict {
    Apply,
    /// A repetition of a task that this batch writes, as it is at this point of the batch.
    ReplayOf(Box<Task>),
    /// A repetition of a task that is stored, with what has woken it in this batch.
    ReplayStored(TaskId, Option<Wake>),
    KeyConflict,
    Stale,
    /// Not to be told without a look at what is stored.
    Unknown,
}

/// Entries of one journal.
pub(in crate::task) struct Entries<'a> {
    pub(in crate::task) journal: Journal,
    /// The index that must be stored before, where that is not known.
    pub(in crate::task) after: Option<u64>,
    /// The epoch that the stored task must have, and not have ended; none where this batch has seen to that.
    pub(in crate::task) fence: Option<u64>,
    pub(in crate::task) entries: &'a [Entry],
}

/// A signal, to be stored as the next of its name.
pub(in crate::task) struct Told<'a> {
    pub(in crate::task) task: TaskId,
    pub(in crate::task) signal: &'a Signal,
    /// Whether the stored task must be one that has not ended; else this batch has seen to that.
    pub(in crate::task) fenced: bool,
}

/// A copy of a journal's beginning.
pub(in crate::task) struct Copied {
    pub(in crate::task) to: Journal,
    pub(in crate::task) of: JournalCopy,
}

/// A key and what it is used for.
pub(in crate::task) struct UsedKey<'a> {
    pub(in crate::task) key: &'a IdempotencyKey,
    pub(in crate::task) task: TaskId,
    /// When it was used, if its task was there before.
    pub(in crate::task) at: Option<Timestamp>,
}

#[derive(Default)]
pub(in crate::task) struct Plan<'a> {
    pub(in crate::task) verdicts: Vec<Verdict>,
    pub(in crate::task) keys: Vec<UsedKey<'a>>,
    pub(in crate::task) writes: Vec<Write<'a>>,
    pub(in crate::task) entries: Vec<Entries<'a>>,
    pub(in crate::task) copies: Vec<Copied>,
    pub(in crate::task) signals: Vec<Told<'a>>,
    /// Of tasks that this batch has no image of.
    pub(in crate::task) wakes: Vec<(TaskId, Wake)>,
}

impl Plan<'_> {
    pub(in crate::task) fn applies_all(&self) -> bool {
        self.verdicts.iter().all(|verdict| matches!(verdict, Verdict::Apply))
    }
}

/// Judges a batch against what is stored, or, without that, as if nothing stood in its way.
pub(in crate::task) fn plan<'a>(batch: &'a [TaskWrite], stored: Option<&Stored>) -> Plan<'a> {
    let mut planner = Planner::new(stored, batch.len());
    for write in batch {
        let verdict = match planner.known_key(write.key()) {
            Some(verdict) => verdict,
            None => planner.judge(write),
        };
        planner.plan.verdicts.push(verdict);
    }
    planner.plan.wakes.retain(|(_, wake)| wake.count > 0);
    planner.plan
}

struct Planner<'a, 's> {
    stored: Option<&'s Stored>,
    plan: Plan<'a>,
    /// Where in `plan.writes` a task stands.
    tasks: HashMap<TaskId, usize>,
    /// Where in `plan.wakes` a task stands.
    woken: HashMap<TaskId, usize>,
    /// Fingerprint and task of the keys that this batch uses.
    keys: HashMap<(&'a str, &'a str), (&'a [u8; 32], TaskId)>,
    /// How long journals are that this batch has added to.
    lengths: HashMap<Journal, u64>,
}

impl<'a, 's> Planner<'a, 's> {
    fn new(stored: Option<&'s Stored>, size: usize) -> Self {
        let plan = Plan { verdicts: Vec::with_capacity(size), writes: Vec::with_capacity(size), ..Plan::default() };
        Self {
            stored,
            plan,
            tasks: HashMap::with_capacity(size),
            woken: HashMap::new(),
            keys: HashMap::new(),
            lengths: HashMap::new(),
        }
    }

    /// What a key that was used before makes of its write.
    fn known_key(&self, key: Option<&IdempotencyKey>) -> Option<Verdict> {
        let key = key?;
        let (same, task) = match self.keys.get(&(&*key.tenant, &*key.key)) {
            Some((fingerprint, task)) => (**fingerprint == key.fingerprint, Some(*task)),
            None => {
                let first = self.stored?.keys.get(&(key.tenant.to_string(), key.key.to_string()))?;
                (first.fingerprint == key.fingerprint, first.task)
            }
        };
        let Some(task) = task.filter(|_| same) else { return Some(Verdict::KeyConflict) };
        Some(match (self.tasks.get(&task), self.stored) {
            (Some(place), _) => Verdict::ReplayOf(Box::new(self.plan.writes[*place].image())),
            (None, Some(_)) => {
                Verdict::ReplayStored(task, self.woken.get(&task).map(|place| self.plan.wakes[*place].1))
            }
            (None, None) => Verdict::Unknown,
        })
    }

    fn judge(&mut self, write: &'a TaskWrite) -> Verdict {
        match write {
            TaskWrite::Insert { task, events, key, journal } => {
                let copied = journal.filter(|copy| copy.before > 0);
                if self.exists(task.id) || copied.is_some_and(|copy| !self.may_copy(copy)) {
                    return Verdict::Stale;
                }
                self.insert(task, events);
                self.use_key(key.as_ref(), task.id, None);
                if let Some(of) = copied {
                    let to = (task.id, task.journal.era);
                    self.lengths.insert(to, of.before);
                    self.plan.copies.push(Copied { to, of });
                }
                Verdict::Apply
            }
            TaskWrite::Update { task, expected, events, entries, key } => {
                let journal = (task.id, task.journal.era);
                if !self.may_update(task.id, *expected) || !self.continues(journal, entries) {
                    return Verdict::Stale;
                }
                let at = events.last().map(|event| event.at);
                self.append(journal, None, entries);
                self.update(task, *expected, events);
                self.use_key(key.as_ref(), task.id, at);
                self.end(task, events);
                Verdict::Apply
            }
            TaskWrite::Append { task, epoch, era, entries, children } => {
                self.judge_append(*task, *epoch, *era, entries, children)
            }
            TaskWrite::Signal { task, signal, key } => {
                let fenced = match self.live(*task) {
                    Some((false, _)) => return Verdict::Stale,
                    Some((true, _)) => !self.tasks.contains_key(task),
                    None => true,
                };
                self.plan.signals.push(Told { task: *task, signal, fenced });
                self.use_key(key.as_ref(), *task, Some(signal.at));
                self.wake(*task, signal.at);
                Verdict::Apply
            }
        }
    }

    fn judge_append(
        &mut self,
        task: TaskId,
        epoch: u64,
        era: u32,
        entries: &'a [Entry],
        children: &'a [Child],
    ) -> Verdict {
        let of_batch = self.tasks.contains_key(&task);
        match self.live(task) {
            Some((live, at)) if !live || at != epoch => return Verdict::Stale,
            // Nothing would say whether the fence holds.
            None if entries.is_empty() => return Verdict::Unknown,
            _ => {}
        }
        let mut born = HashSet::with_capacity(children.len());
        let new = children.iter().all(|child| !self.exists(child.task.id) && born.insert(child.task.id));
        if !new || !self.continues((task, era), entries) {
            return Verdict::Stale;
        }
        self.append((task, era), (!of_batch).then_some(epoch), entries);
        for child in children {
            self.insert(&child.task, &child.events);
        }
        Verdict::Apply
    }

    fn exists(&self, task: TaskId) -> bool {
        self.tasks.contains_key(&task) || self.stored.is_some_and(|stored| stored.tasks.contains_key(&task))
    }

    fn may_update(&self, task: TaskId, expected: Revision) -> bool {
        match (self.tasks.get(&task), self.stored) {
            (Some(place), _) => self.plan.writes[*place].task.revision == expected,
            (None, Some(stored)) => stored.tasks.get(&task).is_some_and(|known| known.revision == expected),
            (None, None) => true,
        }
    }

    /// Whether a task lives, and its epoch, if that is known.
    fn live(&self, task: TaskId) -> Option<(bool, u64)> {
        match (self.tasks.get(&task), self.stored) {
            (Some(place), _) => {
                let task = self.plan.writes[*place].task;
                Some((!task.state.is_terminal(), task.revision.epoch))
            }
            (None, Some(stored)) => {
                Some(stored.tasks.get(&task).map_or((false, 0), |known| (!known.ended, known.revision.epoch)))
            }
            (None, None) => None,
        }
    }

    /// How many entries a journal holds, if that is known.
    fn length(&self, journal: Journal) -> Option<u64> {
        if let Some(length) = self.lengths.get(&journal) {
            return Some(*length);
        }
        let new = self.tasks.get(&journal.0).is_some_and(|place| self.plan.writes[*place].expected.is_none());
        if new { Some(0) } else { self.stored.map(|stored| stored.lengths.get(&journal).copied().unwrap_or_default()) }
    }

    /// Whether these are the next entries of a journal, as far as is known.
    fn continues(&self, journal: Journal, entries: &[Entry]) -> bool {
        let Some(first) = entries.first() else { return true };
        let from = self.length(journal).unwrap_or(first.index);
        entries.iter().map(|entry| entry.index).eq(from..from + entries.len() as u64)
    }

    /// Whether all of the beginning is there. Without it a task would do everything again.
    fn may_copy(&self, copy: JournalCopy) -> bool {
        let journal = (copy.from, copy.era);
        let of_batch = self.lengths.get(&journal).copied().unwrap_or_default();
        let Some(stored) = self.stored else { return true };
        of_batch.max(stored.beginnings.get(&(journal, copy.before)).copied().unwrap_or_default()) >= copy.before
    }

    fn append(&mut self, journal: Journal, fence: Option<u64>, entries: &'a [Entry]) {
        let Some(first) = entries.first() else { return };
        let after = if self.length(journal).is_some() { None } else { first.index.checked_sub(1) };
        self.lengths.insert(journal, first.index + entries.len() as u64);
        self.plan.entries.push(Entries { journal, after, fence, entries });
    }

    fn insert(&mut self, task: &'a Arc<Task>, events: &'a [Event]) {
        // What woke a task that was not there yet is lost, as it would be one by one.
        if let Some(place) = self.woken.get(&task.id) {
            self.plan.wakes[*place].1.count = 0;
        }
        self.tasks.insert(task.id, self.plan.writes.len());
        self.plan.writes.push(Write::insert(task, events));
        self.end(task, events);
    }

    fn update(&mut self, task: &'a Arc<Task>, expected: Revision, events: &'a [Event]) {
        if let Some(place) = self.tasks.get(&task.id) {
            self.plan.writes[*place].update(task, events);
            return;
        }
        let woken = self.woken.get(&task.id).map_or(0, |place| std::mem::take(&mut self.plan.wakes[*place].1.count));
        let known = self.stored.and_then(|stored| stored.tasks.get(&task.id));
        self.tasks.insert(task.id, self.plan.writes.len());
        self.plan.writes.push(Write::first_update(task, expected, events, woken, known));
    }

    fn use_key(&mut self, key: Option<&'a IdempotencyKey>, task: TaskId, at: Option<Timestamp>) {
        if let Some(key) = key {
            self.keys.insert((&key.tenant, &key.key), (&key.fingerprint, task));
            self.plan.keys.push(UsedKey { key, task, at });
        }
    }

    /// Wakes the parent of a task that has ended.
    fn end(&mut self, task: &Task, events: &[Event]) {
        let Some(parent) = task.parent_id.filter(|_| task.state.is_terminal()) else { return };
        if let Some(end) = events.iter().rev().find(|event| event.kind.is_terminal()) {
            self.wake(parent, end.at);
        }
    }

    fn wake(&mut self, task: TaskId, at: Timestamp) {
        if let Some(place) = self.tasks.get(&task) {
            return self.plan.writes[*place].wake(at);
        }
        let wakes = &mut self.plan.wakes;
        let place = *self.woken.entry(task).or_insert_with(|| {
            wakes.push((task, Wake::default()));
            wakes.len() - 1
        });
        wakes[place].1.add(at);
    }
}
