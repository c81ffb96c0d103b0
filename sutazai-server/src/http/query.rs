//! Query parameters, as strict as bodies: unknown names, repeated names and wrong values are refused.

use std::time::Duration;

use axum::{extract::FromRequestParts, http::request::Parts};
use serde::{Deserialize, Deserializer, de};
use serde_path_to_error::{Path, Segment};
use sutazai_core::task::TaskState;
use utoipa::IntoParams;

use super::{problem::Problem, state::AppState};

/// The longest a long poll lasts.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(60);

/// Items of a page unless asked for otherwise, and at most.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;

/// Numbers of events go no further (see `NumberedEvent::number`).
pub(super) const MAX_NUMBER: u64 = 1 << 53;

/// The parameters of a query string.
pub(super) struct Query<T>(pub(super) T);

impl<T: de::DeserializeOwned> FromRequestParts<AppState> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Self, Problem> {
        read(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn read<T: de::DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
    serde_path_to_error::deserialize(pairs)
        .map_err(|error| Problem::field(pointer(error.path()), error.into_inner().to_string()))
}

/// A parameter as a JSON pointer (RFC 6901). Query strings are flat, so there is at most its name.
fn pointer(path: &Path) -> String {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Map { key } => Some(format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
            _ => None,
        })
        .collect()
}

/// A page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Items of the page, 1 to 200; default 50.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200, default = 50)]
    pub(super) limit: Limit,
    /// `next_cursor` of the page before.
    pub(super) cursor: Option<String>,
}

/// Which tasks to list; every condition given must hold.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TasksQuery {
    /// In this state.
    #[param(value_type = Option<String>, example = "running")]
    pub(super) state: Option<TaskState>,
    /// Of this agent.
    pub(super) agent: Option<String>,
    /// Of this tenant.
    pub(super) tenant: Option<String>,
    /// With this label, as `key:value`.
    #[param(value_type = Option<String>, example = "team:search")]
    pub(super) label: Option<Label>,
    /// Items of the page, 1 to 200; default 50.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200, default = 50)]
    pub(super) limit: Limit,
    /// `next_cursor` of the page before.
    pub(super) cursor: Option<String>,
}

/// Which dead letters to list; every condition given must hold.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeadLettersQuery {
    /// Of this agent.
    pub(super) agent: Option<String>,
    /// Of this tenant.
    pub(super) tenant: Option<String>,
    /// With this label, as `key:value`.
    #[param(value_type = Option<String>, example = "team:search")]
    pub(super) label: Option<Label>,
    /// Items of the page, 1 to 200; default 50.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200, default = 50)]
    pub(super) limit: Limit,
    /// `next_cursor` of the page before.
    pub(super) cursor: Option<String>,
}

/// Where to go on in the feed of all events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FeedQuery {
    /// Only events after this number; `next_cursor` of the page before, or the last `seq` seen. Default 0: from the first event on. `cursor` means the same.
    #[serde(default, alias = "cursor")]
    #[param(value_type = Option<u64>, minimum = 0, default = 0)]
    pub(super) after: After,
    /// Items of the page, 1 to 200; default 50. A stream goes on without end.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200, default = 50)]
    pub(super) limit: Limit,
}

/// The number of an event; as far as any store counts.
#[derive(Debug, Default)]
pub(super) struct After(pub(super) u64);

impl<'de> Deserialize<'de> for After {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse::<u64>() {
            Ok(number) if number <= MAX_NUMBER => Ok(Self(number)),
            _ => Err(de::Error::custom(format_args!("{text:?} is not the number of an event"))),
        }
    }
}

/// How long to wait for the end of a task.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// Answer at the end of the task, or of this time: `500ms`, `30s`, `1m`. 60 s at most; a longer wait counts as that.
    #[param(value_type = Option<String>, example = "30s")]
    pub(super) wait: Option<Wait>,
}

/// 1 to 200.
#[derive(Debug)]
pub(super) struct Limit(pub(super) usize);

impl Default for Limit {
    fn default() -> Self {
        Self(DEFAULT_LIMIT)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse() {
            Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(Self(limit)),
            _ => Err(de::Error::custom(format_args!("{text:?} is not a limit; allowed are 1 to {MAX_LIMIT}"))),
        }
    }
}

/// `key:value`.
#[derive(Debug)]
pub(super) struct Label(pub(super) String, pub(super) String);

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.split_once(':') {
            Some((key, value)) if !key.is_empty() => Ok(Self(key.to_owned(), value.to_owned())),
            _ => Err(de::Error::custom(format_args!("{text:?} is not a label; write key:value"))),
        }
    }
}

/// A duration such as `30s`.
#[derive(Debug, PartialEq)]
pub(super) struct Wait(pub(super) Duration);

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        duration(&text)
            .map(|wait| Self(wait.min(MAX_WAIT)))
            .ok_or_else(|| de::Error::custom(format_args!("{text:?} is not a duration; write 500ms, 30s or 1m")))
    }
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.saturating_mul(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault<T: de::DeserializeOwned>(query: &str) -> String {
        let problem = read::<T>(query).err().unwrap();
        assert_eq!(problem.status(), 422, "{query}");
        serde_json::to_value(problem.view("")).unwrap()["errors"][0]["path"].as_str().unwrap().to_owned()
    }

    #[test]
    fn wrong_parameters_are_named() {
        for limit in ["0", "201", "-1", "1.5", "", "x"] {
            assert_eq!(fault::<TasksQuery>(&format!("limit={limit}")), "/limit");
        }
        assert_eq!(fault::<TasksQuery>("state=sleeping"), "/state");
        assert_eq!(fault::<TasksQuery>("label=novalue"), "/label");
        assert_eq!(fault::<TasksQuery>("colour=red"), "/colour");
        assert_eq!(fault::<WaitQuery>("wait=30"), "/wait");
        for after in ["-1", "x", "", "9007199254740993"] {
            assert_eq!(fault::<FeedQuery>(&format!("after={after}")), "/after");
        }
        fault::<FeedQuery>("after=1&cursor=2");
        fault::<TasksQuery>("agent=a&agent=b");
    }

    #[test]
    fn right_parameters_are_read() {
        let query: TasksQuery = read("state=running&label=a%20b:c:d&limit=200").unwrap();
        assert_eq!(query.state, Some(TaskState::Running));
        assert_eq!(query.label.map(|label| (label.0, label.1)), Some(("a b".into(), "c:d".into())));
        assert_eq!((query.limit.0, query.agent), (200, None));
        let after = |text: &str| read::<FeedQuery>(text).unwrap().after.0;
        assert_eq!([after(""), after("after=7"), after("cursor=9007199254740992")], [0, 7, 1 << 53]);
        let wait = |text: &str| read::<WaitQuery>(text).unwrap().wait.map(|wait| wait.0.as_millis());
        assert_eq!(
            [wait("wait=500ms"), wait("wait=30s"), wait("wait=9m"), wait("")],
            [Some(500), Some(30_000), Some(60_000), None]
        );
    }
}
