//! A task's journal: the append-only record of outcomes that its code replays.

use serde::{Deserialize, Serialize};

use super::TaskError;
use crate::{clock::Timestamp, payload::Payload};

/// Entries that one journal may hold; a task that needs more continues as new.
pub const MAX_ENTRIES: u64 = 50_000;

/// Bytes of JSON that one outcome may have.
pub const MAX_OUTCOME: usize = 1 << 20;

/// Where a task's journal stands, as far as the task's own image knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JournalMark {
    /// Which journal counts: grows when one is archived, by `continue_as_new` and by a requeue with another input.
    pub era: u32,
    /// Entries it held when the task was forked or last recovered; a crash loop is one in which this does not grow.
    pub length: u64,
    /// The epoch at which the current attempt began: failures recorded before it do not count any more.
    pub attempt_epoch: u64,
}

/// What kind of outcome an entry records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Of a closure of the agent.
    Step,
    /// Of a model or a tool.
    Call,
    /// Of a timer.
    Timer,
    /// A signal that came, or did not come in time.
    Signal,
    /// Of another agent's task.
    Child,
}

impl EntryKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Step, Self::Call, Self::Timer, Self::Signal, Self::Child];

    /// The name on the wire and in stores.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Call => "call",
            Self::Timer => "timer",
            Self::Signal => "signal",
            Self::Child => "child",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What an entry is known by when the code runs again, whatever the timing of parallel branches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId {
    /// The branch: empty for the trunk, else the numbers of `join_all` and `race` and of their branches, such as `0.2`.
    pub path: String,
    /// The name that the code gives it.
    pub name: String,
    /// How many entries of this name came before it in its branch.
    pub occurrence: u32,
}

/// What became of what an entry stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has begun and its outcome is to come: a timer with its moment, a child with its id, the intent of a destructive effect.
    Open(Payload),
    /// It gave this.
    Done(Payload),
    /// It failed.
    Failed(Failure),
    /// Somebody decided that what was open counts for nothing: it begins again.
    Retracted,
}

impl Outcome {
    /// The name in stores: `open`, `done`, `failed` or `retracted`.
    #[must_use]
    pub fn stage(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Done(_) => "done",
            Self::Failed(_) => "failed",
            Self::Retracted => "retracted",
        }
    }

    /// What stores keep beside the stage.
    #[must_use]
    pub fn body(&self) -> Payload {
        match self {
            Self::Open(payload) | Self::Done(payload) => payload.clone(),
            Self::Retracted => Payload::null(),
            // Two strings and a flag: JSON holds these.
            Self::Failed(failure) => Payload::of(failure).unwrap_or_else(|_| Payload::null()),
        }
    }

    /// From what stores keep; `None` if they do not fit each other.
    #[must_use]
    pub fn from_parts(stage: &str, body: Payload) -> Option<Self> {
        match stage {
            "open" => Some(Self::Open(body)),
            "done" => Some(Self::Done(body)),
            "failed" => body.read().ok().map(Self::Failed),
            "retracted" => Some(Self::Retracted),
            _ => None,
        }
    }
}

/// An error that a journal keeps, with what the retry policy needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Code and message.
    #[serde(flatten)]
    pub error: TaskError,
    /// Whether another attempt may succeed.
    pub temporary: bool,
}

/// One record of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the order of recording, from 0 without gaps.
    pub index: u64,
    /// What it is known by.
    #[serde(flatten)]
    pub id: EntryId,
    /// What kind of outcome it records.
    pub kind: EntryKind,
    /// What became of it.
    pub outcome: Outcome,
    /// The epoch of its writer.
    pub epoch: u64,
    /// When it was recorded, by the clock of the process that did.
    pub at: Timestamp,
}

/// Something that a task was told from outside; kept if it comes before anybody waits for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// What it is called: 1–255 bytes.
    pub name: String,
    /// What it says.
    pub payload: Payload,
    /// When it came.
    pub at: Timestamp,
}
