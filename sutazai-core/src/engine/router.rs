//! How a task finds its agent.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{agent::AgentDescriptor, error::Result, model::Models};

/// Finds agents for a text by what it means.
#[async_trait]
pub trait Router: Send + Sync + 'static {
    /// Agents for `text`, best first; those with no claim to it are left out.
    async fn rank(&self, text: &str, agents: &[AgentDescriptor], models: &Models) -> Result<Vec<Ranked>>;
}

/// An agent with its claim to a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ranked {
    /// The agent's name.
    pub agent: String,
    /// 0 to 1, both claims together.
    pub score: f32,
    /// 0 to 1, from words that its capabilities and the text share.
    pub by_capability: f32,
    /// 0 to 1, from what its description and the text mean.
    pub by_meaning: f32,
}
