//! What changes of tasks are asked for with, and their short answers.

use serde::{Deserialize, Serialize};
use sutazai_core::{Payload, clock::Timestamp, engine::Resolution, task::TaskId};
use utoipa::ToSchema;

use super::task::any_schema;
use crate::http::{
    problem::Problem,
    query::Label,
    strict::{check_readable, present},
};

/// From where a task is forked.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"from": 6}))]
pub(in crate::http) struct ForkTask {
    /// Entries of the journal before this index are taken over; the journal's length takes all of them.
    pub(in crate::http) from: u64,
    /// Another input; without it the new task has the old one's.
    #[serde(default, deserialize_with = "present")]
    #[schema(schema_with = any_schema, required = false)]
    pub(in crate::http) input: Option<Payload>,
}

/// A signal that is stored.
#[derive(Serialize, ToSchema)]
#[schema(as = Signal)]
pub(in crate::http) struct Signalled<'a> {
    /// Who is told.
    #[schema(value_type = String, format = Uuid)]
    pub(in crate::http) task_id: TaskId,
    /// What the signal is called.
    pub(in crate::http) name: &'a str,
}

/// What somebody found out or decides: exactly one of these.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"outcome": {"charged": true}}))]
pub(in crate::http) struct ResolveEntry {
    /// It happened, and this is its outcome; any JSON, `null` too.
    #[serde(default, deserialize_with = "present")]
    #[schema(schema_with = any_schema, required = false)]
    outcome: Option<Payload>,
    /// `true`: it did not happen and is tried again.
    retry: Option<bool>,
    /// It counts as failed, for this reason.
    fail: Option<String>,
}

impl ResolveEntry {
    /// The resolution as the engine takes it.
    pub(in crate::http) fn into_resolution(self) -> Result<Resolution, Problem> {
        match (self.outcome, self.retry, self.fail) {
            (Some(outcome), None, None) => {
                check_readable(&outcome, "/outcome")?;
                Ok(Resolution::Outcome(outcome))
            }
            (None, Some(true), None) => Ok(Resolution::Retry),
            (None, Some(false), None) => Err(Problem::field("/retry", "allowed is true")),
            (None, None, Some(why)) => Ok(Resolution::Fail(why)),
            _ => Err(Problem::field("", "exactly one of outcome, retry and fail is needed")),
        }
    }
}

/// What a dead letter starts again with.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct RequeueTask {
    /// Another input. What the task recorded with the old one then does not count.
    #[serde(default, deserialize_with = "present")]
    #[schema(schema_with = any_schema, required = false)]
    pub(in crate::http) input: Option<Payload>,
    /// Another deadline.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(in crate::http) deadline: Option<Timestamp>,
}

/// Which dead letters start again; every condition given must hold.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"agent": "document-knowledge-manager", "label": "team:search"}))]
pub(in crate::http) struct RequeueMany {
    /// Of this agent.
    pub(in crate::http) agent: Option<String>,
    /// Of this tenant.
    pub(in crate::http) tenant: Option<String>,
    /// With this label, as `key:value`.
    #[schema(value_type = Option<String>)]
    pub(in crate::http) label: Option<Label>,
}

/// What became of them.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Requeued {
    /// How many tasks started again.
    pub(in crate::http) requeued: u64,
}
