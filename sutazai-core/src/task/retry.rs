//! How failed attempts are spaced.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// No delay is longer, whoever asks for it: 30 days.
pub const MAX_DELAY: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Exponential backoff with full jitter.
///
/// The delay after failed attempt *n* (from 1) is uniform in `[0, min(max_ms, initial_ms · 2^(n−1))]`; source: M. Brooker,
/// "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Executions that may end in an error before the task fails; at least 1.
    pub max_attempts: u32,
    /// Upper bound of the first delay.
    pub initial_ms: u64,
    /// Upper bound of every delay.
    pub max_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 3, initial_ms: 200, max_ms: 30_000 }
    }
}

impl RetryPolicy {
    /// One attempt and no more.
    pub const NEVER: Self = Self { max_attempts: 1, initial_ms: 0, max_ms: 0 };

    /// The delay after failed attempt `attempt` (from 1), drawn with `random`.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: u64) -> Duration {
        let doubled = 1u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
        let bound = self.initial_ms.saturating_mul(doubled).min(self.max_ms);
        Duration::from_millis(match bound.checked_add(1) {
            Some(width) => random % width,
            None => random,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_delay_never_passes_its_bound(initial_ms: u64, max_ms: u64, attempt in 1u32.., random: u64) {
            let policy = RetryPolicy { max_attempts: 3, initial_ms, max_ms };
            let delay = policy.delay(attempt, random).as_millis();
            prop_assert!(delay <= u128::from(max_ms));
            let exponent = attempt.saturating_sub(1).min(64);
            prop_assert!(delay <= u128::from(initial_ms).saturating_mul(1u128 << exponent));
        }
    }

    #[test]
    fn the_bound_doubles() {
        let policy = RetryPolicy { max_attempts: 9, initial_ms: 100, max_ms: 350 };
        let longest = |attempt| (0..1_000).map(|r| policy.delay(attempt, r).as_millis()).max();
        assert_eq!([longest(1), longest(2), longest(3)], [Some(100), Some(200), Some(350)]);
    }
}
