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
}
