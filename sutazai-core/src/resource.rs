//! What an agent needs to run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What one execution of an agent may take. Declared by the agent, shown by the API.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceRequest {
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Processor cores.
    pub cpu: f32,
    /// Model calls at once.
    pub model_slots: u32,
}

impl Default for ResourceRequest {
    /// The users' documents give a standard agent 256 MB.
    fn default() -> Self {
        Self { memory_mb: 256, cpu: 0.5, model_slots: 0 }
    }
}
