//! What things cost here: measured, and guessed only until they were.

use std::time::Duration;

/// The weight of a new measurement: the last ten or so count.
const NEW: f64 = 0.2;

/// A running mean in which the newest count most.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::gateway) struct Mean(Option<f64>);

impl Mean {
    /// Takes a measurement in.
    pub(in crate::gateway) fn add(&mut self, seconds: f64) {
        if seconds.is_finite() && seconds >= 0.0 {
            self.0 = Some(self.0.map_or(seconds, |mean| mean + NEW * (seconds - mean)));
        }
    }

    /// The mean, or what is guessed before there is any.
    pub(in crate::gateway) fn or(&self, guess: Duration) -> Duration {
        self.0.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(guess)
    }
}

/// How long a prompt takes to be read: by the slowest of late, since some of a prompt may be known to the backend from an earlier one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    /// Seconds a byte.
    slowest: Option<f64>,
}

impl Reading {
    /// Seconds a byte before any was measured: some 50 tokens a second, as of a large model without a GPU.
    const GUESS: f64 = 0.005;
    /// Of fewer bytes, what is measured is something else.
    const LEAST: u64 = 1024;
    /// What is left of an earlier measurement with each new one.
    const FADES: f64 = 0.9;

    /// Takes the time in that a prompt of so many bytes took.
    pub(super) fn add(&mut self, bytes: u64, took: Duration) {
        if bytes >= Self::LEAST {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let new = took.as_secs_f64() / bytes as f64;
            self.slowest = Some(self.slowest.map_or(new, |slowest| new.max(slowest * Self::FADES)));
        }
    }

    /// The time that a prompt of so many bytes may take.
    pub(super) fn of(&self, bytes: u64) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let seconds = self.slowest.unwrap_or(Self::GUESS) * bytes as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// What loading a model of so many bytes may take before it was ever measured: a disk of a gigabyte a second, and a second on top.
pub(super) fn loading(bytes: u64) -> Duration {
    Duration::from_secs(1) + Duration::from_nanos(bytes)
}

/// What an answer may take before one was measured.
pub(in crate::gateway) const ANSWER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_count_most_and_nonsense_not_at_all() {
        let mut mean = Mean::default();
        assert_eq!(mean.or(ANSWER), ANSWER);
        mean.add(1.0);
        mean.add(2.0);
        mean.add(f64::NAN);
        mean.add(-1.0);
        assert_eq!(mean.or(ANSWER), Duration::from_millis(1_200));
    }

    #[test]
    fn reading_goes_by_the_slowest_of_late() {
        let mut reading = Reading::default();
        assert_eq!(reading.of(1_000), Duration::from_secs(5));
        reading.add(10, Duration::from_secs(60));
        assert_eq!(reading.of(1_000), Duration::from_secs(5), "too short to say anything");
        reading.add(2_000, Duration::from_secs(4));
        assert_eq!(reading.of(1_000), Duration::from_secs(2));
        // Known from before, and so no measure of what is new.
        reading.add(2_000, Duration::from_millis(1));
        assert_eq!(reading.of(1_000), Duration::from_millis(1_800));
        reading.add(2_000, Duration::from_secs(20));
        assert_eq!(reading.of(1_000), Duration::from_secs(10));
        assert!(reading.of(u64::MAX) > Duration::from_secs(1 << 40));
    }
}
