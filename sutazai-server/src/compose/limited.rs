//! An agent with an operator's limits in place of those it declares.

use std::sync::Arc;

use async_trait::async_trait;
use sutazai_core::{
    Payload, Result,
    agent::{Agent, AgentDescriptor, AgentError, AgentLimits},
    context::Context,
};

/// The agent as it is, save its limits.
pub(super) struct Limited {
    agent: Arc<dyn Agent>,
    descriptor: AgentDescriptor,
}

impl Limited {
    /// `agent` with what `limits` says of its name; where it says what the agent declares, `agent` itself.
    pub(super) fn wrap(agent: Arc<dyn Agent>, limits: impl FnOnce(&str) -> AgentLimits) -> Arc<dyn Agent> {
        let descriptor = agent.descriptor();
        let limits = limits(&descriptor.name);
        if limits == descriptor.limits {
            return agent;
        }
        let descriptor = descriptor.clone().limits(limits);
        Arc::new(Self { agent, descriptor })
    }
}

#[async_trait]
impl Agent for Limited {
    fn descriptor(&self) -> &AgentDescriptor {
        &self.descriptor
    }

    fn check(&self, input: &Payload) -> Result<()> {
        self.agent.check(input)
    }

    async fn run(&self, context: Context, input: Payload) -> Result<Payload, AgentError> {
        self.agent.run(context, input).await
    }
}
