//! A model that may be chosen.

use serde::Serialize;
use sutazai_core::model::ModelInfo;

use crate::bench::Measured;

/// A model that may be chosen, with all that is known about it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// What it is and can do.
    pub info: ModelInfo,
    /// Whose memory it takes.
    pub runs: Runs,
    /// Whether it is there.
    pub presence: Presence,
    /// What the bench found out about it, as it is served now and on this machine.
    pub measured: Option<Measured>,
}

/// Whose memory a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Runs {
    /// This machine's.
    Here,
    /// Another one's, whose affair it is.
    Elsewhere,
}

/// Whether a model is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is", content = "why")]
pub enum Presence {
    /// In memory.
    Loaded,
    /// On disk, or with whoever serves it.
    Ready,
    /// Nowhere that is known of.
    Absent,
    /// It is there and cannot be used.
    Unusable(String),
}

impl Candidate {
    /// A model that runs on this machine and was not measured.
    #[must_use]
    pub fn new(info: ModelInfo, presence: Presence) -> Self {
        Self { info, runs: Runs::Here, presence, measured: None }
    }

    /// Bytes of memory that it takes: as it was measured, else as it is said to.
    #[must_use]
    pub fn memory(&self) -> Option<u64> {
        self.measured.as_ref().and_then(|measured| measured.memory_bytes).or(self.info.memory)
    }

    /// What decides between equals.
    pub(super) fn identity(&self) -> (&str, &str, Option<&str>, usize) {
        let ModelInfo { name, backend, digest, context_length, .. } = &self.info;
        (name.as_str(), backend.as_str(), digest.as_deref(), *context_length)
    }
}
