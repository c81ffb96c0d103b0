//! Which signals of a task its code has received: each once, whatever becomes of its journal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::sync::futures::Notified;

use super::Journal;
use crate::{
    clock::Timestamp,
    payload::Payload,
    task::{Entry, EntryId, EntryKind, Outcome, TaskId},
};

/// The branch of entries that no code asks for: what a journal took over from the one before it.
pub(super) const CARRIED_OVER: &str = "^";

/// How a wait for a signal ended: with the payload and the number of its name that came, or with neither.
#[derive(Serialize, Deserialize)]
pub(crate) struct Receipt {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<Payload>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) number: Option<u64>,
    /// Whose signal: the journal of a fork begins with receipts of another task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) task_id: Option<TaskId>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) timed_out: bool,
}

/// Signals of a name that earlier journals have received.
#[derive(Serialize, Deserialize)]
struct CarriedOver {
    /// All below this number.
    received: u64,
    /// And these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    beyond: Vec<u64>,
    task_id: TaskId,
}

/// The numbers of the signals that were received, by name, and how many receipts of each there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    names: BTreeMap<String, Numbers>,
}

#[derive(Clone, Debug, Default)]
struct Numbers {
    /// All below are received.
    floor: u64,
    beyond: BTreeMap<u64, u32>,
}

impl Numbers {
    fn add(&mut self, number: u64) {
        if number >= self.floor {
            *self.beyond.entry(number).or_default() += 1;
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(count) = self.beyond.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                self.beyond.remove(&number);
            }
        }
    }

    /// The least that was not received.
    fn next(&self) -> u64 {
        (self.floor..).find(|number| !self.beyond.contains_key(number)).unwrap_or(u64::MAX)
    }
}

impl Received {
    /// What the entries of a journal say about signals of `task`.
    pub(crate) fn of(task: TaskId, entries: &[Entry]) -> Self {
        let mut received = Self::default();
        for Entry { id, kind, outcome, .. } in entries {
            if id.path == CARRIED_OVER {
                if let Outcome::Done(payload) = outcome
                    && let Ok(CarriedOver { received: floor, beyond, task_id }) = payload.read()
                    && task_id == task
                {
                    let numbers = received.names.entry(id.name.clone()).or_default();
                    numbers.floor = floor;
                    beyond.into_iter().for_each(|number| numbers.add(number));
                }
            } else if let Some(number) = number(task, *kind, outcome) {
                received.names.entry(id.name.clone()).or_default().add(number);
            }
        }
        received
    }

    /// What the next journal of `task` begins with, so that nothing is received again.
    pub(crate) fn carried_over(&self, task_id: TaskId, epoch: u64, at: Timestamp) -> Vec<Entry> {
        let entry = |(name, numbers): (&String, &Numbers)| {
            let floor = numbers.next();
            let beyond: Vec<u64> = numbers.beyond.range(floor..).map(|(number, _)| *number).collect();
            if floor == 0 && beyond.is_empty() {
                return None;
            }
            let over = CarriedOver { received: floor, beyond, task_id };
            let id = EntryId { path: CARRIED_OVER.to_owned(), name: name.clone(), occurrence: 0 };
            let outcome = Outcome::Done(Payload::of(&over).unwrap_or_else(|_| Payload::null()));
            Some(Entry { index: 0, id, kind: EntryKind::Signal, outcome, epoch, at })
        };
        let entries = self.names.iter().filter_map(entry).zip(0..);
        entries.map(|(entry, index)| Entry { index, ..entry }).collect()
    }
}

/// The number of a signal of `task`, if this is the receipt of one.
pub(super) fn number(task: TaskId, kind: EntryKind, outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Done(payload) if kind == EntryKind::Signal => {
            let receipt: Receipt = payload.read().ok()?;
            receipt.number.filter(|_| receipt.task_id == Some(task))
        }
        _ => None,
    }
}

impl super::State {
    /// The code never saw this receipt, for its branch was dropped: the signal is there for others.
    pub(super) fn unseen(&mut self, name: &str, number: u64) {
        if let Some(numbers) = self.received.names.get_mut(name) {
            numbers.remove(number);
        }
    }
}

impl Journal {
    /// The number of the next signal of `name` that was not received yet; it counts as received from now on.
    pub(crate) fn take_signal_number(&self, name: &str) -> u64 {
        let mut state = self.lock();
        let numbers = state.received.names.entry(name.to_owned()).or_default();
        let free = numbers.next();
        numbers.add(free);
        free
    }

    /// It was not received after all.
    pub(crate) fn give_signal_number_back(&self, name: &str, number: u64) {
        self.lock().unseen(name, number);
    }

    /// The next time that a signal which a branch had taken is there for others.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Tells those who wait for signals that one which was taken is there for them.
    pub(crate) fn free(&self) {
        self.freed.notify_waiters();
    }

    /// What the task's next journal begins with when it continues as new.
    pub(crate) fn carried_over(&self, epoch: u64, at: Timestamp) -> Vec<Entry> {
        self.lock().received.carried_over(self.task, epoch, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(byte: u8) -> TaskId {
        TaskId::from_bytes([byte; 16])
    }

    fn receipt(task: TaskId, number: u64) -> Entry {
        let receipt =
            Receipt { signal: Some(Payload::null()), number: Some(number), task_id: Some(task), timed_out: false };
        let id = EntryId { path: String::new(), name: "go".into(), occurrence: 0 };
        let outcome = Outcome::Done(Payload::of(&receipt).unwrap_or_else(|_| Payload::null()));
        Entry { index: 0, id, kind: EntryKind::Signal, outcome, epoch: 1, at: Timestamp::default() }
    }

    #[test]
    fn what_was_received_out_of_order_is_not_received_again_after_continuing() {
        let (own, other) = (task(7), task(8));
        let received = Received::of(own, &[receipt(own, 0), receipt(own, 2), receipt(other, 1)]);
        let next = Received::of(own, &received.carried_over(own, 3, Timestamp::default()));
        let journal = Journal::new(None, own, next.carried_over(own, 4, Timestamp::default()), 0);
        assert_eq!([journal.take_signal_number("go"), journal.take_signal_number("go")], [1, 3]);
        journal.give_signal_number_back("go", 1);
        assert_eq!((journal.take_signal_number("go"), journal.take_signal_number("other")), (1, 0));
        let fork = Journal::new(None, other, received.carried_over(own, 3, Timestamp::default()), 0);
        assert_eq!(fork.take_signal_number("go"), 0, "what another task received says nothing");
    }
}
