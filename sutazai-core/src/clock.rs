//! Time and randomness, injected: nothing else in this crate reads a clock or draws a number.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::task::TaskId;

/// A moment in UTC with millisecond precision, the precision of the contract and of every store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// After every other moment: when what has no time is due.
    pub const NEVER: Self = Self(i64::MAX);

    /// From milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This moment and `delay` later, saturating.
    #[must_use]
    pub fn plus(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This moment and `delay` earlier, saturating.
    #[must_use]
    pub fn minus(self, delay: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long it is from this moment to `later`; zero if that has passed.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }

    /// Parses RFC 3339 with any offset.
    pub fn parse(text: &str) -> Result<Self, chrono::ParseError> {
        DateTime::parse_from_rfc3339(text).map(|time| Self(time.timestamp_millis()))
    }
}

/// 0000-01-01T00:00:00.000Z and 9999-12-31T23:59:59.999Z.
const FIRST: i64 = -62_167_219_200_000;
const LAST: i64 = 253_402_300_799_999;

/// RFC 3339 in UTC with milliseconds: `2026-12-01T00:00:00.000Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // RFC 3339 has years of four digits; what is beyond shows as the first or the last moment of them.
        let time = DateTime::<Utc>::from_timestamp_millis(self.0.clamp(FIRST, LAST)).unwrap_or_default();
        f.write_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(|_| {
            de::Error::custom(format_args!("{text:?} is not a time of RFC 3339, such as 2026-12-01T00:00:00.000Z"))
        })
    }
}

/// The engine's source of time and randomness; a simulation brings its own.
pub trait Clock: Send + Sync + 'static {
    /// The current time, as this process sees it. It may jump.
    fn now(&self) -> Timestamp;

    /// 64 random bits, for jitter and ids. Not for secrets.
    fn random(&self) -> u64;

    /// Time that only grows and counts while the machine or the process is suspended, from any beginning: leases are measured with it.
    fn elapsed(&self) -> Duration;
}

/// The machine's clock and a fast generator seeded from the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn random(&self) -> u64 {
        fastrand::u64(..)
    }

    fn elapsed(&self) -> Duration {
        boottime()
    }
}

/// Linux' `CLOCK_MONOTONIC` stands still while the machine is suspended, `CLOCK_BOOTTIME` does not.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn boottime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The clock of time that only grows, from the first call on.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn boottime() -> Duration {
    static BEGAN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    BEGAN.get_or_init(std::time::Instant::now).elapsed()
}

/// Makes task ids (UUIDv7) that grow strictly within a process, whatever the clock does.
#[derive(Debug, Default)]
pub(crate) struct IdSource {
    /// 48 bits of milliseconds and a 12-bit counter (RFC 9562 § 6.2, method 1).
    last: AtomicU64,
}

impl IdSource {
    pub(crate) fn next(&self, clock: &dyn Clock) -> TaskId {
        let now = (u64::try_from(clock.now().as_millis()).unwrap_or(0)) << 12;
        let mut last = self.last.load(Ordering::Relaxed);
        let ticks = loop {
            let next = now.max(last + 1);
            match self.last.compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break next,
                Err(seen) => last = seen,
            }
        };
        TaskId::from_ticks(ticks, clock.random())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_as_it_prints() {
        let time = Timestamp::from_millis(1_796_083_200_007);
        assert_eq!(time.to_string(), "2026-12-01T00:00:00.007Z");
        assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
        assert_eq!(Timestamp::parse("2026-12-01T01:00:00.007+01:00"), Ok(time));
        for extreme in [i64::MIN, i64::MAX] {
            let shown = Timestamp::from_millis(extreme).to_string();
            assert_eq!(Timestamp::parse(&shown).map(|time| time.to_string()), Ok(shown));
        }
        assert!(serde_json::from_str::<Timestamp>("\"tomorrow\"").unwrap_err().to_string().contains("RFC 3339"));
    }

    #[test]
    fn ids_grow_even_when_the_clock_stands_still() {
        struct Frozen;
        impl Clock for Frozen {
            fn now(&self) -> Timestamp {
                Timestamp::from_millis(1_000)
            }
            fn random(&self) -> u64 {
                0
            }
            fn elapsed(&self) -> Duration {
                Duration::ZERO
            }
        }
        let source = IdSource::default();
        let ids: Vec<_> = (0..10_000).map(|_| source.next(&Frozen)).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
