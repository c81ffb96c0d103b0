//! What a schedule submits: the task of the API without what belongs to one submit alone.

use serde::{Deserialize, Serialize};

use crate::{
    payload::Payload,
    task::{Labels, Priority, RetryPolicy, Target, TaskRequest},
};

/// The `task` of a schedule. A deadline and an idempotency key are of one task, so there are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskTemplate {
    /// The agent that handles it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Without `agent`: the best agent with this capability handles it. Without both, `input.text` decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// The agent's input, the same at each firing.
    pub input: Payload,
    /// 9 goes first.
    #[serde(default)]
    pub priority: Priority,
    /// How failed attempts are repeated.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// Labels, to which the schedule adds its own.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Whose tasks they are; the default tenant unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Who hears of state changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

/// Where state changes are posted to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// The target.
    pub url: String,
}

impl TaskTemplate {
    /// A template for the agent called `agent`, the rest by default.
    pub fn new(agent: impl Into<String>, input: Payload) -> Self {
        Self {
            agent: Some(agent.into()),
            capability: None,
            input,
            priority: Priority::default(),
            retry: RetryPolicy::default(),
            labels: Labels::new(),
            tenant: None,
            webhook: None,
        }
    }

    /// The request that this template stands for, not checked.
    #[must_use]
    pub fn request(&self) -> TaskRequest {
        let target = match (&self.agent, &self.capability) {
            (Some(agent), _) => Target::Agent(agent.clone()),
            (None, Some(capability)) => Target::Capability(capability.clone()),
            (None, None) => Target::Meaning,
        };
        let mut request = TaskRequest::to(target, self.input.clone());
        request.priority = self.priority;
        request.retry = self.retry;
        request.labels = self.labels.clone();
        if let Some(tenant) = &self.tenant {
            request.tenant = tenant.as_str().into();
        }
        request.webhook = self.webhook.as_ref().map(|webhook| webhook.url.as_str().into());
        request
    }
}
