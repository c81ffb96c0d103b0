//! Bugs of a store, planted to see that the simulation catches them. The checker sees what such a store has done, not what it was asked for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sutazai_core::{
    memory::MemoryTaskStore,
    store::{TaskStore, TaskWrite, WriteOutcome},
    task::{Revision, Task, TaskId, Wait},
};
use tokio::time::Instant;

use crate::{check::now, rule::Rule};

/// What a store may get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A journal grows by the entries of a writer that has lost its task.
    StaleEpoch,
    /// An end is accepted whoever holds the task.
    FinishWithoutFence,
    /// What came between a task's last look and its suspension wakes nobody, and no poll finds the task.
    LostWakeUp,
    /// Of two writes with one key within a moment both are accepted.
    KeyRace,
    /// The key of a schedule's firing is forgotten.
    DoubleFiring,
}

impl Bug {
    pub const ALL: [Self; 5] =
        [Self::StaleEpoch, Self::FinishWithoutFence, Self::LostWakeUp, Self::KeyRace, Self::DoubleFiring];

    /// The rule that it breaks.
    pub fn breaks(self) -> Rule {
        match self {
            Self::StaleEpoch | Self::FinishWithoutFence => Rule::Fenced,
            Self::LostWakeUp => Rule::Kept,
            Self::KeyRace | Self::DoubleFiring => Rule::Unique,
        }
    }
}

/// How long a key of a racing store is not seen by others.
const MOMENT: Duration = Duration::from_millis(100);

/// A store with a bug in its writes.
#[derive(Default)]
pub struct Buggy {
    keys: BTreeMap<Arc<str>, Instant>,
}

impl Buggy {
    /// Writes one by one, each in the way of the bug; what was written instead, and what it says became of it.
    pub fn write(
        &mut self,
        bug: Bug,
        store: &MemoryTaskStore,
        batch: &[TaskWrite],
    ) -> (Vec<TaskWrite>, Vec<WriteOutcome>) {
        let (mut writes, mut outcomes) = (Vec::new(), Vec::new());
        for write in batch {
            let mut write = self.before(bug, store, write.clone());
            let mut outcome = one(store, &write);
            if outcome == WriteOutcome::Stale
                && let Some(forged) = forged(bug, store, &write)
            {
                outcome = one(store, &forged);
                write = forged;
            }
            writes.push(write);
            outcomes.push(outcome);
        }
        (writes, outcomes)
    }

    fn before(&mut self, bug: Bug, store: &MemoryTaskStore, mut write: TaskWrite) -> TaskWrite {
        if let TaskWrite::Update { task, .. } = &mut write
            && bug == Bug::LostWakeUp
            && task.wait == Some(Wait::Event)
            && let Some(stored) = stored(store, task.id)
        {
            Arc::make_mut(task).wakes = stored.wakes;
        }
        if let TaskWrite::Insert { key, .. } = &mut write
            && let Some(used) = key.clone()
        {
            let first = *self.keys.entry(Arc::clone(&used.key)).or_insert_with(Instant::now);
            let forgotten = match bug {
                Bug::KeyRace => !used.key.starts_with("schedule ") && first.elapsed() < MOMENT,
                Bug::DoubleFiring => used.key.starts_with("schedule "),
                _ => false,
            };
            if forgotten {
                *key = None;
            }
        }
        write
    }
}

fn one(store: &MemoryTaskStore, write: &TaskWrite) -> WriteOutcome {
    now(store.write(std::slice::from_ref(write))).remove(0)
}

fn stored(store: &MemoryTaskStore, id: TaskId) -> Option<Task> {
    now(store.load(&[id])).remove(0)
}

/// The write as it would be if the fence were not there.
fn forged(bug: Bug, store: &MemoryTaskStore, write: &TaskWrite) -> Option<TaskWrite> {
    let task = stored(store, write.id())?;
    match (bug, write) {
        (Bug::StaleEpoch, TaskWrite::Append { task: id, era, entries, children, epoch }) => {
            let length = now(store.journal(*id, *era, 0, usize::MAX)).len() as u64;
            let mut entries = entries.clone();
            for (index, entry) in (length..).zip(&mut entries) {
                entry.index = index;
            }
            let stale = task.revision.epoch > *epoch && !task.state.is_terminal();
            let epoch = task.revision.epoch;
            stale.then(|| TaskWrite::Append { task: *id, era: *era, entries, children: children.clone(), epoch })
        }
        (Bug::FinishWithoutFence, TaskWrite::Update { task: image, events, entries, key, .. }) => {
            let ends = events.last().is_some_and(|event| event.kind.is_terminal());
            let stale = ends && task.revision.epoch >= image.revision.epoch;
            let expected = task.revision;
            let mut image = Task::clone(image);
            let mut events = events.clone();
            for (seq, event) in (expected.seq + 1..).zip(&mut events) {
                event.seq = seq;
            }
            image.revision = Revision { epoch: expected.epoch + 1, seq: expected.seq + events.len() as u64 };
            let (task, entries, key) = (Arc::new(image), entries.clone(), key.clone());
            stale.then_some(TaskWrite::Update { task, expected, events, entries, key })
        }
        _ => None,
    }
}
