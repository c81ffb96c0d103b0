//! A schedule made ready to compute with: expression parsed, zone looked up.

use super::{MAX_INTERVAL_MS, MIN_INTERVAL_MS, Schedule, Timing, cron::Cron};
use crate::{clock::Timestamp, error::Fault};

/// When a schedule fires, as a function of time alone.
pub(super) enum Rule {
    Cron(Box<Cron>),
    /// At `start + n · every`, `n` from 1.
    Every {
        start: Timestamp,
        every_ms: u64,
    },
    Once(Timestamp),
}

impl Rule {
    /// The rule of a schedule created at `created_at`, or everything that is wrong with its timing and zone.
    pub(super) fn of(schedule: &Schedule, created_at: Timestamp) -> Result<Self, Vec<Fault>> {
        let zone = super::cron::zone(&schedule.time_zone);
        match &schedule.timing {
            Timing::Cron { expression } => match (Cron::parse(expression), zone) {
                (Ok(times), Ok(zone)) => Ok(Self::Cron(Box::new(times.within(zone)))),
                (times, zone) => Err(times.err().into_iter().flatten().chain(zone.err()).collect()),
            },
            Timing::Every { every_ms } => {
                let allowed = (MIN_INTERVAL_MS..=MAX_INTERVAL_MS).contains(every_ms);
                let message = || format!("{every_ms} ms; allowed are {MIN_INTERVAL_MS} to {MAX_INTERVAL_MS}");
                let faults: Vec<_> =
                    (!allowed).then(|| Fault::new("/every_ms", message())).into_iter().chain(zone.err()).collect();
                if faults.is_empty() { Ok(Self::Every { start: created_at, every_ms: *every_ms }) } else { Err(faults) }
            }
            Timing::At { time } => match zone {
                Ok(_) => Ok(Self::Once((*time).max(created_at))),
                Err(fault) => Err(vec![fault]),
            },
        }
    }

    /// The first firing strictly after `after`; none if there is none before the end of time.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron(cron) => cron.next(after),
            Self::Every { start, every_ms } => {
                let (start, every) = (i128::from(start.as_millis()), i128::from(*every_ms));
                let passed = (i128::from(after.as_millis()) - start).div_euclid(every);
                i64::try_from(start + every * (passed + 1).max(1)).ok().map(Timestamp::from_millis)
            }
            Self::Once(time) => (*time > after).then_some(*time),
        }
    }

    /// The newest firing in `(after, now]`.
    ///
    /// `next` is monotonic, so the newest firing is the smallest moment whose next firing lies beyond `now`: bisection
    /// finds it in some forty steps, however many firings there were.
    pub(super) fn newest(&self, after: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let passed = |moment: i64| self.next(Timestamp::from_millis(moment)).is_none_or(|next| next > now);
        let (mut low, mut high) = (after.as_millis(), now.as_millis());
        if low >= high || passed(low) {
            return None;
        }
        while high.saturating_sub(low) > 1 {
            let middle = low.midpoint(high);
            if passed(middle) { high = middle } else { low = middle }
        }
        Some(Timestamp::from_millis(high))
    }
}
