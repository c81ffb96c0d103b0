//! Why a task waits.

use serde::{Deserialize, Serialize};

/// What a `waiting` task waits for, as far as the engine treats it differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// The end of the delay between two attempts.
    Retry,
    /// A timer, a signal or a child: whatever comes first makes it runnable.
    Event,
    /// Somebody's decision; its error says about what.
    Decision,
}

impl Wait {
    /// The name in stores.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Event => "event",
            Self::Decision => "decision",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Retry, Self::Event, Self::Decision].into_iter().find(|wait| wait.as_str() == text)
    }
}

/// What a suspended task waits for, for those who read its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitReason {
    /// A timer.
    Timer,
    /// A signal.
    Signal,
    /// Another task.
    Child,
    /// A decision: the code does not fit the journal.
    NonDeterminism,
    /// A decision: nobody knows whether a destructive effect has happened.
    EffectUnknown,
}
