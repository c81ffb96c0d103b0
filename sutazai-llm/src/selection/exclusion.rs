//! Why a model cannot serve a need.

use std::fmt;

use serde::Serialize;
use sutazai_core::model::ModelCapabilities;

use super::{
    candidate::{Candidate, Presence, Runs},
    need::Need,
};

/// Why a model cannot serve a need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "code")]
#[non_exhaustive]
pub enum Exclusion {
    /// It is nowhere that is known of.
    Absent,
    /// It is there and cannot be used.
    Unusable {
        /// Why not.
        why: String,
    },
    /// It cannot do what is needed.
    Lacks {
        /// What it cannot do.
        capabilities: Vec<&'static str>,
    },
    /// It reads less than is needed.
    ContextTooShort {
        /// Tokens that it reads.
        tokens: usize,
        /// Tokens that are needed.
        needed: usize,
    },
    /// It takes more memory than there is.
    NoRoom {
        /// Bytes that it takes.
        bytes: u64,
        /// Bytes that there are.
        available: u64,
    },
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("it is not here"),
            Self::Unusable { why } => write!(f, "it cannot be used: {why}"),
            Self::Lacks { capabilities } => write!(f, "it has no {}", capabilities.join(", no ")),
            Self::ContextTooShort { tokens, needed } => write!(f, "it reads {tokens} tokens, {needed} are needed"),
            Self::NoRoom { bytes, available } => {
                write!(f, "it takes {} MB of memory, {} are there", megabytes(*bytes), available / 1_000_000)
            }
        }
    }
}

impl Exclusion {
    /// Every reason for which `candidate` cannot serve `need`; none if it can.
    pub(super) fn all(need: &Need, candidate: &Candidate) -> Vec<Self> {
        let mut reasons = Vec::new();
        match &candidate.presence {
            Presence::Absent => reasons.push(Self::Absent),
            Presence::Unusable(why) => reasons.push(Self::Unusable { why: why.clone() }),
            Presence::Loaded | Presence::Ready => {}
        }
        // What is not here is known by name only.
        if candidate.presence != Presence::Absent {
            let capabilities = missing(need.capabilities, candidate.info.capabilities);
            if !capabilities.is_empty() {
                reasons.push(Self::Lacks { capabilities });
            }
            let (tokens, needed) = (candidate.info.context_length, need.context_tokens);
            if tokens < needed {
                reasons.push(Self::ContextTooShort { tokens, needed });
            }
        }
        let takes_more = candidate.runs == Runs::Here && candidate.presence != Presence::Loaded;
        if let (Some(bytes), Some(available)) = (candidate.memory().filter(|_| takes_more), need.memory)
            && bytes > available
        {
            reasons.push(Self::NoRoom { bytes, available });
        }
        reasons
    }
}

/// The names of what is wanted and not there.
fn missing(wanted: ModelCapabilities, there: ModelCapabilities) -> Vec<&'static str> {
    let pairs = [
        ("chat", wanted.chat, there.chat),
        ("embedding", wanted.embedding, there.embedding),
        ("tools", wanted.tools, there.tools),
        ("schema", wanted.schema, there.schema),
        ("seed", wanted.seed, there.seed),
        ("vision", wanted.vision, there.vision),
        ("thinking", wanted.thinking, there.thinking),
    ];
    pairs.into_iter().filter(|(_, wanted, there)| *wanted && !there).map(|(name, ..)| name).collect()
}

/// What is begun counts.
fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}
