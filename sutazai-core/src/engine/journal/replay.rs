//! What was recorded, and how code gets to see it again.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::oneshot;

use super::{
    Journal, State, Verdict, describe,
    pump::Delivered,
    settles,
    signals::{self, CARRIED_OVER},
};
use crate::{
    payload::Payload,
    task::{Entry, EntryId, EntryKind, Outcome, TaskError, WaitReason},
};

/// What the names of the entries of `patched` begin with.
pub(crate) const PATCHED: &str = "patched:";

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
    /// Its outcome is recorded; with where and with what it began, if that was. [`Journal::outcome`] gives it.
    Recorded(Option<(u64, Payload)>),
}

/// What a look for an entry found.
enum Look {
    Begun(Begun),
    /// This, which must not go on yet.
    Later(Begun, oneshot::Receiver<()>),
    /// An entry of another kind.
    Another(String),
}

/// A recorded outcome that was asked for.
pub(super) struct Asked {
    id: EntryId,
    reveal: oneshot::Sender<()>,
}

/// Something that was asked for and has no outcome, until it may go live.
pub(super) struct Fresh {
    kind: EntryKind,
    id: EntryId,
    /// The index of its beginning, if that is recorded.
    begun: Option<u64>,
    go: oneshot::Sender<()>,
}

impl State {
    /// Sorts what is stored: failures of earlier attempts and what was retracted do not count.
    pub(super) fn take_in(&mut self, entries: Vec<Entry>, attempt_epoch: u64) {
        self.since = entries.iter().find(|entry| entry.epoch >= attempt_epoch).map_or(self.next, |entry| entry.index);
        let mut dropped: Option<u64> = None;
        let mut recorded: BTreeMap<EntryId, Recorded> = BTreeMap::new();
        for entry in entries {
            if entry.id.path == CARRIED_OVER {
                continue;
            }
            let stale = matches!(&entry.outcome, Outcome::Failed(_) if entry.epoch < attempt_epoch);
            if stale || entry.outcome == Outcome::Retracted {
                // With all that was recorded of it: what came after its beginning may come in another way now.
                let first = recorded.remove(&entry.id).and_then(|known| known.first()).unwrap_or(entry.index);
                dropped = Some(dropped.map_or(first, |dropped| dropped.min(first)));
                continue;
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
            let Some(first) = known.first() else { continue };
            // A child is seen when it is born and when it ends.
            let born = known.open.as_ref().map(|(index, _)| *index).filter(|_| known.kind == EntryKind::Child);
            self.hidden.extend(born.into_iter().chain(known.outcome.as_ref().map(|(index, _)| *index)));
            if known.kind == EntryKind::Step && id.name.starts_with(PATCHED) {
                self.patches.insert(id.name.clone(), (true, Some((first, id.clone()))));
            }
            // After a failure that does not count any more the code may go another way, and rightly so.
            if dropped.is_none_or(|dropped| first < dropped) {
                self.unasked.entry(id.path.clone()).or_default().insert(first, id.clone());
            }
        }
        self.recorded = recorded;
    }

    /// Whether the code of a branch has asked for all that was recorded in it.
    fn caught_up(&self, path: &str) -> bool {
        self.unasked.get(path).is_none_or(BTreeMap::is_empty)
    }

    /// Whether a branch, or one that it has begun, does something now.
    fn moves(&self, path: &str) -> bool {
        let within = |other: &str| {
            other.strip_prefix(path).is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with('/'))
        };
        self.live.keys().any(|other| within(other)) || self.waits.values().any(|(_, _, other)| within(other))
    }

    /// What an entry is that the code was to ask for.
    fn described(&self, index: u64, id: &EntryId) -> String {
        let kind = self.recorded.get(id).map_or(EntryKind::Step, |known| known.kind);
        format!("entry {index} of its journal is {}", describe(kind, id))
    }
}

impl Journal {
    /// Names the next entry of a branch and says what is known of it. What has no outcome yet is told only when it may go on: when no recorded outcome is left
    /// to be revealed and, if nothing is known of it, its branch has caught up. Where the code does not fit the journal this never returns, and the execution
    /// has a verdict.
    pub(crate) async fn begin(&self, path: &Arc<str>, kind: EntryKind, name: &str) -> (EntryId, Begun) {
        self.began(path, kind, name, false).await
    }

    /// Like [`Journal::begin`], for a value that is drawn at once: its code never waits for it, neither now nor when it runs again.
    pub(crate) async fn begin_noted(&self, path: &Arc<str>, name: &str) -> (EntryId, Begun) {
        self.began(path, EntryKind::Step, name, true).await
    }

    async fn began(&self, path: &Arc<str>, kind: EntryKind, name: &str, noted: bool) -> (EntryId, Begun) {
        let id = self.name(path, name);
        match self.look(kind, &id, noted) {
            Look::Begun(begun) => return (id, begun),
            Look::Later(begun, gone) => {
                if gone.await.is_ok() {
                    return (id, begun);
                }
            }
            Look::Another(message) => self.diverge(message),
        }
        std::future::pending().await
    }

    fn look(&self, kind: EntryKind, id: &EntryId, noted: bool) -> Look {
        let mut state = self.lock();
        let state = &mut *state;
        let may_act = state.open && !self.is_replay();
        let Some(known) = state.recorded.get(id) else {
            if may_act && (noted || state.hidden.is_empty()) && state.caught_up(&id.path) {
                return Look::Begun(Begun::New);
            }
            return Look::Later(Begun::New, state.later(kind, id, None));
        };
        let first = known.first().unwrap_or_default();
        if known.kind != kind {
            let recorded = known.kind.as_str();
            return Look::Another(format!(
                "the code asks for {} where entry {first} of its journal is a {recorded}",
                describe(kind, id)
            ));
        }
        if let Some(left) = state.unasked.get_mut(&id.path) {
            left.remove(&first);
        }
        match (&known.open, &known.outcome) {
            (open, Some(_)) => Look::Begun(Begun::Recorded(open.clone())),
            (Some((index, payload)), None) => {
                let begun = Begun::Open(*index, payload.clone());
                // That it was born is an outcome of its own, and its end is waited for elsewhere.
                if kind == EntryKind::Child || (may_act && state.hidden.is_empty()) {
                    return Look::Begun(begun);
                }
                Look::Later(begun, state.later(kind, id, Some(first)))
            }
            (None, None) => Look::Later(Begun::New, state.later(kind, id, None)),
        }
    }

    /// Returns when what was begun at this index may go on: when no recorded outcome is left to be revealed.
    pub(crate) async fn may_go_on(&self, kind: EntryKind, id: &EntryId, begun: u64) {
        let gone = {
            let mut state = self.lock();
            if state.open && !self.is_replay() && state.hidden.is_empty() {
                return;
            }
            state.later(kind, id, Some(begun))
        };
        if gone.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What kind of entry is recorded under this name.
    pub(crate) fn kind_of(&self, id: &EntryId) -> EntryKind {
        self.lock().recorded.get(id).map_or(EntryKind::Step, |known| known.kind)
    }

    /// The answer of `patched`, by the name of its entry: the first one holds, and is false for code that was past this place before there was such an entry.
    /// None if this is to be recorded now, as true.
    pub(crate) fn patch(&self, path: &str, name: &str) -> Option<bool> {
        let mut state = self.lock();
        if let Some((answer, entry)) = state.patches.get_mut(name) {
            let (answer, entry) = (*answer, entry.take());
            if let Some((index, id)) = entry {
                state.hidden.remove(&index);
                state.unasked.get_mut(&id.path).and_then(|left| left.remove(&index));
            }
            return Some(answer);
        }
        let new = {
            let branches = path.match_indices('/').map(|(end, _)| &path[..end]).chain(["", path]);
            let mut left = branches.filter_map(|branch| state.unasked.get(branch)).flat_map(BTreeMap::values);
            left.all(|id| id.name.starts_with(PATCHED))
        };
        state.patches.insert(name.to_owned(), (new, None));
        (!new).then_some(false)
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
        let outcome = self.lock().recorded.get(id).and_then(|known| known.outcome.clone());
        let Some((index, outcome)) = outcome else {
            return std::future::pending().await; // it was said to be recorded: cannot be
        };
        self.turn(index, id).await;
        outcome
    }

    /// The recorded outcome of what was drawn at once.
    pub(crate) fn noted(&self, id: &EntryId) -> Option<Outcome> {
        let mut state = self.lock();
        let (index, outcome) = state.recorded.get(id)?.outcome.clone()?;
        state.hidden.remove(&index);
        Some(outcome)
    }

    /// Returns when what is recorded at this index is to be seen.
    pub(crate) async fn turn(&self, index: u64, id: &EntryId) {
        let turn = {
            let (reveal, turn) = oneshot::channel();
            let mut state = self.lock();
            if !state.hidden.contains(&index) {
                return;
            }
            state.asked.insert(index, Asked { id: id.clone(), reveal });
            turn
        };
        // Whoever drops the sender replaces this very question: then it is as good as answered.
        let _ = turn.await;
    }

    /// Called when the agent's code has nothing to do: reveals the next outcome, or lets what has none go live. True if the code must be polled again.
    pub(crate) fn advance(&self) -> bool {
        let verdict = {
            let mut state = self.lock();
            let state = &mut *state;
            if state.reveal(self) {
                return true;
            }
            state.fresh.retain(|fresh| !fresh.go.is_closed());
            if !state.open || state.fresh.is_empty() {
                return false;
            }
            let (ready, behind): (Vec<_>, Vec<_>) = std::mem::take(&mut state.fresh)
                .into_iter()
                .partition(|fresh| fresh.begun.is_some() || state.caught_up(&fresh.id.path));
            if !self.is_replay() && !ready.is_empty() {
                state.fresh = behind;
                // All of them were asked for and not dropped.
                let mut gone = false;
                for fresh in ready {
                    gone |= fresh.go.send(()).is_ok();
                }
                return gone;
            }
            // What its branch does meanwhile may come to ask for the rest.
            let lost = behind.iter().find(|fresh| !state.pump.is_busy() && !state.moves(&fresh.id.path));
            let verdict = if let Some(Fresh { kind, id, .. }) = lost {
                let left = state.unasked.get(&id.path).and_then(|left| left.first_key_value());
                let left = left.map(|(index, left)| state.described(*index, left)).unwrap_or_default();
                Some(non_determinism(format!("the code asks for {} where {left}", describe(*kind, id))))
            } else {
                ready.first().map(|Fresh { kind, id, begun, .. }| {
                    let what = describe(*kind, id);
                    Verdict::Beyond(match begun {
                        Some(index) => {
                            format!("the code waits for {what}, entry {index}, whose outcome was not recorded")
                        }
                        None => format!("the code asks for {what} where its journal ends"),
                    })
                })
            };
            state.fresh = behind;
            state.fresh.extend(ready);
            verdict
        };
        if let Some(verdict) = verdict {
            self.judge(verdict);
        }
        false
    }

    /// The code is not the code that wrote the journal.
    pub(crate) fn diverge(&self, message: String) {
        self.judge(non_determinism(message));
    }

    /// The code goes on without ever having asked for this.
    pub(crate) fn skipped(&self, what: &str, (index, id): (u64, EntryId)) -> Verdict {
        let left = self.lock().described(index, &id);
        non_determinism(format!("the code {what} and has not asked for what is recorded: {left}"))
    }
}

impl State {
    /// Asks for leave to go on.
    fn later(&mut self, kind: EntryKind, id: &EntryId, begun: Option<u64>) -> oneshot::Receiver<()> {
        let (go, gone) = oneshot::channel();
        self.fresh.push(Fresh { kind, id: id.clone(), begun, go });
        gone
    }

    /// Reveals the next outcome to the code that has asked for it; false if there is none.
    fn reveal(&mut self, journal: &Journal) -> bool {
        loop {
            // A branch that was dropped meanwhile sees nothing, and the next one is due.
            let signal = if let Some((index, Asked { id, reveal })) = self.asked.pop_first() {
                self.hidden.remove(&index);
                if reveal.send(()).is_ok() {
                    return true;
                }
                let known = self.recorded.get(&id);
                let outcome = known.and_then(|known| known.outcome.as_ref().map(|(_, outcome)| (known.kind, outcome)));
                outcome
                    .and_then(|(kind, outcome)| signals::number(journal.task, kind, outcome))
                    .map(|number| (id.name, number))
            } else if let Some(Delivered { index, told, signal }) = self.delivered.pop_front() {
                if told.send(Some(index)).is_ok() {
                    return true;
                }
                signal
            } else {
                return false;
            };
            if let Some((name, number)) = signal {
                self.unseen(&name, number);
                journal.free();
            }
        }
    }
}

/// The code is not the code that wrote the journal.
fn non_determinism(message: String) -> Verdict {
    Verdict::Halt { reason: WaitReason::NonDeterminism, error: TaskError::new("non_determinism", message) }
}
