//! task-assignment-coordinator: which agent is the one for a text.

mod router;

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sutazai_core::{
    Fault,
    agent::{AgentDescriptor, AgentError, Effects, ModelRole, Phase, TypedAgent},
    context::Context,
    engine::{Ranked, Router as _},
    resource::ResourceRequest,
};

pub use self::router::MeaningRouter;

/// A text that looks for its agent.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssignmentInput {
    /// The work, in words.
    pub text: String,
    /// Candidates to list: 1 to 100, otherwise 5.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    pub limit: Option<usize>,
}

/// The agent for a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Assignment {
    /// The best agent; none where no agent has a claim to the text.
    pub agent: Option<String>,
    /// Its score, 0 to 1; 0 where there is none.
    pub score: f32,
    /// The best agents with their scores, best first: at most `limit`, and none without a claim to the text.
    pub candidates: Vec<Ranked>,
}

/// The agent; register it with [`sutazai_core::agent::typed`].
pub struct Coordinator {
    router: Arc<MeaningRouter>,
}

impl Coordinator {
    /// The agent's name.
    pub const NAME: &str = "task-assignment-coordinator";

    /// An agent that decides as `router` does, the one the orchestrator has.
    #[must_use]
    pub fn new(router: Arc<MeaningRouter>) -> Self {
        Self { router }
    }
}

#[async_trait]
impl TypedAgent for Coordinator {
    type Input = AssignmentInput;
    type Output = Assignment;

    fn descriptor(&self) -> AgentDescriptor {
        AgentDescriptor::new(Self::NAME)
            .version(env!("CARGO_PKG_VERSION"))
            .description("Finds the best agent for a task described in free text, by capability and by meaning, with the scores of the best candidates.")
            .capabilities(["task_routing", "agent_selection", "capability_matching"])
            .place(Phase::Critical, 10302)
            .effects(Effects::None)
            .resources(ResourceRequest { memory_mb: 256, cpu: 0.25, model_slots: 1 })
            .models([ModelRole::Embedding])
    }

    fn check(&self, input: &AssignmentInput) -> Vec<Fault> {
        let mut faults = Vec::new();
        if input.text.trim().is_empty() {
            faults.push(Fault::new("/text", "a description of the work is needed"));
        }
        if input.limit.is_some_and(|limit| !(1..=100).contains(&limit)) {
            faults.push(Fault::new("/limit", "1 to 100 are allowed"));
        }
        faults
    }

    async fn run(&self, context: Context, input: AssignmentInput) -> Result<Assignment, AgentError> {
        let mut candidates = self.router.rank(&input.text, context.agents(), context.models()).await?;
        candidates.truncate(input.limit.unwrap_or(5));
        let best = candidates.first();
        Ok(Assignment {
            agent: best.map(|best| best.agent.clone()),
            score: best.map_or(0.0, |best| best.score),
            candidates,
        })
    }
}
