//! Schedules on the wire.

use serde::{Deserialize, Serialize};
use sutazai_core::{
    Fault,
    clock::Timestamp,
    schedule::{CatchUp, DEFAULT_TIME_ZONE, Overlap, Schedule, TaskTemplate, Timing},
    store::ScheduleRecord,
};
use utoipa::{
    ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, Type},
    },
};

use super::submit::{ScheduledTask, SubmitTask};
use crate::http::{problem::Problem, state::AppState, strict::Object};

/// A schedule to be. Exactly one of `cron`, `every_ms` and `at` is needed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "nightly", "cron": "0 3 * * *", "time_zone": "Europe/Vienna", "task": {"agent": "hardware-resource-optimizer", "input": {}}}))]
pub(in crate::http) struct PutSchedule {
    /// 1 to 64 of `a-z A-Z 0-9 . - _`. Where the address names it, it may be left out.
    name: Option<String>,
    /// Five fields, minute to day of week, or an alias such as `@daily`.
    #[schema(example = "0 3 * * *")]
    cron: Option<String>,
    /// An interval, first after one interval: 100 to 3,155,760,000,000.
    #[schema(minimum = 100)]
    every_ms: Option<u64>,
    /// Once.
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<Timestamp>,
    /// The IANA zone that `cron` is read in.
    #[schema(default = "UTC")]
    time_zone: Option<String>,
    /// What is submitted at each firing.
    #[schema(value_type = ScheduledTask)]
    task: Object<SubmitTask>,
    /// What becomes of firings that nobody was there for: the newest is made up for, none, or all.
    #[schema(schema_with = catch_up_schema, required = false)]
    catch_up: Option<CatchUp>,
    /// What happens while the task of an earlier firing has not ended: the new one is left out, waits in the queue, or the earlier one is cancelled.
    #[schema(schema_with = overlap_schema, required = false)]
    overlap: Option<Overlap>,
}

impl PutSchedule {
    /// The schedule as the engine takes it, under the name of the address if that has one.
    pub(in crate::http) fn into_schedule(self, state: &AppState, named: Option<String>) -> Result<Schedule, Problem> {
        let name = match (self.name, named) {
            (Some(name), Some(named)) if name != named => {
                return Err(Problem::field("/name", format!("the address names {named:?}, the body {name:?}")));
            }
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => return Err(Problem::field("/name", "a schedule needs a name")),
        };
        let timing = match (self.cron, self.every_ms, self.at) {
            (Some(expression), None, None) => Timing::Cron { expression },
            (None, Some(every_ms), None) => Timing::Every { every_ms },
            (None, None, Some(time)) => Timing::At { time },
            (cron, every_ms, at) => {
                let given = [("/cron", cron.is_some()), ("/every_ms", every_ms.is_some()), ("/at", at.is_some())];
                let more = given.iter().any(|(_, given)| *given);
                let message = "exactly one of cron, every_ms and at is needed";
                let wrong = given.into_iter().filter(|(_, given)| *given || !more);
                let faults = wrong.map(|(path, _)| Fault::new(path, message)).collect();
                return Err(Problem::invalid("the schedule is wrong", faults));
            }
        };
        let task = self.task.0.into_template(state).map_err(|problem| problem.below("/task"))?;
        let mut schedule = Schedule::new(name, timing, task);
        schedule.time_zone = self.time_zone.unwrap_or_else(|| DEFAULT_TIME_ZONE.to_owned());
        schedule.catch_up = self.catch_up.unwrap_or_default();
        schedule.overlap = self.overlap.unwrap_or_default();
        Ok(schedule)
    }
}

/// A schedule, with what has become of it.
#[derive(Serialize, ToSchema)]
#[schema(as = Schedule)]
pub(in crate::http) struct ScheduleView<'a> {
    /// Its name.
    name: &'a str,
    /// The wall-clock times, of a schedule by cron.
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<&'a str>,
    /// The interval, of a schedule that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    every_ms: Option<u64>,
    /// The moment, of a schedule that fires once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<Timestamp>,
    /// The IANA zone that `cron` is read in.
    time_zone: &'a str,
    /// What is submitted at each firing.
    #[schema(value_type = ScheduledTask)]
    task: &'a TaskTemplate,
    /// What becomes of firings that nobody was there for.
    #[schema(schema_with = catch_up_schema)]
    catch_up: CatchUp,
    /// What happens while the task of an earlier firing has not ended.
    #[schema(schema_with = overlap_schema)]
    overlap: Overlap,
    /// Nothing fires while it is.
    paused: bool,
    /// When it was made, or last given other times: intervals count from here.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// The moment up to which it has fired; null before the first.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    last_at: Option<Timestamp>,
    /// The moment it fires for next; null while paused and when nothing is left.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    next_at: Option<Timestamp>,
}

impl<'a> From<&'a ScheduleRecord> for ScheduleView<'a> {
    fn from(record: &'a ScheduleRecord) -> Self {
        let Schedule { name, timing, time_zone, task, catch_up, overlap } = &record.schedule;
        let (cron, every_ms, at) = match timing {
            Timing::Cron { expression } => (Some(expression.as_str()), None, None),
            Timing::Every { every_ms } => (None, Some(*every_ms), None),
            Timing::At { time } => (None, None, Some(*time)),
        };
        Self {
            name,
            cron,
            every_ms,
            at,
            time_zone,
            task,
            catch_up: *catch_up,
            overlap: *overlap,
            paused: record.paused,
            created_at: record.created_at,
            last_at: record.last,
            next_at: record.next,
        }
    }
}

/// A page of schedules, by name.
#[derive(Serialize, ToSchema)]
#[schema(as = ScheduleList)]
pub(in crate::http) struct ScheduleList<'a> {
    /// The schedules.
    pub(in crate::http) items: Vec<ScheduleView<'a>>,
    /// What to send as `cursor` for the next page; null at the end.
    #[schema(required = true)]
    pub(in crate::http) next_cursor: Option<String>,
}

fn catch_up_schema() -> RefOr<Schema> {
    one_of(["last", "none", "all"])
}

fn overlap_schema() -> RefOr<Schema> {
    one_of(["skip", "queue", "cancel"])
}

/// One of these texts, the first by default.
fn one_of(names: [&str; 3]) -> RefOr<Schema> {
    let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names));
    schema.default(Some(names[0].into())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_described_names_are_the_real_ones() {
        let names = |schema| serde_json::to_value::<RefOr<Schema>>(schema).unwrap()["enum"].clone();
        let real = serde_json::to_value([CatchUp::Last, CatchUp::None, CatchUp::All]).unwrap();
        assert_eq!(names(catch_up_schema()), real);
        let real = serde_json::to_value([Overlap::Skip, Overlap::Queue, Overlap::Cancel]).unwrap();
        assert_eq!(names(overlap_schema()), real);
        assert_eq!((CatchUp::default(), Overlap::default()), (CatchUp::Last, Overlap::Skip));
    }
}
