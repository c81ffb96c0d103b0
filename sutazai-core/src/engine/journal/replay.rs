//! What was recorded, and how code gets to see it again.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::oneshot;

use super::{CARRIED_OVER, Journal, State, Verdict, describe, settles};
use crate::{
    payload::Payload,
    task::{Entry, EntryId, EntryKind, Outcome, TaskError, WaitReason},
};

/// What is recorded of one entry.
pub(super) struct Recorded {
    pub(super) kind: EntryKind,
    open: Option<(u64, Payload)>,
    outcome: Option<(u64, Outcome)>,
}

impl Recorded {
    fn first(&self) -> Option<u64> {
        [self.open.as_ref().map(|(index, _)| *index), self.outcome.as_ref().map(|(index, _)| *index)]
            .into_iter()
            .flatten()
            .min()
    }
}

/// What is known of an entry that the code asks for.
#[derive(Debug)]
pub(crate) enum Begun {
    /// Nothing: it happens now.
    New,
    /// It has begun, with this and at this index, and its outcome is not recorded.
    Open(u64, Payload),
    /// Its outcome is recorded; with what it began, if that was. [`Journal::outcome`] gives it.
    Recorded(Option<Payload>),
}

/// What a look for an entry found.
enum Look {
    Begun(Begun),
    /// Nothing, and its branch has not caught up.
    Fresh(oneshot::Receiver<()>),
    /// An entry of another kind.
    Another(String),
}

impl State {
    /// Sorts what is stored: failures of earlier attempts and what was retracted do not count.
    pub(super) fn take_in(&mut self, entries: Vec<Entry>, attempt_epoch: u64) {
        let mut dropped: Option<u64> = None;
        let mut recorded: BTreeMap<EntryId, Recorded> = BTreeMap::new();
        for entry in entries {
            if entry.id.path == CARRIED_OVER {
                if let Outcome::Done(payload) = &entry.outcome
                    && let Ok(CarriedOver { received }) = payload.read()
                {
                    self.received.entry(entry.id.name).or_default().extend(0..received);
                }
                continue;
            }
            let stale = matches!(&entry.outcome, Outcome::Failed(_) if entry.epoch < attempt_epoch);
            if stale || entry.outcome == Outcome::Retracted {
                // With all that was recorded of it: what came after its beginning may come in another way now.
                let first = recorded.remove(&entry.id).and_then(|known| known.first()).unwrap_or(entry.index);
                dropped = Some(dropped.map_or(first, |dropped| dropped.min(first)));
                continue;
            }
            if entry.kind == EntryKind::Signal
                && let Outcome::Done(payload) = &entry.outcome
                && let Ok(Received { number: Some(number) }) = payload.read()
            {
                self.received.entry(entry.id.name.clone()).or_default().insert(number);
            }
            let known = recorded.entry(entry.id).or_insert(Recorded { kind: entry.kind, open: None, outcome: None });
            known.kind = entry.kind;
            match entry.outcome {
                Outcome::Open(payload) => {
                    known.open = Some((entry.index, payload));
                    known.outcome = None;
                }
                outcome if settles(&outcome) => known.outcome = Some((entry.index, outcome)),
                _ => {}
            }
        }
        for (id, known) in &recorded {
            // After a failure that does not count any more the code may go another way, and rightly so.
            if let Some(first) = known.first().filter(|first| dropped.is_none_or(|dropped| *first < dropped)) {
                self.unasked.entry(id.path.clone()).or_default().insert(first, id.clone());
            }
        }
        self.recorded = recorded;
    }

    /// Whether the code of a branch has asked for all that was recorded in it.
    fn caught_up(&self, path: &str) -> bool {
        self.unasked.get(path).is_none_or(BTreeMap::is_empty)
    }
}

/// How many signals of a name an earlier journal has received.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct CarriedOver {
    pub(super) received: u64,
}

/// What a receipt of a signal says about which one it was.
#[derive(serde::Deserialize)]
struct Received {
    number: Option<u64>,
}

impl Journal {
    /// Names the next entry of a branch and says what is known of it. Returns once that may be known: what is not recorded waits until its branch has caught
    /// up. Where the code does not fit the journal this never returns, and the execution has a verdict.
    pub(crate) async fn begin(&self, path: &Arc<str>, kind: EntryKind, name: &str) -> (EntryId, Begun) {
        let id = self.name(path, name);
        match self.look(kind, &id) {
            Look::Begun(begun) => return (id, begun),
            Look::Fresh(gone) => {
                if gone.await.is_ok() {
                    return (id, Begun::New);
                }
            }
            Look::Another(message) => self.diverge(message),
        }
        std::future::pending().await
    }

    fn look(&self, kind: EntryKind, id: &EntryId) -> Look {
        let mut state = self.lock();
        let caught_up = state.open && state.caught_up(&id.path);
        let Some(known) = state.recorded.get(id) else {
            if caught_up && !self.is_replay() {
                return Look::Begun(Begun::New);
            }
            let (go, gone) = oneshot::channel();
            state.fresh.push((id.clone(), go));
            return Look::Fresh(gone);
        };
        let first = known.first().unwrap_or_default();
        if known.kind != kind {
            let recorded = known.kind.as_str();
            return Look::Another(format!(
                "the code asks for {} where entry {first} of its journal is a {recorded}",
                describe(kind, id)
            ));
        }
        let begun = match (&known.open, &known.outcome) {
            (open, Some(_)) => Begun::Recorded(open.as_ref().map(|(_, payload)| payload.clone())),
            (Some((index, payload)), None) => Begun::Open(*index, payload.clone()),
            (None, None) => Begun::New,
        };
        if let Some(left) = state.unasked.get_mut(&id.path) {
            left.remove(&first);
        }
        Look::Begun(begun)
    }

    /// What kind of entry is recorded under this name.
    pub(crate) fn kind_of(&self, id: &EntryId) -> EntryKind {
        self.lock().recorded.get(id).map_or(EntryKind::Step, |known| known.kind)
    }

    /// Whether an entry's outcome is recorded; none if the entry is not.
    pub(crate) fn state_of(&self, id: &EntryId) -> Option<bool> {
        self.lock().recorded.get(id).map(|known| known.outcome.is_some())
    }

    /// Whether the code of a branch is still where it was before: something recorded is to come.
    pub(crate) fn is_behind(&self, path: &str) -> bool {
        !self.lock().caught_up(path)
    }

    /// Whether an entry of this name would be found next.
    pub(crate) fn is_recorded(&self, path: &Arc<str>, name: &str) -> bool {
        let state = self.lock();
        let occurrence = state.occurrences.get(&(Arc::clone(path), name.to_owned())).copied().unwrap_or(0);
        state.recorded.contains_key(&EntryId { path: path.to_string(), name: name.to_owned(), occurrence })
    }

    fn name(&self, path: &Arc<str>, name: &str) -> EntryId {
        let mut state = self.lock();
        let count = state.occurrences.entry((Arc::clone(path), name.to_owned())).or_insert(0);
        let id = EntryId { path: path.to_string(), name: name.to_owned(), occurrence: *count };
        *count += 1;
        id
    }

    /// The recorded outcome of an entry, when it is its turn to be seen.
    pub(crate) async fn outcome(&self, id: &EntryId) -> Outcome {
        let Some((turn, outcome)) = self.ask(id) else {
            return std::future::pending().await; // it was said to be recorded: cannot be
        };
        // Whoever drops the sender replaces this very question: then it is as good as answered.
        let _ = turn.await;
        outcome
    }

    fn ask(&self, id: &EntryId) -> Option<(oneshot::Receiver<()>, Outcome)> {
        let mut state = self.lock();
        let (index, outcome) = state.recorded.get(id)?.outcome.clone()?;
        let (reveal, turn) = oneshot::channel();
        state.asked.insert(index, reveal);
        Some((turn, outcome))
    }

    /// Called when the agent's code has nothing to do: reveals the next recorded outcome, or lets what is new go live. True if the code must be polled again.
    pub(crate) fn advance(&self) -> bool {
        let diverged = {
            let mut state = self.lock();
            while let Some((_, reveal)) = state.asked.pop_first() {
                // A branch that was dropped meanwhile sees nothing, and the next one is due.
                if reveal.send(()).is_ok() {
                    return true;
                }
            }
            if !state.open || state.fresh.is_empty() {
                return false;
            }
            state.fresh.retain(|(_, go)| !go.is_closed());
            let (ready, behind): (Vec<_>, Vec<_>) =
                std::mem::take(&mut state.fresh).into_iter().partition(|(id, _)| state.caught_up(&id.path));
            state.fresh = behind;
            if self.is_replay() && !ready.is_empty() {
                Some(ready.into_iter().map(|(id, _)| id).next().map(|id| (id, None)))
            } else if !ready.is_empty() {
                let mut gone = false;
                for (_, go) in ready {
                    gone |= go.send(()).is_ok();
                }
                return gone;
            } else if state.live > 0 || !state.waits.is_empty() || state.pump.is_busy() {
                None // what is under way in the branch may come to ask for the rest
            } else {
                Some(state.fresh.first().map(|(id, _)| {
                    let left = state.unasked.get(&id.path).and_then(|left| left.first_key_value());
                    (id.clone(), left.map(|(index, left)| (*index, left.clone())))
                }))
            }
        };
        if let Some(Some((id, left))) = diverged {
            let found = match left {
                Some((index, left)) => {
                    format!("entry {index} of its journal is {:?} (number {})", left.name, left.occurrence)
                }
                None => "its journal ends".to_owned(),
            };
            self.diverge(format!("the code asks for {:?} (number {}) where {found}", id.name, id.occurrence));
        }
        false
    }

    /// The code is not the code that wrote the journal.
    pub(crate) fn diverge(&self, message: String) {
        self.judge(Verdict::Halt {
            reason: WaitReason::NonDeterminism,
            error: TaskError::new("non_determinism", message),
        });
    }
}
