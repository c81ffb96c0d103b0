//! Whose budget it is, and for which time.

use std::{fmt, sync::Arc};

use crate::{clock::Timestamp, task::TaskId};

/// Milliseconds of a day.
const MILLIS: i64 = 24 * 3_600 * 1_000;

/// A day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i64);

impl Day {
    /// The day of a moment.
    #[must_use]
    pub fn of(moment: Timestamp) -> Self {
        Self(moment.as_millis().div_euclid(MILLIS))
    }

    /// The day of this number, as stores keep it: days since 1970-01-01.
    #[must_use]
    pub fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// Its number: days since 1970-01-01.
    #[must_use]
    pub fn number(self) -> i64 {
        self.0
    }

    /// When it begins.
    #[must_use]
    pub fn begin(self) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_mul(MILLIS))
    }

    /// The day so many days later, or earlier.
    #[must_use]
    pub fn plus(self, days: i64) -> Self {
        Self(self.0.saturating_add(days))
    }
}

/// As in RFC 3339: `2026-12-01`.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = self.begin().to_string();
        f.write_str(begin.split('T').next().unwrap_or(&begin))
    }
}

/// What is drawn on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Account {
    /// A task with everything it calls for, however far down: the task that nobody called for.
    Task(TaskId),
    /// An agent on one day.
    Agent {
        /// Its name.
        name: Arc<str>,
        /// The day.
        day: Day,
    },
    /// A tenant on one day.
    Tenant {
        /// Its name.
        name: Arc<str>,
        /// The day.
        day: Day,
    },
}

impl Account {
    /// `task`, `agent` or `tenant`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Task(_) => "task",
            Self::Agent { .. } => "agent",
            Self::Tenant { .. } => "tenant",
        }
    }

    /// The task, if it is one's.
    #[must_use]
    pub fn task(&self) -> Option<TaskId> {
        match self {
            Self::Task(task) => Some(*task),
            Self::Agent { .. } | Self::Tenant { .. } => None,
        }
    }

    /// The day, if it is for one.
    #[must_use]
    pub fn day(&self) -> Option<Day> {
        match self {
            Self::Task(_) => None,
            Self::Agent { day, .. } | Self::Tenant { day, .. } => Some(*day),
        }
    }

    /// What stores know it by, no two the same and the same for ever: `task/ID`, `agent/2026-12-01/NAME`, `tenant/2026-12-01/NAME`.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Task(task) => format!("task/{task}"),
            Self::Agent { name, day } | Self::Tenant { name, day } => format!("{}/{day}/{name}", self.kind()),
        }
    }
}

/// For people: `agent coder on 2026-12-01`.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(task) => write!(f, "task {task}"),
            Self::Agent { name, day } | Self::Tenant { name, day } => write!(f, "{} {name} on {day}", self.kind()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_utc() {
        let day = |text: &str| Day::of(Timestamp::parse(text).unwrap());
        let first = day("2026-12-01T00:00:00.000Z");
        assert_eq!(first, day("2026-12-02T00:59:59.999+01:00"));
        assert_eq!(first.plus(1), day("2026-12-02T00:00:00.000Z"));
        assert_eq!(
            (first.to_string(), first.begin().to_string()),
            ("2026-12-01".into(), "2026-12-01T00:00:00.000Z".into())
        );
        assert_eq!(Day::of(Timestamp::from_millis(-1)), Day::from_number(-1));
        assert_eq!(Day::of(Timestamp::from_millis(-1)).to_string(), "1969-12-31");
    }

    #[test]
    fn keys_stay_as_they_are() {
        let day = Day::from_number(20_788);
        let agent = Account::Agent { name: "a/b".into(), day };
        let tenant = Account::Tenant { name: "a/b".into(), day };
        assert_eq!((agent.key(), tenant.key()), ("agent/2026-12-01/a/b".into(), "tenant/2026-12-01/a/b".into()));
        let task = Account::Task(TaskId::from_bytes([7; 16]));
        assert_eq!(task.key(), "task/07070707-0707-0707-0707-070707070707");
        assert_eq!((task.day(), agent.day(), task.task().is_some(), agent.task()), (None, Some(day), true, None));
        assert_eq!(tenant.to_string(), "tenant a/b on 2026-12-01");
    }
}
