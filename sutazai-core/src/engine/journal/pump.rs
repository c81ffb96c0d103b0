//! The way of new entries into the store: one append at a time, everything that has come meanwhile in the next.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::{Journal, Verdict, full, signals};
use crate::{
    clock::Timestamp,
    store::Child,
    task::{Entry, EntryId, EntryKind, MAX_ENTRIES, Outcome},
};

/// An entry without its index.
pub(crate) struct Draft {
    pub(crate) id: EntryId,
    pub(crate) kind: EntryKind,
    pub(crate) outcome: Outcome,
    pub(crate) at: Timestamp,
    pub(crate) child: Option<Child>,
}

/// Where an execution's entries go.
#[async_trait]
pub(crate) trait Sink: Send + Sync + 'static {
    /// Stores entries with the children that are born with them; stays with it while the store does not answer. False if the task is no longer the
    /// execution's.
    async fn append(&self, entries: Vec<Entry>, children: Vec<Child>) -> bool;

    /// The epoch of the execution.
    fn epoch(&self) -> u64;
}

/// The index of an entry that was stored; none if the task is no longer the execution's, or the journal is full.
pub(crate) type Stored = Option<u64>;

/// Who waits for an entry.
enum Caller {
    /// Something that the agent's code does not see.
    AtOnce(oneshot::Sender<Stored>),
    /// The agent's code: it is told when it is the entry's turn.
    InTurn(oneshot::Sender<Stored>),
}

/// An entry that was stored, on its way to the agent's code.
pub(super) struct Delivered {
    pub(super) index: u64,
    pub(super) told: oneshot::Sender<Stored>,
    /// The signal that it is the receipt of.
    pub(super) signal: Option<(String, u64)>,
}

#[derive(Default)]
pub(super) struct State {
    waiting: Vec<(Draft, Vec<Caller>)>,
    /// Somebody waits for what is waiting.
    wanted: bool,
    running: bool,
    /// Nothing is stored any more: the task is another's, or the journal is full.
    closed: bool,
    full: bool,
    /// Who waits for the end of what is on its way.
    flushes: Vec<oneshot::Sender<bool>>,
}

impl State {
    /// Whether something is on its way that somebody waits for.
    pub(super) fn is_busy(&self) -> bool {
        self.running
    }

    fn close(&mut self) {
        (self.closed, self.running) = (true, false);
        self.waiting.clear();
        self.flushes.clear();
    }
}

impl Journal {
    /// Records what the agent's code is to see, on its way when this returns; the answer comes when it is stored and its turn has come. Where it comes never, or
    /// with none, the execution is over.
    pub(crate) fn send(self: &Arc<Self>, draft: Draft) -> oneshot::Receiver<Stored> {
        let (told, seen) = oneshot::channel();
        self.push(draft, vec![Caller::InTurn(told)]);
        seen
    }

    /// Records a beginning, which the agent's code does not see; returns when it is stored.
    pub(crate) async fn record_beginning(self: &Arc<Self>, draft: Draft) -> Stored {
        let (told, stored) = oneshot::channel();
        self.push(draft, vec![Caller::AtOnce(told)]);
        stored.await.ok().flatten()
    }

    /// Records a child, on its way when this returns: when it is stored, and when the agent's code may see it.
    pub(crate) fn send_child(self: &Arc<Self>, draft: Draft) -> [oneshot::Receiver<Stored>; 2] {
        let ((at_once, stored), (in_turn, seen)) = (oneshot::channel(), oneshot::channel());
        self.push(draft, vec![Caller::AtOnce(at_once), Caller::InTurn(in_turn)]);
        [stored, seen]
    }

    /// Keeps an entry that nothing depends on yet; it is stored with the next one, and before anything that could show it outside.
    pub(crate) fn keep(&self, draft: Draft) {
        self.lock().pump.waiting.push((draft, Vec::new()));
    }

    /// Stores what was kept; false if nothing is stored any more.
    pub(crate) async fn flush(self: &Arc<Self>) -> bool {
        let flushed = {
            let mut state = self.lock();
            let pump = &mut state.pump;
            if pump.closed {
                return false;
            }
            if pump.waiting.is_empty() && !pump.running {
                return true;
            }
            pump.wanted |= !pump.waiting.is_empty();
            let (done, flushed) = oneshot::channel();
            pump.flushes.push(done);
            self.start_pump(&mut state);
            flushed
        };
        flushed.await.unwrap_or(false)
    }

    /// Whether nothing is stored any more because there is no room.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().pump.full
    }

    fn push(self: &Arc<Self>, draft: Draft, callers: Vec<Caller>) {
        let mut state = self.lock();
        if state.pump.closed {
            return; // the callers see it
        }
        state.pump.waiting.push((draft, callers));
        state.pump.wanted = true;
        self.start_pump(&mut state);
    }

    fn start_pump(self: &Arc<Self>, state: &mut super::State) {
        if !std::mem::replace(&mut state.pump.running, true) {
            tokio::spawn(pump(Arc::clone(self)));
        }
    }

    /// What is to be stored next; none if nobody waits for anything, or there is no room.
    fn next_append(&self, sink: &dyn Sink) -> Option<Append> {
        let mut state = self.lock();
        let state = &mut *state;
        let flushes = std::mem::take(&mut state.pump.flushes);
        if !std::mem::take(&mut state.pump.wanted) {
            state.pump.running = false;
            // Who came after the last append was answered waits for nothing.
            flushes.into_iter().for_each(|caller| _ = caller.send(true));
            return None;
        }
        let mut append = Append { flushes, ..Append::default() };
        for (draft, callers) in std::mem::take(&mut state.pump.waiting) {
            let Draft { id, kind, outcome, at, child } = draft;
            let index = state.next;
            state.next += 1;
            let signal = signals::number(self.task, kind, &outcome).map(|number| (id.name.clone(), number));
            append.answers.extend(callers.into_iter().map(|caller| Answer { index, signal: signal.clone(), caller }));
            append.entries.push(Entry { index, id, kind, outcome, epoch: sink.epoch(), at });
            append.children.extend(child);
        }
        if state.next > MAX_ENTRIES {
            // Before those who wait learn that nothing was stored.
            state.verdict.get_or_insert(Verdict::Fail(full()));
            state.pump.full = true;
            state.pump.close();
            return None;
        }
        Some(append)
    }

    fn stored(&self, answers: Vec<Answer>) {
        let mut state = self.lock();
        for Answer { index, signal, caller } in answers {
            match caller {
                Caller::AtOnce(told) => _ = told.send(Some(index)),
                Caller::InTurn(told) => state.delivered.push_back(Delivered { index, told, signal }),
            }
        }
    }
}

#[derive(Default)]
struct Append {
    entries: Vec<Entry>,
    children: Vec<Child>,
    answers: Vec<Answer>,
    flushes: Vec<oneshot::Sender<bool>>,
}

/// Who is to hear that an entry is stored.
struct Answer {
    index: u64,
    /// Name and number of the signal that the entry received.
    signal: Option<(String, u64)>,
    caller: Caller,
}

/// Ends when there is nothing more; whoever comes later starts another.
async fn pump(journal: Arc<Journal>) {
    let Some(sink) = journal.sink.clone() else { return };
    while let Some(Append { entries, children, answers, flushes }) = journal.next_append(&*sink) {
        if !sink.append(entries, children).await {
            journal.lock().pump.close();
            return; // all callers see it
        }
        journal.stored(answers);
        flushes.into_iter().for_each(|caller| _ = caller.send(true));
        journal.poller.wake();
    }
    // Whoever waited for this may be gone; the execution looks whether all that is left is to wait.
    journal.poller.wake();
    journal.judged.notify_waiters();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{payload::Payload, task::TaskId};

    /// Stores nothing, at once.
    struct Nowhere;

    #[async_trait]
    impl Sink for Nowhere {
        async fn append(&self, _entries: Vec<Entry>, _children: Vec<Child>) -> bool {
            true
        }

        fn epoch(&self) -> u64 {
            1
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_flush_right_after_a_record_is_answered_whatever_the_pump_does_just_then() {
        for _ in 0..20 {
            let journal = Journal::new(Some(Arc::new(Nowhere)), TaskId::from_bytes([0; 16]), Vec::new(), 0);
            for occurrence in 0..2_000 {
                let id = EntryId { path: String::new(), name: "s".into(), occurrence };
                let outcome = Outcome::Done(Payload::null());
                let draft = Draft { id, kind: EntryKind::Step, outcome, at: Timestamp::default(), child: None };
                assert!(journal.record_beginning(draft).await.is_some() && journal.flush().await);
            }
        }
    }
}
