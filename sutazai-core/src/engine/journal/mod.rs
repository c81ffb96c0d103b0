//! The journal of one execution: what was recorded before, and what is being recorded now.
//!
//! *Replay.* Code asks for its entries one by one; [`Journal::begin`] says what is known of each. A recorded outcome is revealed when the agent's code has
//! nothing else to do, one at a time and always the one of the least index among those asked for, so parallel branches see their outcomes in the order in which
//! they were recorded ([`Journal::advance`]).
//!
//! *Divergence.* What is asked for and not recorded goes live only once its branch has asked for everything that was recorded in it before the first
//! failure that no longer counts; else the code is not the code that wrote the journal.

mod pump;
mod replay;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use self::replay::Recorded;
pub(crate) use self::{
    pump::{Draft, Sink},
    replay::Begun,
};
use crate::{
    clock::Timestamp,
    payload::Payload,
    task::{Entry, EntryId, EntryKind, MAX_ENTRIES, Outcome, TaskError, WaitReason},
};

/// The branch of entries that no code asks for: what a journal took over from the one before it.
pub(super) const CARRIED_OVER: &str = "^";

/// What an execution must do instead of going on with its agent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Wait for somebody's decision.
    Halt { reason: WaitReason, error: TaskError },
    /// Start again with this input and an empty journal.
    Continue(Payload),
    /// Fail for good.
    Fail(TaskError),
}

/// The journal of an execution.
pub(crate) struct Journal {
    state: Mutex<State>,
    /// Where new entries go; none where a recorded run is only replayed.
    sink: Option<Arc<dyn Sink>>,
    judged: Notify,
}

#[derive(Default)]
struct State {
    /// The index of the next entry.
    next: u64,
    recorded: BTreeMap<EntryId, Recorded>,
    /// By branch, the recorded entries that its code has not asked for, by the index of their first record. Only those whose absence means divergence.
    unasked: BTreeMap<String, BTreeMap<u64, EntryId>>,
    /// How many entries of a name a branch has asked for.
    occurrences: BTreeMap<(Arc<str>, String), u32>,
    /// Recorded outcomes that were asked for and are not revealed yet.
    asked: BTreeMap<u64, oneshot::Sender<()>>,
    /// What was asked for and is not recorded, until it may go live.
    fresh: Vec<(EntryId, oneshot::Sender<()>)>,
    /// The task is stored, and entries can be recorded.
    open: bool,
    verdict: Option<Verdict>,
    /// Numbers of the signals that were received, by name.
    received: BTreeMap<String, BTreeSet<u64>>,
    /// Steps and calls that are under way.
    live: usize,
    /// Durable waits under way.
    waits: BTreeMap<u64, (WaitReason, Option<Timestamp>)>,
    next_wait: u64,
    pump: pump::State,
}

impl Journal {
    /// Of an execution of the attempt that began at `attempt_epoch`, with what is stored already.
    pub(crate) fn new(sink: Option<Arc<dyn Sink>>, entries: Vec<Entry>, attempt_epoch: u64) -> Arc<Self> {
        let mut state = State { next: entries.last().map_or(0, |entry| entry.index + 1), ..State::default() };
        state.take_in(entries, attempt_epoch);
        Arc::new(Self { state: Mutex::new(state), sink, judged: Notify::new() })
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

    /// A step or a call is under way until the guard goes.
    pub(crate) fn live(self: &Arc<Self>) -> Live {
        self.lock().live += 1;
        Live(Arc::clone(self))
    }

    /// A durable wait is under way until the guard goes.
    pub(crate) fn wait(self: &Arc<Self>, reason: WaitReason, until: Option<Timestamp>) -> Waits {
        let mut state = self.lock();
        let id = state.next_wait;
        state.next_wait += 1;
        state.waits.insert(id, (reason, until));
        Waits(Arc::clone(self), id)
    }

    /// Whether the agent waits for what outlives it and does nothing else: why, and until when.
    pub(crate) fn only_waits(&self) -> Option<(WaitReason, Option<Timestamp>)> {
        let state = self.lock();
        let busy = state.live > 0 || !state.asked.is_empty() || !state.fresh.is_empty() || state.pump.is_busy();
        if busy || self.is_replay() {
            return None;
        }
        let (reason, _) = state.waits.values().next()?;
        Some((*reason, state.waits.values().filter_map(|(_, until)| *until).min()))
    }

    /// The number of the next signal of `name` that was not received yet; it counts as received from now on.
    pub(crate) fn take_signal_number(&self, name: &str) -> u64 {
        let mut state = self.lock();
        let taken = state.received.entry(name.to_owned()).or_default();
        let free = (0..).find(|number| !taken.contains(number)).unwrap_or(u64::MAX);
        taken.insert(free);
        free
    }

    /// It was not received after all.
    pub(crate) fn give_signal_number_back(&self, name: &str, number: u64) {
        if let Some(taken) = self.lock().received.get_mut(name) {
            taken.remove(&number);
        }
    }

    /// What the next journal begins with when the task continues as new: how many signals of each name were received, so that none is received again.
    pub(crate) fn carried_over(&self, epoch: u64, at: Timestamp) -> Vec<Entry> {
        let state = self.lock();
        let counts = state
            .received
            .iter()
            .map(|(name, taken)| (name, (0..).find(|number| !taken.contains(number)).unwrap_or(0)));
        let entry = |(index, (name, count)): (u64, (&String, u64))| {
            let id = EntryId { path: CARRIED_OVER.to_owned(), name: name.clone(), occurrence: 0 };
            let outcome = Outcome::Done(
                Payload::of(&replay::CarriedOver { received: count }).unwrap_or_else(|_| Payload::null()),
            );
            Entry { index, id, kind: EntryKind::Signal, outcome, epoch, at }
        };
        (0..).zip(counts.filter(|(_, count)| *count > 0)).map(entry).collect()
    }

    /// Entries that the journal holds.
    pub(crate) fn len(&self) -> u64 {
        self.lock().next
    }

    /// Something that was recorded and that the code has not asked for.
    pub(crate) fn left_over(&self) -> Option<(u64, EntryId)> {
        let state = self.lock();
        state.unasked.values().filter_map(|left| left.first_key_value()).min().map(|(index, id)| (*index, id.clone()))
    }
}

/// A step or a call that is under way.
pub(crate) struct Live(Arc<Journal>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.lock().live -= 1;
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
