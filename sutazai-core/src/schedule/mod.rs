//! Schedules: when tasks come by themselves. Pure: nothing here reads a clock, keeps state or submits anything.
//!
//! # Cron
//! Five fields: minute (0-59), hour (0-23), day of month (1-31), month (1-12, `JAN`-`DEC`), day of week (0-7,
//! `SUN`-`SAT`; 0 and 7 are Sunday); in each `*`, values, ranges `a-b`, steps `*/n`, `a-b/n` and `a/n` (from `a` to the
//! field's end), and lists of these. Also `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly` and
//! `@annually`. As in Vixie's cron, a day matches if the day of month *or* the day of week does, unless one of the two
//! fields begins with `*`: then both have to.
//!
//! # When clocks change
//! Wall-clock times are those of the schedule's `time_zone`, by the IANA data built into the program, so that all nodes
//! of one version agree.
//!
//! | hour field | local times that do not exist | local times that happen twice |
//! | --- | --- | --- |
//! | names hours (`2`, `*/2`, `9-17`) | fire at the end of the gap, all of them once | fire once, the first time |
//! | every hour (`*`, `*/1`, `0-23`) | do not fire: no time was lost | fire both times: the hour is real |
//!
//! So a daily job runs on each day once, and `*/15 * * * *` runs every quarter of an hour that passes. Vixie's cron
//! counts `*/2` among the second kind, which would run it twice or not at all. Intervals and moments know no time zone.

mod cron;
mod firings;
mod rule;
mod template;

use serde::{Deserialize, Serialize};

use self::rule::Rule;
pub use self::{
    firings::{Firings, MAX_FIRINGS, TOLERANCE_MS, firings, next_after},
    template::{TaskTemplate, Webhook},
};
use crate::{
    clock::Timestamp,
    error::{Error, Fault, Result},
    task::{Labels, TaskRequest},
};

/// The time zone of schedules that name none.
pub const DEFAULT_TIME_ZONE: &str = "UTC";

/// The shortest interval: one tenth of a second.
pub const MIN_INTERVAL_MS: u64 = 100;

/// The longest interval: 100 years of 365.25 days.
pub const MAX_INTERVAL_MS: u64 = 3_155_760_000_000;

/// The label that tells which schedule a task comes from.
pub const SCHEDULE_LABEL: &str = "schedule";

/// The label that tells for which moment the task of a schedule comes.
pub const MOMENT_LABEL: &str = "schedule_at";

/// Faults for the labels in `labels` that only a schedule sets: overlap policies go by them.
pub(crate) fn reserved_labels(labels: &Labels) -> Vec<Fault> {
    let reserved = [SCHEDULE_LABEL, MOMENT_LABEL].into_iter().filter(|name| labels.contains_key(*name));
    let fault = |name| Fault::new(format!("/labels/{name}"), "this label is set by schedules; leave it out");
    reserved.map(fault).collect()
}

/// A rule by which tasks come by themselves, in the shape of the API.
///
/// Reading one refuses unknown fields and anything but exactly one of `cron`, `every_ms` and `at`; the values are
/// checked by [`Schedule::check`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Schedule {
    /// 1 to 64 of `a-z A-Z 0-9 . - _`. May be absent in JSON, for doors that know it from elsewhere; then it is empty.
    pub name: String,
    /// When it fires.
    pub timing: Timing,
    /// IANA name of the zone that a cron expression is read in.
    pub time_zone: String,
    /// What is submitted at each firing.
    pub task: TaskTemplate,
    /// What becomes of firings that were missed.
    pub catch_up: CatchUp,
    /// What happens while the task of an earlier firing has not ended.
    pub overlap: Overlap,
}

/// When a schedule fires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Timing {
    /// At the wall-clock times of an expression.
    Cron {
        /// Five fields or an alias such as `@daily`; see [the module](self).
        expression: String,
    },
    /// At whole multiples of an interval after the schedule's creation, first after one interval. Never drifts.
    Every {
        /// [`MIN_INTERVAL_MS`] to [`MAX_INTERVAL_MS`] milliseconds.
        every_ms: u64,
    },
    /// Once; if that moment was before the schedule's creation, at the creation.
    At {
        /// The moment.
        time: Timestamp,
    },
}

/// What becomes of firings that nobody was there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// The newest of them is made up for.
    #[default]
    Last,
    /// None, unless the newest is at most [`TOLERANCE_MS`] late; a moment (`at`) missed by more never fires.
    None,
    /// All of them are made up for, oldest first, one after the other whatever [`Overlap`] says, [`MAX_FIRINGS`] at a time.
    All,
}

/// What happens to a firing while the task of an earlier one has not ended. Whoever fires applies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// Its task waits for the earlier one to end.
    Queue,
    /// The earlier task is cancelled.
    Cancel,
}

impl Schedule {
    /// A schedule with every default.
    pub fn new(name: impl Into<String>, timing: Timing, task: TaskTemplate) -> Self {
        Self {
            name: name.into(),
            timing,
            time_zone: DEFAULT_TIME_ZONE.to_owned(),
            task,
            catch_up: CatchUp::default(),
            overlap: Overlap::default(),
        }
    }

    /// Checks every value; an error names each bad field by its JSON pointer, what was found and what is allowed. A
    /// cron expression that is well-formed but never fires (`0 0 30 2 *`) is refused too.
    pub fn check(&self) -> Result<()> {
        let mut faults = Vec::new();
        let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        // An address cannot have `.` or `..` as a part.
        let addressed = !matches!(self.name.as_str(), "." | "..");
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(named) || !addressed {
            let message =
                format!("{:?} is not a name; allowed are 1 to 64 of a-z A-Z 0-9 . - _, not only . or ..", self.name);
            faults.push(Fault::new("/name", message));
        }
        if let Err(found) = Rule::of(self, Timestamp::default()) {
            faults.extend(found);
        }
        if let Err(error) = self.request().check() {
            faults.extend(error.faults().iter().map(|fault| fault.clone().below("/task")));
        }
        faults.extend(reserved_labels(&self.task.labels).into_iter().map(|fault| fault.below("/task")));
        if faults.is_empty() { Ok(()) } else { Err(Error::invalid("the schedule is wrong", faults)) }
    }

    /// The request of one firing: the template with the label `schedule:NAME`.
    #[must_use]
    pub fn request(&self) -> TaskRequest {
        self.task.request().label(SCHEDULE_LABEL, self.name.as_str())
    }
}

/// The schedule as JSON has it: serde cannot refuse unknown fields beside a flattened enum.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(default)]
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    #[serde(default = "default_time_zone")]
    time_zone: String,
    task: TaskTemplate,
    #[serde(default)]
    catch_up: CatchUp,
    #[serde(default)]
    overlap: Overlap,
}

fn default_time_zone() -> String {
    DEFAULT_TIME_ZONE.to_owned()
}

impl TryFrom<Wire> for Schedule {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        let timing = match (wire.cron, wire.every_ms, wire.at) {
            (Some(expression), None, None) => Timing::Cron { expression },
            (None, Some(every_ms), None) => Timing::Every { every_ms },
            (None, None, Some(time)) => Timing::At { time },
            (None, None, None) => return Err("one of cron, every_ms and at is needed, and there is none"),
            _ => return Err("exactly one of cron, every_ms and at is allowed, and there are more"),
        };
        let Wire { name, time_zone, task, catch_up, overlap, .. } = wire;
        Ok(Self { name, timing, time_zone, task, catch_up, overlap })
    }
}

impl From<Schedule> for Wire {
    fn from(schedule: Schedule) -> Self {
        let Schedule { name, timing, time_zone, task, catch_up, overlap } = schedule;
        let (cron, every_ms, at) = match timing {
            Timing::Cron { expression } => (Some(expression), None, None),
            Timing::Every { every_ms } => (None, Some(every_ms), None),
            Timing::At { time } => (None, None, Some(time)),
        };
        Self { name, cron, every_ms, at, time_zone, task, catch_up, overlap }
    }
}

#[cfg(test)]
mod tests;
