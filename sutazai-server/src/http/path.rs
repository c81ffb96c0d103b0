//! What stands in an address: ids and names.

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use sutazai_core::{agent::AgentDescriptor, task::TaskId};

use super::{problem::Problem, state::AppState};

/// The `{id}` of a task.
pub(super) struct Id(pub(super) TaskId);

impl FromRequestParts<AppState> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, state).await;
        let text = match &params {
            Ok(params) => params.iter().find(|(name, _)| *name == "id").map(|(_, value)| value).unwrap_or_default(),
            // What no string can be, no id is. But it may stand in another part of the address.
            Err(why) if !why.body_text().contains("`id`") => {
                return Err(Problem::invalid(format!("the address is wrong: {}", why.body_text()), Vec::new()));
            }
            Err(_) => "",
        };
        text.parse().map(Self).map_err(|_| Problem::not_found("task_not_found", format!("{text:?} is not a task's id")))
    }
}

/// The `{name}` of a registered agent.
pub(super) struct AgentName(pub(super) String);

impl AgentName {
    pub(super) fn descriptor<'a>(&self, state: &'a AppState) -> Result<&'a AgentDescriptor, Problem> {
        state.orchestrator().agent(&self.0).ok_or_else(|| no_agent(&self.0))
    }
}

impl FromRequestParts<AppState> for AgentName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let name = param(parts, state, "name").await.unwrap_or_default();
        if state.orchestrator().agent(&name).is_some() { Ok(Self(name)) } else { Err(no_agent(&name)) }
    }
}

/// The `{name}` of something that need not exist; empty if it is not UTF-8, which nothing is called.
pub(super) struct Named(pub(super) String);

impl FromRequestParts<AppState> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        Ok(Self(param(parts, state, "name").await.unwrap_or_default()))
    }
}

/// The `{index}` of an entry of a journal.
pub(super) struct Index(pub(super) u64);

impl FromRequestParts<AppState> for Index {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let text = param(parts, state, "index").await.unwrap_or_default();
        let none = || Problem::not_found("entry_not_found", format!("{text:?} is not the index of an entry"));
        text.parse().map(Self).map_err(|_| none())
    }
}

fn no_agent(name: &str) -> Problem {
    Problem::not_found("agent_not_found", format!("there is no agent {name:?}; /api/v1/agents lists them"))
}

/// A parameter's text; `None` if it is not UTF-8.
async fn param(parts: &mut Parts, state: &AppState, key: &str) -> Option<String> {
    let params = RawPathParams::from_request_parts(parts, state).await.ok()?;
    params.iter().find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
}
