//! Agents on the wire.

use serde::Serialize;
use sutazai_core::{
    agent::{AgentDescriptor, Effects, Phase},
    resource::ResourceRequest,
};
use utoipa::ToSchema;

/// An agent, as it describes itself.
#[derive(Serialize, ToSchema)]
#[schema(as = Agent)]
pub(in crate::http) struct AgentView<'a> {
    #[schema(example = "document-knowledge-manager")]
    name: &'a str,
    version: &'a str,
    description: &'a str,
    /// What it can do, for routing by capability.
    capabilities: &'a [String],
    /// The wave of the catalogue it belongs to: 1, 2 or 3.
    #[schema(value_type = u8, minimum = 1, maximum = 3)]
    phase: Phase,
    /// The port reserved for it; it is not opened, the agent answers under `/agents/{name}`.
    #[schema(required = true)]
    port: Option<u16>,
    /// Whether its models are there.
    state: Availability,
    /// What one execution may take.
    #[schema(value_type = ResourcesView)]
    resources: &'a ResourceRequest,
    /// What running it twice would do: `none`, `idempotent`, `keyed` or `destructive`.
    #[schema(value_type = String, example = "idempotent")]
    effects: Effects,
    /// JSON schema of its input.
    #[schema(value_type = Object)]
    input_schema: &'a serde_json::Value,
    /// JSON schema of its output.
    #[schema(value_type = Object)]
    output_schema: &'a serde_json::Value,
}

impl<'a> AgentView<'a> {
    pub(in crate::http) fn new(agent: &'a AgentDescriptor, state: Availability) -> Self {
        Self {
            name: &agent.name,
            version: &agent.version,
            description: &agent.description,
            capabilities: &agent.capabilities,
            phase: agent.phase,
            port: agent.port,
            state,
            resources: &agent.resources,
            effects: agent.effects,
            input_schema: &agent.input_schema,
            output_schema: &agent.output_schema,
        }
    }
}

/// Whether an agent can work right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Availability {
    /// What it needs is there.
    Ready,
    /// A model it calls is missing; its `/ready` says which.
    Unavailable,
}

/// What one execution of an agent may take.
#[derive(ToSchema)]
#[schema(as = Resources)]
#[allow(dead_code, reason = "describes core's `ResourceRequest`, which knows nothing of OpenAPI")]
struct ResourcesView {
    /// Memory in MiB.
    memory_mb: u32,
    /// Processor cores.
    cpu: f32,
    /// Model calls at once.
    model_slots: u32,
}

/// A page of agents, by name.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct AgentList<'a> {
    /// The agents.
    pub(in crate::http) items: Vec<AgentView<'a>>,
    /// What to send as `cursor` for the next page; null at the end.
    #[schema(required = true)]
    pub(in crate::http) next_cursor: Option<String>,
}
