//! Everything the store holds, and how writes change it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use super::{
    index::Indexes,
    keys::{KeyName, Keys},
    nodes::Nodes,
    outbox::Outbox,
    schedules::Schedules,
};
use crate::{
    clock::Timestamp,
    engine::{self, Command, Selection},
    store::{Child, Claim, Granted, Held, JournalCopy, KEY_LIFE, POST_LIFE, TaskQuery, TaskWrite, WriteOutcome},
    task::{Entry, Event, EventKind, NumberedEvent, Revision, Signal, Task, TaskId, TaskState, Wait},
};

pub(super) struct State {
    pub(super) closed: bool,
    /// Tasks that have ended and are kept.
    kept: usize,
    rows: BTreeMap<TaskId, Row>,
    pub(super) indexes: Indexes,
    pub(super) keys: Keys,
    pub(super) nodes: Nodes,
    pub(super) schedules: Schedules,
    pub(super) outbox: Outbox,
    /// The stored moments of rate limits, by agent.
    rates: BTreeMap<Arc<str>, i64>,
    /// Where each event stands: its task, and its place there.
    feed: BTreeMap<u64, (TaskId, usize)>,
    /// Tasks that have ended, in the order of their ends.
    ends: BTreeMap<u64, TaskId>,
    /// The number given last, to an event or an end.
    last: u64,
}

struct Row {
    task: Arc<Task>,
    queue: Arc<str>,
    events: Vec<Event>,
    /// Their numbers in the feed.
    numbers: Vec<u64>,
    journals: BTreeMap<u32, Vec<Entry>>,
    signals: BTreeMap<String, Vec<Signal>>,
    keys: Vec<KeyName>,
    /// Its place among the ends.
    end: Option<u64>,
}

impl Row {
    /// Whether these are the next entries of a journal.
    fn continues(&self, era: u32, entries: &[Entry]) -> bool {
        let length = self.journals.get(&era).map_or(0, Vec::len) as u64;
        entries.iter().map(|entry| entry.index).eq(length..length + entries.len() as u64)
    }

    fn append(&mut self, era: u32, entries: &[Entry]) {
        if !entries.is_empty() {
            self.journals.entry(era).or_default().extend_from_slice(entries);
        }
    }
}

impl State {
    pub(super) fn new(kept: usize) -> Self {
        Self {
            closed: false,
            kept,
            rows: BTreeMap::new(),
            indexes: Indexes::default(),
            keys: Keys::default(),
            nodes: Nodes::default(),
            schedules: Schedules::default(),
            outbox: Outbox::default(),
            rates: BTreeMap::new(),
            feed: BTreeMap::new(),
            ends: BTreeMap::new(),
            last: 0,
        }
    }

    // ---- writes ----

    /// Stores one member of a batch; `now` is the store's clock.
    pub(super) fn write(&mut self, write: &TaskWrite, now: Timestamp) -> WriteOutcome {
        if let Some(first) = write.key().and_then(|key| self.keys.repeats(key, now)) {
            let task = first.and_then(|id| self.task(id));
            return task.map_or(WriteOutcome::KeyConflict, |task| WriteOutcome::Replayed(Box::new(Task::clone(task))));
        }
        let applied = match write {
            TaskWrite::Insert { task, events, journal, .. } => self.insert(task, events, *journal),
            TaskWrite::Update { task, expected, events, entries, .. } => {
                self.update(task, *expected, events, entries, write.changes_input())
            }
            TaskWrite::Append { task, epoch, era, entries, children } => {
                self.append(*task, *epoch, *era, entries, children)
            }
            TaskWrite::Signal { task, signal, .. } => self.signal(*task, signal),
        };
        if !applied {
            return WriteOutcome::Stale;
        }
        if let Some(key) = write.key() {
            let at = match write {
                TaskWrite::Update { events, .. } => events.last().map(|event| event.at),
                TaskWrite::Signal { signal, .. } => Some(signal.at),
                TaskWrite::Insert { .. } | TaskWrite::Append { .. } => None,
            };
            let name = self.keys.used(key, write.id(), at);
            if let Some(row) = self.rows.get_mut(&write.id()) {
                row.keys.push(name);
            }
        }
        self.let_go();
        WriteOutcome::Applied
    }

    fn insert(&mut self, task: &Arc<Task>, events: &[Event], journal: Option<JournalCopy>) -> bool {
        if self.rows.contains_key(&task.id) {
            return false;
        }
        let mut entries = Vec::new();
        if let Some(copy) = journal.filter(|copy| copy.before > 0) {
            let source = self.rows.get(&copy.from).and_then(|row| row.journals.get(&copy.era));
            entries.extend(source.into_iter().flatten().take_while(|entry| entry.index < copy.before).cloned());
            if entries.len() as u64 != copy.before {
                return false; // it was removed meanwhile; without its beginning the task would do everything again
            }
        }
        self.bear(task, events);
        if let Some(row) = self.rows.get_mut(&task.id) {
            row.append(task.journal.era, &entries);
        }
        true
    }

    /// Takes in a task that is not there.
    fn bear(&mut self, task: &Arc<Task>, events: &[Event]) {
        let row = Row {
            task: Arc::clone(task),
            queue: task.queue().into(),
            events: Vec::new(),
            numbers: Vec::new(),
            journals: BTreeMap::new(),
            signals: BTreeMap::new(),
            keys: Vec::new(),
            end: None,
        };
        self.indexes.set(task, &row.queue, true);
        self.rows.insert(task.id, row);
        self.outbox.open(task);
        self.happened(task.id, events);
    }

    fn update(
        &mut self,
        image: &Arc<Task>,
        expected: Revision,
        events: &[Event],
        entries: &[Entry],
        new_input: bool,
    ) -> bool {
        let Some(row) = self.rows.get_mut(&image.id) else { return false };
        if row.task.revision != expected || !row.continues(image.journal.era, entries) {
            return false;
        }
        let mut task = Task::clone(image);
        task.wakes = row.task.wakes;
        if task.wakes != image.wakes
            && task.wait == Some(Wait::Event)
            && let Some(last) = events.last()
        {
            task.due_at = task.due_at.min(last.at);
        }
        if !new_input {
            task.input = row.task.input.clone();
        }
        row.append(image.journal.era, entries);
        self.replace(Arc::new(task));
        self.happened(image.id, events);
        true
    }

    fn append(&mut self, id: TaskId, epoch: u64, era: u32, entries: &[Entry], children: &[Child]) -> bool {
        let ids: BTreeSet<TaskId> = children.iter().map(|child| child.task.id).collect();
        if ids.len() < children.len() || ids.iter().any(|id| self.rows.contains_key(id)) {
            return false;
        }
        let Some(row) = self.rows.get_mut(&id) else { return false };
        if row.task.state.is_terminal() || row.task.revision.epoch != epoch || !row.continues(era, entries) {
            return false;
        }
        row.append(era, entries);
        for child in children {
            self.bear(&child.task, &child.events);
        }
        true
    }

    fn signal(&mut self, id: TaskId, signal: &Signal) -> bool {
        let Some(row) = self.rows.get_mut(&id).filter(|row| !row.task.state.is_terminal()) else { return false };
        row.signals.entry(signal.name.clone()).or_default().push(signal.clone());
        self.wake(id, signal.at);
        true
    }

    /// Puts the next image of a task in the place of the one before.
    fn replace(&mut self, task: Arc<Task>) {
        let Some(row) = self.rows.get_mut(&task.id) else { return };
        self.indexes.set(&row.task, &row.queue, false);
        self.indexes.set(&task, &row.queue, true);
        row.task = task;
    }

    fn wake(&mut self, id: TaskId, at: Timestamp) {
        let Some(task) = self.task(id) else { return };
        let mut task = Task::clone(task);
        task.wakes += 1;
        if task.wait == Some(Wait::Event) {
            task.due_at = task.due_at.min(at);
        }
        self.replace(Arc::new(task));
    }

    /// What a write of a task's image brings with it: events, the outbox, the end and its parent.
    fn happened(&mut self, id: TaskId, events: &[Event]) {
        let Some(row) = self.rows.get_mut(&id) else { return };
        for event in events {
            self.last += 1;
            self.feed.insert(self.last, (id, row.events.len()));
            row.numbers.push(self.last);
            row.events.push(event.clone());
        }
        if let Some(last) = events.last() {
            if events.iter().any(|event| matches!(event.kind, EventKind::Requeued { .. })) {
                self.outbox.revive(id, None, last.at);
            }
            self.outbox.news(id, last.at);
        }
        match (row.task.state.is_terminal(), row.end) {
            (true, None) => {
                self.last += 1;
                row.end = Some(self.last);
                self.ends.insert(self.last, id);
            }
            (false, Some(end)) => {
                row.end = None;
                self.ends.remove(&end);
            }
            _ => {}
        }
        let end = events.iter().rfind(|event| event.kind.is_terminal()).filter(|_| row.task.state.is_terminal());
        if let (Some(end), Some(parent)) = (end, row.task.parent_id) {
            self.wake(parent, end.at);
        }
    }

    /// Lets the oldest ends go when there are too many.
    fn let_go(&mut self) {
        while self.ends.len() > self.kept
            && let Some((_, oldest)) = self.ends.pop_first()
        {
            self.remove(oldest);
        }
    }

    fn remove(&mut self, id: TaskId) {
        let Some(row) = self.rows.remove(&id) else { return };
        self.indexes.set(&row.task, &row.queue, false);
        self.outbox.drop(id);
        row.keys.iter().for_each(|name| self.keys.forget(name));
        for number in &row.numbers {
            self.feed.remove(number);
        }
        if let Some(end) = row.end {
            self.ends.remove(&end);
        }
    }

    pub(super) fn purge(&mut self, ids: &[TaskId], now: Timestamp) -> u64 {
        let mut count = 0;
        for id in ids {
            if self.rows.get(id).is_some_and(|row| self.has_had_its_day(row, now)) {
                self.remove(*id);
                count += 1;
            }
        }
        count
    }

    /// Whether a task has ended and nobody relies on it any more.
    fn has_had_its_day(&self, row: &Row, now: Timestamp) -> bool {
        let Some(end) = row.task.finished_at.filter(|_| row.task.state.is_terminal()) else { return false };
        let since = |life| end > now.minus(life);
        let keyed = row.keys.iter().any(|name| since(KEY_LIFE) || self.keys.is_held(name, now));
        let posts = since(POST_LIFE) && self.outbox.is_due(row.task.id);
        !keyed && !posts
    }

    // ---- claims ----

    pub(super) fn claim(&mut self, claim: &Claim) -> Granted {
        let (policy, now) = (&claim.policy, claim.now);
        if claim.limit == 0 {
            return Granted::default();
        }
        let rates: Vec<_> =
            self.rates.iter().map(|(agent, tat)| engine::Rate { agent: Arc::clone(agent), tat: *tat }).collect();
        let (heads, running) = (self.indexes.heads(policy), self.indexes.running());
        let mut selection = Selection::new(policy, now, claim.limit, heads, &running, &rates);
        loop {
            let asks = selection.asks();
            if asks.is_empty() {
                break;
            }
            for (index, ask) in asks.iter().enumerate() {
                selection.offer(index, self.indexes.answer(ask));
            }
        }
        let selected = selection.finish();
        self.rates.extend(selected.rates.into_iter().map(|rate| (rate.agent, rate.tat)));
        let (again_at, held_back) = (selected.again_at, selected.held_back);
        let mut granted = Granted { tasks: Vec::new(), from_created: 0, again_at, held_back };
        for id in selected.picks {
            let Some(before) = self.task(id) else { continue };
            let created = before.state == TaskState::Created;
            let Ok(step) = engine::apply(before, Command::Claim { node: claim.node.clone() }, now) else { continue };
            self.replace(Arc::new(step.task));
            self.happened(id, &step.events);
            granted.from_created += usize::from(created);
            granted.tasks.extend(self.task(id).map(|task| Task::clone(task)));
        }
        granted
    }

    // ---- reads ----

    pub(super) fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.rows.get(&id).map(|row| &row.task)
    }

    /// Every task that a query may mean, newest first.
    pub(super) fn candidates(&self, query: &TaskQuery) -> Box<dyn Iterator<Item = &Arc<Task>> + Send + '_> {
        let before = query.before.map_or(Bound::Unbounded, Bound::Excluded);
        let state = query.state.or(query.dead_letters.then_some(TaskState::Failed));
        if let Some(parent) = query.parent {
            return Box::new(self.indexes.children(parent, query.before).filter_map(|id| self.task(id)));
        }
        let ids = match state {
            Some(state) => self.indexes.in_state(state),
            None if query.live => self.indexes.live(),
            None => return Box::new(self.rows.range((Bound::Unbounded, before)).rev().map(|(_, row)| &row.task)),
        };
        Box::new(ids.range((Bound::Unbounded, before)).rev().filter_map(|id| self.task(*id)))
    }

    pub(super) fn held(&self, id: TaskId) -> Option<Held> {
        let row = self.rows.get(&id)?;
        let journal = row.journals.get(&row.task.journal.era).map_or(0, Vec::len) as u64;
        Some(Held { task: Task::clone(&row.task), journal })
    }

    pub(super) fn events(&self, id: TaskId, after: u64, limit: usize) -> Vec<Event> {
        let Some(row) = self.rows.get(&id) else { return Vec::new() };
        let from = row.events.partition_point(|event| event.seq <= after);
        row.events[from..].iter().take(limit).cloned().collect()
    }

    pub(super) fn feed(&self, after: u64, limit: usize) -> Vec<NumberedEvent> {
        let Some(from) = after.checked_add(1) else { return Vec::new() };
        let found = self.feed.range(from..).take(limit);
        let event = |(number, (id, place)): (&u64, &(TaskId, usize))| {
            let event = self.rows.get(id)?.events.get(*place)?.clone();
            Some(NumberedEvent { number: *number, event })
        };
        found.filter_map(event).collect()
    }

    pub(super) fn journal(&self, id: TaskId, era: u32, from: u64, limit: usize) -> Vec<Entry> {
        let entries = self.rows.get(&id).and_then(|row| row.journals.get(&era)).map_or(&[][..], Vec::as_slice);
        page(entries, from, limit)
    }

    pub(super) fn signals(&self, id: TaskId, name: &str, from: u64, limit: usize) -> Vec<Signal> {
        let signals = self.rows.get(&id).and_then(|row| row.signals.get(name)).map_or(&[][..], Vec::as_slice);
        page(signals, from, limit)
    }
}

fn page<T: Clone>(all: &[T], from: u64, limit: usize) -> Vec<T> {
    all.iter().skip(usize::try_from(from).unwrap_or(usize::MAX)).take(limit).cloned().collect()
}
