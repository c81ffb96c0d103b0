//! Which build this is, the same on the command line and over HTTP.

use serde::Serialize;
use sutazai_core::{agent::AgentDescriptor, clock::Timestamp};
use utoipa::ToSchema;

/// Which build this is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BuildInfo {
    /// The program's name, or the agent's.
    #[schema(example = "sutazai-server")]
    pub name: String,
    /// Its version.
    #[schema(example = "0.1.0")]
    pub version: String,
    /// The commit it was built from, `unknown` outside a repository.
    #[schema(example = "ab6dcc0f12e4")]
    pub git_sha: &'static str,
    /// When it was built.
    #[schema(example = "2026-12-01T00:00:00.000Z")]
    pub build_time: String,
}

impl BuildInfo {
    /// This binary.
    #[must_use]
    pub fn current() -> Self {
        let built = env!("BUILT_AT_EPOCH").parse::<i64>().unwrap_or_default();
        Self {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            git_sha: env!("BUILT_FROM_SHA"),
            build_time: Timestamp::from_millis(built.saturating_mul(1_000)).to_string(),
        }
    }

    /// An agent of this binary.
    pub(super) fn of_agent(agent: &AgentDescriptor) -> Self {
        Self { name: agent.name.clone(), version: agent.version.clone(), ..Self::current() }
    }
}
