//! When a delivery that failed is tried again.

use std::time::Duration;

/// After so many failures in a row a delivery is a dead letter: some 50 minutes after the first one, later where a receiver asked for time.
pub(super) const MAX_FAILURES: u32 = 12;

const FIRST: Duration = Duration::from_secs(1);

/// No wait is longer, whatever the receiver asks for.
pub(super) const LONGEST: Duration = Duration::from_secs(60 * 60);

/// How long to wait after `failures` failures in a row (from 1), or `None` once the delivery is a dead letter.
///
/// With `d` = 1 s doubled at each failure, one hour at most, the wait lies in `[d/2, d]`; `random`, from 0 to 1, says where, so that deliveries
/// that failed together do not come back together. `asked` is what the receiver asked for with `Retry-After`: the wait is no shorter.
pub(super) fn next(failures: u32, asked: Option<Duration>, random: f64) -> Option<Duration> {
    if failures >= MAX_FAILURES {
        return None;
    }
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).and_then(|factor| FIRST.checked_mul(factor));
    let longest = doubled.unwrap_or(LONGEST).min(LONGEST);
    let wait = longest.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0);
    Some(wait.max(asked.unwrap_or_default()).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_a_second_and_end_with_a_dead_letter() {
        let bounds = |failures| (next(failures, None, 0.0), next(failures, None, 1.0));
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(bounds(1), (ms(500), ms(1_000)));
        assert_eq!(bounds(2), (ms(1_000), ms(2_000)));
        assert_eq!(bounds(11), (ms(512_000), ms(1_024_000)));
        assert_eq!(bounds(MAX_FAILURES), (None, None));
        assert_eq!(bounds(u32::MAX), (None, None));
    }

    #[test]
    fn a_receiver_may_ask_for_more_time_but_not_for_less() {
        let second = Duration::from_secs(1);
        assert_eq!(next(3, Some(second * 90), 0.5), Some(second * 90));
        assert_eq!(next(3, Some(Duration::ZERO), 1.0), Some(second * 4));
        assert_eq!(next(3, Some(second * 90_000), 0.5), Some(LONGEST));
        assert_eq!(next(MAX_FAILURES, Some(second), 0.5), None);
    }
}
