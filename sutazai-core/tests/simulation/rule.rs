//! What must never be, by kind.

use std::fmt;

/// A kind of what must hold. The first four are those of the architecture's page, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// What was acknowledged is kept, and comes to its end.
    Kept,
    /// Only who holds a task changes it, and a generation of it ends once.
    Fenced,
    /// What was recorded is not done, or recorded, again.
    Recorded,
    /// No more at once than may.
    Bounded,
    /// One task of a key, and of a moment of a schedule.
    Unique,
    /// Who asks until there is an answer gets one.
    Answered,
    /// Events, journal, feed and results are what the commits and the programs say.
    Consistent,
}

/// A rule that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}
