//! The way of new entries into the store: one append at a time, everything that has come meanwhile in the next.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::{Journal, Verdict, full};
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

/// Whether an entry was stored; false if the task is no longer the execution's.
pub(crate) type Stored = bool;

#[derive(Default)]
pub(super) struct State {
    waiting: Vec<(Draft, Vec<oneshot::Sender<Stored>>)>,
    running: bool,
    /// Who waits for the append that is on its way, without an entry in it.
    behind: Vec<oneshot::Sender<Stored>>,
}

impl State {
    /// Whether something is on its way that somebody waits for.
    pub(super) fn is_busy(&self) -> bool {
        self.running
    }
}

impl Journal {
    /// Records an entry and waits until it is stored. When this returns false, or never, the execution is over.
    pub(crate) async fn record(self: &Arc<Self>, draft: Draft) -> Stored {
        let stored = self.send(draft);
        stored.await.unwrap_or(false)
    }

    /// Hands an entry over for recording; it is on its way when this returns.
    pub(crate) fn send(self: &Arc<Self>, draft: Draft) -> oneshot::Receiver<Stored> {
        let (done, stored) = oneshot::channel();
        let mut state = self.lock();
        state.pump.waiting.push((draft, vec![done]));
        self.start_pump(&mut state);
        stored
    }

    /// Keeps an entry that nothing depends on yet; it is stored with the next one, and before anything that could show it outside.
    pub(crate) fn keep(&self, draft: Draft) {
        self.lock().pump.waiting.push((draft, Vec::new()));
    }

    /// Stores what was kept; false if the execution is over.
    pub(crate) async fn flush(self: &Arc<Self>) -> Stored {
        let stored = {
            let mut state = self.lock();
            let (done, stored) = oneshot::channel();
            let pump = &mut state.pump;
            match pump.waiting.last_mut() {
                Some((_, callers)) => callers.push(done),
                None if pump.running => pump.behind.push(done),
                None => return true,
            }
            self.start_pump(&mut state);
            stored
        };
        stored.await.unwrap_or(false)
    }

    fn start_pump(self: &Arc<Self>, state: &mut super::State) {
        if !std::mem::replace(&mut state.pump.running, true) {
            tokio::spawn(pump(Arc::clone(self)));
        }
    }
}

/// Ends when there is nothing more; whoever comes later starts another.
async fn pump(journal: Arc<Journal>) {
    let Some(sink) = journal.sink.clone() else { return };
    loop {
        let (mut entries, mut children, mut callers) = (Vec::new(), Vec::new(), Vec::new());
        {
            let mut state = journal.lock();
            if state.pump.waiting.iter().all(|(_, done)| done.is_empty()) {
                state.pump.running = false;
                // Who came after the last append was answered waits for nothing.
                let behind = std::mem::take(&mut state.pump.behind);
                drop(state);
                behind.into_iter().for_each(|caller| _ = caller.send(true));
                // Whoever waited for this may be gone; the execution looks whether all that is left is to wait.
                journal.judged.notify_waiters();
                return;
            }
            for (draft, done) in std::mem::take(&mut state.pump.waiting) {
                let Draft { id, kind, outcome, at, child } = draft;
                entries.push(Entry { index: state.next, id, kind, outcome, epoch: sink.epoch(), at });
                children.extend(child);
                callers.extend(done);
                state.next += 1;
            }
            if state.next > MAX_ENTRIES {
                drop(state);
                journal.judge(Verdict::Fail(full()));
                return;
            }
        }
        let stored = sink.append(entries, children).await;
        callers.append(&mut journal.lock().pump.behind);
        for caller in callers {
            let _ = caller.send(stored);
        }
        if !stored {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Payload;

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
            let journal = Journal::new(Some(Arc::new(Nowhere)), Vec::new(), 0);
            for occurrence in 0..2_000 {
                let id = EntryId { path: String::new(), name: "s".into(), occurrence };
                let outcome = Outcome::Done(Payload::null());
                let draft = Draft { id, kind: EntryKind::Step, outcome, at: Timestamp::default(), child: None };
                assert!(journal.record(draft).await && journal.flush().await);
            }
        }
    }
}
