//! The journal of one execution: what was recorded before, and what is being recorded now.
//!
//! *Order.* Code asks for its entries one by one; [`Journal::begin`] says what is known of each. An outcome is revealed when the agent's code has nothing else
//! to do, one at a time and always the one of the least index among those asked for, whether it was recorded before or has just been stored
//! ([`Journal::advance`]). So parallel branches see their outcomes in the same order whenever the code runs, and a race has one winner. What is new, or was begun
//! and has no outcome, goes on only when no recorded outcome is left to be revealed.
//!
//! *Divergence.* What is asked for and not recorded goes live only once its branch has asked for everything that was recorded in it before the first
//! failure that no longer counts; else the code is not the code that wrote the journal. Nor may it end, or be suspended, before it has.

mod pump;
mod replay;
mod signals;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use self::{
    pump::Delivered,
    replay::{Asked, Fresh, Recorded},
};
pub(crate) use self::{
    pump::{Draft, Sink},
    replay::{Begun, PATCHED},
    signals::{Receipt, Received},
};
use crate::{
    clock::Timestamp,
    payload::Payload,
    task::{Entry, EntryId, EntryKind, MAX_ENTRIES, Outcome, TaskError, TaskId, WaitReason},
};

/// What an execution must do instead of going on with its agent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Wait for somebody's decision.
    Halt { reason: WaitReason, error: TaskError },
    /// Start again with this input and an empty journal.
    Continue(Payload),
    /// Fail for good.
    Fail(TaskError),
    /// Where a recorded run is only replayed: the code needs more than was recorded, as told.
    Beyond(String),
}

/// The journal of an execution.
pub(crate) struct Journal {
    task: TaskId,
    state: Mutex<State>,
    /// Where new entries go; none where a recorded run is only replayed.
    sink: Option<Arc<dyn Sink>>,
    judged: Notify,
    /// Whoever polls the agent: something was stored that its code is to see.
    poller: AtomicWaker,
    /// A signal that a branch had taken is there for others again.
    freed: Notify,
}

#[derive(Default)]
struct State {
    /// The index of the next entry.
    next: u64,
    recorded: BTreeMap<EntryId, Recorded>,
    /// By branch, the recorded entries that its code has not asked for, by the index of their first record. Only those whose absence means divergence.
    unasked: BTreeMap<String, BTreeMap<u64, EntryId>>,
    /// The index of the first entry of this attempt: code may do without what earlier ones recorded.
    since: u64,
    /// How many entries of a name a branch has asked for.
    occurrences: BTreeMap<(Arc<str>, String), u32>,
    /// Recorded outcomes that the code has not seen yet.
    hidden: BTreeSet<u64>,
    /// Those of them that it has asked for.
    asked: BTreeMap<u64, Asked>,
    /// What was stored since, and the code has not seen yet, in the order of recording.
    delivered: VecDeque<Delivered>,
    /// What was asked for and has no outcome, until it may go live.
    fresh: Vec<Fresh>,
    /// The answers of `patched`, by the name of their entry; with the entry itself while the code has not asked for it.
    patches: BTreeMap<String, (bool, Option<(u64, EntryId)>)>,
    /// The task is stored, and entries can be recorded.
    open: bool,
    verdict: Option<Verdict>,
    /// Signals that were received.
    received: Received,
    /// Steps and calls that are under way, by branch.
    live: BTreeMap<Arc<str>, usize>,
    /// Durable waits under way, with their branch.
    waits: BTreeMap<u64, (WaitReason, Option<Timestamp>, Arc<str>)>,
    next_wait: u64,
    pump: pump::State,
}

impl Journal {
    /// Of an execution of `task`'s attempt that began at `attempt_epoch`, with what is stored already.
    pub(crate) fn new(sink: Option<Arc<dyn Sink>>, task: TaskId, entries: Vec<Entry>, attempt_epoch: u64) -> Arc<Self> {
        let next = entries.last().map_or(0, |entry| entry.index + 1);
        let received = Received::of(task, &entries);
        let mut state = State { next, received, ..State::default() };
        state.take_in(entries, attempt_epoch);
        Arc::new(Self {
            task,
            state: Mutex::new(state),
            sink,
            judged: Notify::new(),
            poller: AtomicWaker::new(),
            freed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on entries can be recorded.
    pub(crate) fn open(&self) {
        self.lock().open = true;
    }

    /// Whether only a recorded run is replayed here.
    pub(crate) fn is_replay(&self) -> bool {
        self.sink.is_none()
    }

    /// The first verdict counts.
    pub(crate) fn judge(&self, verdict: Verdict) {
        self.lock().verdict.get_or_insert(verdict);
        self.judged.notify_waiters();
    }

    /// Returns when there is a verdict.
    pub(crate) async fn verdict(&self) -> Verdict {
        loop {
            let next = self.judged.notified();
            tokio::pin!(next);
            next.as_mut().enable();
            if let Some(verdict) = self.lock().verdict.clone() {
                return verdict;
            }
            next.await;
        }
    }

    pub(crate) fn judged(&self) -> Option<Verdict> {
        self.lock().verdict.clone()
    }

    /// Whoever polls the agent is woken when its code is to see something.
    pub(crate) fn polled_by(&self, waker: &Waker) {
        self.poller.register(waker);
    }

    /// A step or a call of a branch is under way until the guard goes.
    pub(crate) fn live(self: &Arc<Self>, path: &Arc<str>) -> Live {
        *self.lock().live.entry(Arc::clone(path)).or_default() += 1;
        Live(Arc::clone(self), Arc::clone(path))
    }

    /// A durable wait of a branch is under way until the guard goes.
    pub(crate) fn wait(self: &Arc<Self>, path: &Arc<str>, reason: WaitReason, until: Option<Timestamp>) -> Waits {
        let mut state = self.lock();
        let id = state.next_wait;
        state.next_wait += 1;
        state.waits.insert(id, (reason, until, Arc::clone(path)));
        Waits(Arc::clone(self), id)
    }

    /// Whether the agent waits for what outlives it and does nothing else: why, and until when.
    pub(crate) fn only_waits(&self) -> Option<(WaitReason, Option<Timestamp>)> {
        let state = self.lock();
        let shown = state.asked.is_empty() && state.delivered.is_empty();
        if !state.live.is_empty() || !shown || !state.fresh.is_empty() || state.pump.is_busy() || self.is_replay() {
            return None;
        }
        let (reason, ..) = state.waits.values().next()?;
        Some((*reason, state.waits.values().filter_map(|(_, until, _)| *until).min()))
    }

    /// Entries that the journal holds.
    pub(crate) fn len(&self) -> u64 {
        self.lock().next
    }

    /// Something that was recorded in this attempt and that the code has not asked for.
    pub(crate) fn left_over(&self) -> Option<(u64, EntryId)> {
        let state = self.lock();
        let left = state.unasked.values().filter_map(|left| left.range(state.since..).next());
        left.min().map(|(index, id)| (*index, id.clone()))
    }

    /// Something that was recorded in a branch that waits now, and that its code has passed by.
    pub(crate) fn passed_by(&self) -> Option<(u64, EntryId)> {
        let state = self.lock();
        let waiting = state.waits.values().filter_map(|(_, _, path)| state.unasked.get(&**path));
        waiting.filter_map(|left| left.range(state.since..).next()).min().map(|(index, id)| (*index, id.clone()))
    }
}

/// A step or a call that is under way.
pub(crate) struct Live(Arc<Journal>, Arc<str>);

impl Drop for Live {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if let Some(count) = state.live.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                state.live.remove(&self.1);
            }
        }
    }
}

/// A durable wait that is under way.
pub(crate) struct Waits(Arc<Journal>, u64);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.lock().waits.remove(&self.1);
    }
}

/// What an entry is called in messages.
pub(crate) fn describe(kind: EntryKind, id: &EntryId) -> String {
    let place = if id.path.is_empty() { String::new() } else { format!(" of branch {}", id.path) };
    format!("{} {:?} (number {}{place})", kind.as_str(), id.name, id.occurrence)
}

/// The journal is full.
pub(crate) fn full() -> TaskError {
    TaskError::new("journal_full", format!("a journal holds {MAX_ENTRIES} entries; continue as new before that"))
}

/// Whether an outcome settles what was open.
fn settles(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done(_) | Outcome::Failed(_))
}
