//! What must hold after every commit, whoever made it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use sutazai_core::{
    clock::Timestamp,
    memory::MemoryTaskStore,
    schedule::{SCHEDULE_LABEL, Timing},
    store::{Granted, ScheduleRecord, TaskStore, TaskWrite, WriteOutcome},
    task::{Entry, EntryKind, Event, EventKind, Outcome, Revision, Summary, Task, TaskId, TaskState, Wait, WaitReason},
};

use crate::{
    agents::LIMIT,
    program::Program,
    rule::{Rule, Violation},
};

/// How many tasks of the tenant `small` may run at once.
pub const TENANT_LIMIT: u32 = 3;

/// The label of tasks of which there must be one of a kind.
pub const ONCE: &str = "once";

/// What the commits so far say about a task.
pub struct Known {
    pub task: Task,
    pub events: Vec<Event>,
    pub journals: BTreeMap<u32, Vec<Entry>>,
    pub signals: u64,
    /// How many it may wait for.
    waits: u64,
    /// It began with another one's journal, and with that one's children.
    forked: bool,
    /// Somebody is about to tell it the next thing.
    telling: bool,
    /// Terminal events of this generation.
    ends: u32,
    pub generation: u32,
    /// The key that each keyed effect was given.
    keys: BTreeMap<u32, String>,
}

impl Known {
    fn journal(&self) -> &[Entry] {
        self.journals.get(&self.task.journal.era).map_or(&[], Vec::as_slice)
    }

    /// What has ended the grant under which the task had this image. Whoever is not told of a cancel, or of a deadline on another clock, acts on until he writes;
    /// a lease that is over he knows of by himself.
    fn end_of(&self, image: &Task) -> Option<&EventKind> {
        let goes_on = |kind: &EventKind| matches!(kind, EventKind::Running { .. } | EventKind::Progress(_));
        let later = self.events.iter().filter(|event| event.seq > image.revision.seq);
        later.map(|event| &event.kind).find(|kind| !goes_on(kind))
    }

    /// The entry of this name that the next execution would not do again: its outcome, or that it was begun.
    fn standing(&self, entry: impl Fn(&Entry) -> bool) -> Option<&Entry> {
        let mut standing = None;
        for entry in self.journal().iter().filter(|known| entry(known)) {
            let dropped = matches!(entry.outcome, Outcome::Failed(_)) && entry.epoch < self.task.journal.attempt_epoch;
            standing = if dropped || entry.outcome == Outcome::Retracted { None } else { Some(entry) };
        }
        standing
    }

    /// The index of the effect that a task which waits for a decision is about.
    pub fn undecided(&self) -> Option<u64> {
        let open = |entry: &&Entry| {
            matches!(entry.outcome, Outcome::Open(_))
                && entry.kind == EntryKind::Step
                && self.standing(|known| known.id == entry.id).is_some_and(|standing| standing.index == entry.index)
        };
        self.journal().iter().find(open).map(|entry| entry.index)
    }
}

/// The state of the store as its commits tell it.
pub struct Checker {
    pub tasks: BTreeMap<TaskId, Known>,
    programs: Arc<Vec<Program>>,
    /// Of what there must be one: idempotency keys, moments of schedules.
    unique: BTreeMap<String, TaskId>,
    running: BTreeMap<Arc<str>, u32>,
    /// The numbers of the feed.
    feed: Vec<u64>,
    /// Tasks that have not ended.
    pub live: BTreeSet<TaskId>,
    /// Tasks with effects under way, by life.
    busy: BTreeMap<(usize, u32), BTreeMap<TaskId, u32>>,
    pub violation: Option<Violation>,
}

impl Checker {
    pub fn new(programs: Arc<Vec<Program>>) -> Self {
        Self {
            tasks: BTreeMap::new(),
            programs,
            unique: BTreeMap::new(),
            running: BTreeMap::new(),
            feed: Vec::new(),
            live: BTreeSet::new(),
            busy: BTreeMap::new(),
            violation: None,
        }
    }

    /// The first one counts.
    pub fn violated(&mut self, rule: Rule, what: impl FnOnce() -> String) {
        self.violation.get_or_insert_with(|| Violation { rule, what: what() });
    }

    fn must(&mut self, holds: bool, rule: Rule, what: impl FnOnce() -> String) -> bool {
        if !holds {
            self.violated(rule, what);
        }
        holds
    }

    /// A batch was stored.
    pub fn committed(&mut self, store: &MemoryTaskStore, batch: &[TaskWrite], outcomes: &[WriteOutcome]) {
        let mut touched: Vec<TaskId> = Vec::with_capacity(batch.len());
        for (write, _) in batch.iter().zip(outcomes).filter(|(_, outcome)| **outcome == WriteOutcome::Applied) {
            touched.push(write.id());
            match write {
                TaskWrite::Insert { task, events, journal, .. } => {
                    self.born(task, events, journal.is_some());
                    if let (Some(_), Some(known)) = (journal, self.tasks.get_mut(&task.id)) {
                        let copied = now(store.journal(task.id, task.journal.era, 0, usize::MAX));
                        known.journals.insert(task.journal.era, copied);
                    }
                }
                TaskWrite::Update { task, expected, events, entries, .. } => {
                    self.updated(task, *expected, events);
                    let epochs = [expected.epoch, task.revision.epoch];
                    entries.iter().for_each(|entry| self.recorded(task.id, task.journal.era, epochs, entry));
                }
                TaskWrite::Append { task, era, entries, children, .. } => {
                    let epoch = self.tasks.get(task).filter(|known| !known.task.state.is_terminal());
                    let epochs = [epoch.map_or(u64::MAX, |known| known.task.revision.epoch); 2];
                    entries.iter().for_each(|entry| self.recorded(*task, *era, epochs, entry));
                    for child in children {
                        touched.push(child.task.id);
                        self.born(&child.task, &child.events, false);
                    }
                }
                TaskWrite::Signal { task, .. } => {
                    let known = self.tasks.get_mut(task).filter(|known| !known.task.state.is_terminal());
                    match known {
                        Some(known) => known.signals += 1,
                        None => self.violated(Rule::Fenced, || format!("{task} was told something after its end")),
                    }
                }
            }
        }
        self.verify(store, &touched);
    }

    /// A claim was stored.
    pub fn granted(&mut self, store: &MemoryTaskStore, granted: &Granted) {
        for task in &granted.tasks {
            let Some(known) = self.tasks.get(&task.id) else {
                return self.violated(Rule::Consistent, || format!("{} was granted before it was stored", task.id));
            };
            let expected = known.task.revision;
            let free = matches!(known.task.state, TaskState::Created | TaskState::Waiting);
            self.must(free, Rule::Fenced, || format!("{} was granted although somebody holds it", task.id));
            let events = now(store.events(task.id, expected.seq, usize::MAX));
            self.updated(task, expected, &events);
        }
        let ids: Vec<TaskId> = granted.tasks.iter().map(|task| task.id).collect();
        self.verify(store, &ids);
    }

    fn born(&mut self, task: &Task, events: &[Event], forked: bool) {
        let id = task.id;
        if !self.must(!self.tasks.contains_key(&id), Rule::Consistent, || format!("{id} was stored twice")) {
            return;
        }
        let firing = task.labels.get(SCHEDULE_LABEL).zip(task.labels.get("schedule_at"));
        let unique = firing.map(|(name, at)| format!("{name} at {at}")).or_else(|| task.labels.get(ONCE).cloned());
        if let Some(unique) = unique.filter(|_| !forked) {
            let first = *self.unique.entry(unique.clone()).or_insert(id);
            self.must(first == id, Rule::Unique, || format!("{first} and {id} are both the task of {unique:?}"));
        }
        let known = Known {
            task: Task { state: TaskState::Created, revision: Revision::default(), node: None, ..task.clone() },
            events: Vec::with_capacity(12),
            journals: BTreeMap::new(),
            signals: 0,
            // A fork goes on counting where the other one was.
            waits: if forked { 12 } else { 0 },
            forked,
            telling: false,
            ends: 0,
            generation: 0,
            keys: BTreeMap::new(),
        };
        self.live.insert(id);
        self.tasks.insert(id, known);
        self.updated(task, Revision::default(), events);
    }

    fn updated(&mut self, image: &Task, expected: Revision, events: &[Event]) {
        let id = image.id;
        let Some(known) = self.tasks.get_mut(&id) else {
            return self.violated(Rule::Consistent, || format!("{id} was changed before it was stored"));
        };
        if known.task.revision != expected {
            let found = known.task.revision;
            return self
                .violated(Rule::Fenced, || format!("{id} was at {found:?} and a write for {expected:?} was accepted"));
        }
        let mut fault = None;
        for event in events {
            let ended = known.ends > 0;
            if matches!(
                event.kind,
                EventKind::Created { .. } | EventKind::Continued {} | EventKind::Requeued { new_input: true }
            ) {
                known.waits += program(&self.programs, image).map_or(0, |program| u64::from(program.waits));
            }
            match &event.kind {
                EventKind::Requeued { .. } => (known.ends, known.generation) = (0, known.generation + 1),
                EventKind::Discarded {} => {}
                kind if ended => fault = Some((Rule::Fenced, format!("{id}: {} after its end", kind.name()))),
                kind => known.ends += u32::from(kind.is_terminal()),
            }
            if event.seq != known.events.len() as u64 + 1 || event.task_id != id {
                fault = Some((
                    Rule::Consistent,
                    format!("{id}: event {} comes after {} events", event.seq, known.events.len()),
                ));
            }
            if let EventKind::Waiting { reason: WaitReason::NonDeterminism, error, .. } = &event.kind {
                fault = Some((Rule::Consistent, format!("{id} does not fit its journal: {error:?}")));
            }
            known.events.push(event.clone());
        }
        let before = std::mem::replace(&mut known.task, image.clone());
        let image = known.task.clone();
        if before.revision.epoch > image.revision.epoch || known.events.len() as u64 != image.revision.seq {
            fault = Some((Rule::Consistent, format!("{id} went from {:?} to {:?}", before.revision, image.revision)));
        }
        if let Some((rule, fault)) = fault {
            self.violated(rule, || fault);
        }
        if image.state.is_terminal() {
            self.live.remove(&id);
            self.ended(&image);
        } else {
            self.live.insert(id);
        }
        let runs = |task: &Task| i64::from(matches!(task.state, TaskState::Assigned | TaskState::Running));
        let change = runs(&image) - runs(&before);
        if change != 0 {
            for (what, limit) in [(&image.agent, LIMIT), (&image.tenant, TENANT_LIMIT)] {
                let limit = if matches!(&**what, "limited" | "small") { limit } else { u32::MAX };
                let count = self.running.entry(Arc::clone(what)).or_default();
                *count = u32::try_from(i64::from(*count) + change).unwrap_or(0);
                let count = *count;
                self.must(change < 0 || count <= limit, Rule::Bounded, || {
                    format!("{count} tasks of {what} run, {limit} may")
                });
            }
        }
    }

    /// How a task may end.
    fn ended(&mut self, task: &Task) {
        let Some(program) = program(&self.programs, task) else { return };
        let known = &self.tasks[&task.id];
        let told_anew = (task.journal.era > 0 || known.forked) && program.waits > 0;
        let fault = match (task.state, &task.error) {
            (TaskState::Completed, _) => {
                let output = task.output.as_ref().and_then(|output| output.read::<u64>().ok());
                let fits = output.is_some() && (told_anew || program.output.is_none() || program.output == output);
                (!fits).then(|| format!("it gave {output:?}, {:?} was to be expected", program.output))
            }
            (TaskState::Failed, Some(error)) => {
                let expected = match error.code.as_str() {
                    "planned" => program.may_fail || program.fails >= task.retry.max_attempts,
                    "effect_failed" => program.may_fail,
                    "deadline_exceeded" => task.deadline.is_some() || known.forked,
                    "child_cancelled" => known.forked,
                    _ => false,
                };
                (!expected).then(|| format!("it failed for {error}"))
            }
            _ => None,
        };
        if let Some(fault) = fault {
            let (id, generation) = (task.id, known.generation);
            self.violated(Rule::Consistent, || {
                format!("{id} (generation {generation}, {:?}): {fault}", task.input.as_str())
            });
        }
    }

    /// An entry was stored by a writer that held the task at one of these epochs.
    fn recorded(&mut self, id: TaskId, era: u32, epochs: [u64; 2], entry: &Entry) {
        let Some(known) = self.tasks.get_mut(&id) else {
            return self.violated(Rule::Consistent, || format!("the journal of {id} grew before it was stored"));
        };
        let task = &known.task;
        let standing = known.standing(|known| known.id == entry.id);
        let settled = standing.is_some_and(|standing| !matches!(standing.outcome, Outcome::Open(_)));
        let again = settled || (standing.is_some() && matches!(entry.outcome, Outcome::Open(_)));
        let length = known.journal().len() as u64;
        let mut fault = None;
        if era != task.journal.era || !epochs.contains(&entry.epoch) {
            let now = (task.state, task.revision);
            fault = Some((Rule::Fenced, format!("its writer held it no more: it is {} at {:?}", now.0, now.1)));
        } else if again {
            let before = standing.map(|standing| &standing.outcome);
            fault = Some((Rule::Recorded, format!("it was recorded before, as {before:?}")));
        } else if entry.index != length {
            fault = Some((Rule::Consistent, format!("the journal holds {length} entries")));
        }
        known.journals.entry(era).or_default().push(entry.clone());
        if let Some((rule, fault)) = fault {
            self.violated(rule, || format!("{id} recorded {entry:?}: {fault}"));
        }
    }

    /// The store must hold what its commits say, and show each event once in its feed.
    fn verify(&mut self, store: &MemoryTaskStore, ids: &[TaskId]) {
        for (id, stored) in ids.iter().zip(now(store.load(ids))) {
            let (Some(known), Some(stored)) = (self.tasks.get_mut(id), stored) else {
                return self.violated(Rule::Kept, || format!("{id} is lost"));
            };
            let summary = Summary::of(&known.events);
            if summary.as_ref() != Some(&Summary::from(&stored)) || known.task.revision != stored.revision {
                return self
                    .violated(Rule::Consistent, || format!("{id}: its events say {summary:?}, the store {stored:?}"));
            }
            known.task.due_at = stored.due_at;
        }
        let mut last = self.feed.last().copied().unwrap_or(0);
        for numbered in now(store.feed(last, usize::MAX)) {
            let fits = self.tasks.get(&numbered.event.task_id).is_some_and(|known| {
                let place = usize::try_from(numbered.event.seq).unwrap_or(0);
                known.events.get(place.wrapping_sub(1)) == Some(&numbered.event)
            });
            self.must(numbered.number > last && fits, Rule::Consistent, || {
                format!("the feed shows {numbered:?} in this place")
            });
            last = numbered.number;
            self.feed.push(last);
        }
    }

    /// Somebody has read a page of the feed, with a cursor.
    pub fn followed(&mut self, after: u64, page: &[u64]) {
        let from = self.feed.partition_point(|number| *number <= after);
        let fits = self.feed[from..].starts_with(page);
        self.must(fits, Rule::Consistent, || format!("after {after} the feed shows {page:?}"));
    }

    /// An effect begins. `frozen`: its process stood still since the engine let it begin.
    pub fn effect(
        &mut self,
        life: (usize, u32),
        image: &Task,
        (name, occurrence): (u32, u32),
        key: Option<String>,
        frozen: bool,
        most: usize,
    ) {
        let id = image.id;
        let busy = self.busy.entry(life).or_default();
        *busy.entry(id).or_default() += 1;
        let count = busy.len();
        self.must(count <= most, Rule::Bounded, || format!("{count} tasks act on one node, {most} may run"));
        let Some(known) = self.tasks.get_mut(&id) else {
            // What has no effects may begin before it is stored.
            self.must(&*image.agent == "pure", Rule::Consistent, || format!("{id} acts before it is stored"));
            return;
        };
        let holds = known.task.revision.epoch == image.revision.epoch && known.task.state == TaskState::Running;
        let mut fault = None;
        if let Some(key) = key {
            let first = known.keys.entry(name).or_insert_with(|| key.clone());
            if *first != key && image.journal.era == 0 {
                fault = Some((Rule::Consistent, format!("it had the key {first:?} and now {key:?}")));
            }
        }
        let this = |entry: &Entry| entry.id.occurrence == occurrence && entry.id.name == format!("s{name}");
        if holds
            && let Some(standing) = known.standing(this)
            && !matches!(standing.outcome, Outcome::Open(_))
        {
            fault = Some((Rule::Recorded, format!("it was recorded as {:?}", standing.outcome)));
        }
        if !holds && !frozen && matches!(known.end_of(image), Some(EventKind::Recovered { .. })) {
            fault = Some((Rule::Fenced, "somebody else took the task over before".to_owned()));
        }
        if let Some((rule, fault)) = fault {
            self.violated(rule, || {
                format!("{id} does s{name}/{occurrence} of epoch {}: {fault}", image.revision.epoch)
            });
        }
    }

    /// An effect is over, or was cut short.
    pub fn effect_over(&mut self, life: (usize, u32), id: TaskId) {
        if let Some(busy) = self.busy.get_mut(&life)
            && let Some(count) = busy.get_mut(&id)
        {
            *count -= 1;
            if *count == 0 {
                busy.remove(&id);
            }
        }
    }

    /// Tasks in a state that somebody outside decides about.
    pub fn which(&self, fits: impl Fn(&Known) -> bool) -> Vec<TaskId> {
        self.tasks.iter().filter(|(_, known)| fits(known)).map(|(id, _)| *id).collect()
    }

    /// Tasks that may wait for more than they were told, with the number of what comes next; one at a time.
    pub fn untold(&mut self) -> Vec<(TaskId, u64)> {
        let mut untold = Vec::new();
        for id in &self.live {
            let Some(known) = self.tasks.get_mut(id).filter(|known| !known.telling) else { continue };
            if known.signals < known.waits {
                known.telling = true;
                untold.push((*id, known.signals + 1));
            }
        }
        untold
    }

    /// It was told, or has ended.
    pub fn told(&mut self, id: TaskId) {
        if let Some(known) = self.tasks.get_mut(&id) {
            known.telling = false;
        }
    }

    /// At the end: everything has ended, and the store still has all of it.
    pub fn at_end(&mut self, store: &MemoryTaskStore) {
        let ids: Vec<TaskId> = self.tasks.keys().copied().collect();
        self.verify(store, &ids);
        for id in ids {
            let known = &self.tasks[&id];
            let (state, era, length) = (known.task.state, known.task.journal.era, known.journal().len());
            let events = now(store.events(id, 0, usize::MAX)) == known.events;
            let journal = now(store.journal(id, era, 0, usize::MAX)) == known.journal();
            self.must(state.is_terminal(), Rule::Kept, || format!("{id} has not ended: {state}"));
            self.must(events && journal, Rule::Consistent, || {
                format!("the store keeps other events or entries of {id}, {length} entries")
            });
        }
        let mut all = now(store.feed(0, usize::MAX));
        let total: usize = self.tasks.values().map(|known| known.events.len()).sum();
        all.dedup_by_key(|numbered| (numbered.event.task_id, numbered.event.seq));
        self.must(all.len() == total, Rule::Consistent, || format!("the feed shows {} of {total} events", all.len()));
    }

    /// At the end of a schedule that makes up for everything: there is a task for each of its moments.
    pub fn schedule_ended(&mut self, record: &ScheduleRecord) {
        let name = &record.schedule.name;
        let Timing::Every { every_ms } = record.schedule.timing else { return };
        let of = |known: &&Known| known.task.labels.get(SCHEDULE_LABEL) == Some(name);
        let moment = |known: &Known| known.task.labels.get("schedule_at").and_then(|at| Timestamp::parse(at).ok());
        let fired: BTreeSet<_> = self.tasks.values().filter(of).filter_map(moment).collect();
        let moments = (1..).map(|n| record.created_at.plus(Duration::from_millis(n * every_ms)));
        let fits = fired.iter().copied().eq(moments.take(fired.len())) && fired.last().copied() >= record.last;
        self.must(fits, Rule::Unique, || format!("{record:?} has fired for {fired:?}"));
    }
}

/// What a task is doing.
fn program<'p>(programs: &'p [Program], task: &Task) -> Option<&'p Program> {
    programs.get(task.input.read::<usize>().ok()?)
}

/// Whether the task waits for somebody's decision.
pub fn is_halted(known: &Known) -> bool {
    known.task.wait == Some(Wait::Decision)
}

/// The answer of the memory store, which never waits.
pub fn now<T>(answer: impl Future<Output = sutazai_core::Result<T>>) -> T {
    answer.now_or_never().unwrap().unwrap()
}
