//! What is written to a task store, and what becomes of it.

use std::sync::Arc;

use crate::task::{Entry, Event, EventKind, IdempotencyKey, Outcome, Revision, Signal, Task, TaskId};

/// One write of a batch. The engine makes it with the pure transition function; a store only keeps it.
///
/// Each is stored whole or not at all. A write that ends a task with a parent *wakes* that parent in the same commit, and a signal wakes its task: `wakes`
/// grows by one, and if the task waits for an [event](crate::task::Wait::Event), it becomes due at the moment of the write, unless it is due before.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskWrite {
    /// A new task, in whatever state it has reached, with all its events so far.
    Insert {
        /// The task.
        task: Arc<Task>,
        /// Its events, from number 1.
        events: Vec<Event>,
        /// Makes a repetition return the first task instead.
        key: Option<IdempotencyKey>,
        /// What its journal begins with.
        journal: Option<JournalCopy>,
    },
    /// The next image of a task that exists.
    Update {
        /// The task after the transition; `id`, `agent`, `agent_version`, `created_at`, `labels`, `tenant`, `parent_id`, `detached` and `webhook` never change,
        /// `input` only with an event that says so ([`TaskWrite::changes_input`]). `wakes` is what the engine has seen: the stored one stays, and where it
        /// differs and the task now waits for an event, the task is due at the moment of the last event instead.
        task: Arc<Task>,
        /// The revision that the transition started from.
        expected: Revision,
        /// The events from `expected.seq + 1` on.
        events: Vec<Event>,
        /// What its journal grows by.
        entries: Vec<Entry>,
        /// Makes a repetition return the task as it then is, and change nothing.
        key: Option<IdempotencyKey>,
    },
    /// More of the journal of a task that is being executed. Its revision stays.
    Append {
        /// The task.
        task: TaskId,
        /// The epoch of the writer: refused as stale unless it is the task's.
        epoch: u64,
        /// The journal.
        era: u32,
        /// The entries, at the indexes where the journal ends.
        entries: Vec<Entry>,
        /// Tasks that are born with these entries.
        children: Vec<Child>,
    },
    /// Something a task is told. Refused as stale if the task does not exist or has ended.
    Signal {
        /// The task.
        task: TaskId,
        /// What it is told.
        signal: Signal,
        /// Makes a repetition tell it nothing.
        key: Option<IdempotencyKey>,
    },
}

/// A task that is born with an entry of its parent's journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// The task.
    pub task: Arc<Task>,
    /// Its events so far.
    pub events: Vec<Event>,
}

/// The beginning of another task's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalCopy {
    /// Whose journal.
    pub from: TaskId,
    /// Which of its journals.
    pub era: u32,
    /// Entries before this index are copied; their indexes, branches and epochs stay.
    pub before: u64,
}

impl TaskWrite {
    /// The task that is written.
    #[must_use]
    pub fn id(&self) -> TaskId {
        match self {
            Self::Insert { task, .. } | Self::Update { task, .. } => task.id,
            Self::Append { task, .. } | Self::Signal { task, .. } => *task,
        }
    }

    /// The task as it is after this write, where the write says.
    #[must_use]
    pub fn image(&self) -> Option<&Arc<Task>> {
        match self {
            Self::Insert { task, .. } | Self::Update { task, .. } => Some(task),
            Self::Append { .. } | Self::Signal { .. } => None,
        }
    }

    /// The events that this write appends to the task.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        match self {
            Self::Insert { events, .. } | Self::Update { events, .. } => events,
            Self::Append { .. } | Self::Signal { .. } => &[],
        }
    }

    /// The entries that this write appends to the task's journal.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        match self {
            Self::Append { entries, .. } | Self::Update { entries, .. } => entries,
            Self::Insert { .. } | Self::Signal { .. } => &[],
        }
    }

    /// The idempotency key that this write uses.
    #[must_use]
    pub fn key(&self) -> Option<&IdempotencyKey> {
        match self {
            Self::Insert { key, .. } | Self::Update { key, .. } | Self::Signal { key, .. } => key.as_ref(),
            Self::Append { .. } => None,
        }
    }

    /// About how many bytes it brings.
    pub(crate) fn bytes(&self) -> usize {
        /// What a task or an entry has besides payloads.
        const REST: usize = 512;
        let of_task = |task: &Task, input: bool| {
            let input = if input { task.input.as_str().len() } else { 0 };
            REST + input + task.output.as_ref().map_or(0, |output| output.as_str().len())
        };
        let of_entries: usize = self
            .entries()
            .iter()
            .map(|entry| match &entry.outcome {
                Outcome::Open(payload) | Outcome::Done(payload) => REST + payload.as_str().len(),
                Outcome::Failed(_) | Outcome::Retracted => REST,
            })
            .sum();
        of_entries
            + match self {
                Self::Insert { task, .. } => of_task(task, true),
                Self::Update { task, .. } => of_task(task, self.changes_input()),
                Self::Append { children, .. } => children.iter().map(|child| of_task(&child.task, true)).sum(),
                Self::Signal { signal, .. } => REST + signal.payload.as_str().len(),
            }
    }

    /// Whether an update changes the task's input.
    #[must_use]
    pub fn changes_input(&self) -> bool {
        let changes =
            |event: &Event| matches!(event.kind, EventKind::Continued {} | EventKind::Requeued { new_input: true });
        matches!(self, Self::Update { .. }) && self.events().iter().any(changes)
    }
}

/// What became of one write of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum WriteOutcome {
    /// It is stored.
    Applied,
    /// The key was used before with the same fingerprint: this is its task as it is now. Nothing was stored.
    Replayed(Box<Task>),
    /// The key was used before with another fingerprint. Nothing was stored.
    KeyConflict,
    /// The task is no longer at the expected revision or epoch, has ended, or does not exist; or what is to be new is there already: a task's id, an index
    /// of the journal. Nothing was stored.
    Stale,
}
