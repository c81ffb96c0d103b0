//! The rate limit of an agent: the generic cell rate algorithm, in whole microseconds.

use std::sync::Arc;

use crate::clock::Timestamp;

/// An agent's stored moment: all that its rate limit remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The agent.
    pub agent: Arc<str>,
    /// Its theoretical arrival time, in microseconds since 1970-01-01T00:00:00Z.
    pub tat: i64,
}

const MINUTE: i64 = 60_000_000;

/// No rate puts a `tat` further ahead of the clock than a minute and a second (the increment of one a minute, the
/// greatest tolerance). What is twice that far was written under a clock that has been set back since.
const FURTHEST: i64 = 2 * MINUTE;

/// What a rate per minute comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gcra {
    /// The increment T: from one grant to the next in an even flow.
    step: i64,
    /// The tolerance τ = (burst − 1) × T.
    slack: i64,
}

impl Gcra {
    /// `None` if the rate is 0: nothing passes.
    pub(super) fn per_minute(rate: u32) -> Option<Self> {
        let rate = i64::from(rate);
        // Rounded up, so that rounding never lets more through.
        let step = (MINUTE + rate - 1).checked_div(rate)?;
        Some(Self { step, slack: (burst(rate) - 1) * step })
    }

    /// How many pass at `now`.
    pub(super) fn room(self, now: i64, tat: i64) -> usize {
        let ahead = now.saturating_add(self.slack).saturating_sub(tat.max(now));
        if ahead < 0 { 0 } else { usize::try_from(ahead / self.step + 1).unwrap_or(usize::MAX) }
    }

    /// The stored moment after one more has passed at `now`.
    pub(super) fn take(self, now: i64, tat: i64) -> i64 {
        tat.max(now).saturating_add(self.step)
    }

    /// When the next one passes, in whole milliseconds.
    pub(super) fn opens_at(self, tat: i64) -> Timestamp {
        Timestamp::from_millis(tat.saturating_sub(self.slack).saturating_add(999).div_euclid(1_000))
    }
}

/// One second's worth, but at least one.
fn burst(rate: i64) -> i64 {
    (rate / 60).max(1)
}

/// `now` in the unit of a stored moment.
pub(super) fn micros(now: Timestamp) -> i64 {
    now.as_millis().saturating_mul(1_000)
}

/// A stored moment as it counts at `now`.
pub(super) fn believable(tat: i64, now: i64) -> i64 {
    if tat.saturating_sub(now) > FURTHEST { now } else { tat }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_passes_at_once_and_then_one_each_increment() {
        let gcra = Gcra::per_minute(1_000).unwrap();
        let (mut tat, mut passed) = (0, 0);
        let now = 1_000_000_000;
        while gcra.room(now, tat) > 0 {
            tat = gcra.take(now, tat);
            passed += 1;
        }
        assert_eq!(passed, 16);
        assert_eq!(gcra.opens_at(tat), Timestamp::from_millis(now / 1_000 + 60));
        assert_eq!(gcra.room(now + 59_999, tat), 0);
        assert_eq!(gcra.room(now + 60_000, tat), 1);
        assert_eq!(gcra.room(now + MINUTE, tat), 16, "what is not used is not saved beyond the burst");
    }

    #[test]
    fn a_rate_that_does_not_divide_a_minute_is_kept_to_a_microsecond() {
        let gcra = Gcra::per_minute(7).unwrap();
        let tat = gcra.take(0, 0);
        assert_eq!((tat, gcra.room(tat - 1, tat), gcra.room(tat, tat)), (8_571_429, 0, 1));
        assert_eq!(gcra.opens_at(tat), Timestamp::from_millis(8_572));
        assert_eq!(Gcra::per_minute(0), None);
    }

    #[test]
    fn a_moment_from_a_clock_set_back_does_not_hold_an_agent_for_hours() {
        let now = 1_000 * MINUTE;
        assert_eq!(believable(now + FURTHEST, now), now + FURTHEST);
        assert_eq!(believable(now + 60 * MINUTE, now), now);
    }
}
