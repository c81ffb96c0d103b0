//! Which firings are due, and which comes next.

use super::{CatchUp, Schedule, Timing, rule::Rule};
use crate::clock::Timestamp;

/// With [`CatchUp::None`], a firing that is this late at most still counts as on time: 60 s.
pub const TOLERANCE_MS: u64 = 60_000;

/// No more firings are due at once with [`CatchUp::All`]; the rest are the next time.
pub const MAX_FIRINGS: usize = 1_000;

/// What [`firings`] found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Firings {
    /// What to fire now, oldest first.
    pub due: Vec<Timestamp>,
    /// When to look again. Not later than `now` if more is due than fits into `due`; none if the schedule has come to
    /// its end.
    pub next: Option<Timestamp>,
}

/// The first firing strictly after `after`, of a schedule created at `created_at`.
///
/// None if it never fires again, or if [`Schedule::check`] refuses it. Monotonic in `after`. Cron does not depend on
/// `created_at`; an interval counts from there.
#[must_use]
pub fn next_after(schedule: &Schedule, created_at: Timestamp, after: Timestamp) -> Option<Timestamp> {
    Rule::of(schedule, created_at).ok()?.next(after)
}

/// What is due at `now`, after catch-up, and what comes next.
///
/// `created_at` is when the schedule was created or its timing was last changed. `last` is the newest firing that was
/// decided upon, fired or left out; whoever resumes a paused schedule and wants nothing of the pause passes the moment
/// of resuming. Without `last` every firing from `created_at` on counts.
///
/// With [`CatchUp::Last`] and [`CatchUp::None`] at most one is due, and `next` is after `now`. Whoever asks again with
/// the newest of `due` (or, if none is due, the same) as `last` loses none and gets none twice; a clock that goes back
/// fires nothing.
#[must_use]
pub fn firings(schedule: &Schedule, created_at: Timestamp, last: Option<Timestamp>, now: Timestamp) -> Firings {
    let Ok(rule) = Rule::of(schedule, created_at) else { return Firings::default() };
    // The moment of creation itself may fire: a moment in the past, or a cron time that it hits exactly.
    let after = last.unwrap_or(Timestamp::from_millis(created_at.as_millis().saturating_sub(1)));
    match schedule.catch_up {
        CatchUp::All => {
            let mut due = Vec::new();
            let mut next = rule.next(after);
            while let Some(time) = next.filter(|time| *time <= now && due.len() < MAX_FIRINGS) {
                due.push(time);
                next = rule.next(time);
            }
            Firings { due, next }
        }
        CatchUp::Last | CatchUp::None => {
            let late = |time: Timestamp| time.until(now).as_millis() > u128::from(TOLERANCE_MS);
            let newest = rule.newest(after, now);
            let due = newest.filter(|time| schedule.catch_up == CatchUp::Last || !late(*time)).into_iter().collect();
            Firings { due, next: rule.next(after.max(now)) }
        }
    }
}

impl Schedule {
    /// Whether it fires at most once.
    #[must_use]
    pub fn is_one_shot(&self) -> bool {
        matches!(self.timing, Timing::At { .. })
    }
}
