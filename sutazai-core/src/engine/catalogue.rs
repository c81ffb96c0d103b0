//! The registered agents: found by name, by capability or by meaning.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{router::Router, selection::QueueRule};
use crate::{
    agent::{Agent, AgentDescriptor},
    error::{Error, ErrorKind, Fault, Result},
    model::Models,
    payload::Payload,
    task::{Target, queue_name, version_line},
};

/// An agent as the engine keeps it.
#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) agent: Arc<dyn Agent>,
    pub(crate) name: Arc<str>,
    pub(crate) version: Arc<str>,
}

/// All agents, by name.
pub(crate) struct Catalogue {
    agents: HashMap<Arc<str>, Registered>,
    /// Sorted by name.
    pub(crate) descriptors: Arc<[AgentDescriptor]>,
    router: Option<Arc<dyn Router>>,
}

impl Catalogue {
    /// Refuses a name that is taken or not a name.
    pub(crate) fn new(agents: Vec<Arc<dyn Agent>>, router: Option<Arc<dyn Router>>) -> Result<Self> {
        let mut descriptors: Vec<_> = agents.iter().map(|agent| agent.descriptor().clone()).collect();
        descriptors.sort_by(|a, b| a.name.cmp(&b.name));
        let mut by_name = HashMap::new();
        for agent in agents {
            let name: Arc<str> = agent.descriptor().name.as_str().into();
            let fault = |message: &'static str| {
                Error::new(ErrorKind::Invalid, message).with_code("agent_name").during("register agent").about(&name)
            };
            let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
            if !(1..=128).contains(&name.len()) || !name.chars().all(ok) {
                return Err(fault("an agent's name has 1 to 128 characters of a-z, 0-9, '.', '-' and '_'"));
            }
            let version = agent.descriptor().version.as_str().into();
            let registered = Registered { agent, name: Arc::clone(&name), version };
            if by_name.insert(Arc::clone(&name), registered).is_some() {
                return Err(fault("two agents have this name"));
            }
        }
        Ok(Self { agents: by_name, descriptors: descriptors.into(), router })
    }

    /// The queues that this process can claim from: of each agent those of its own line of versions and of the lines that it goes on with.
    pub(crate) fn queues(&self) -> BTreeMap<Arc<str>, QueueRule> {
        let mut queues = BTreeMap::new();
        for agent in &*self.descriptors {
            let rule = QueueRule {
                agent: agent.name.as_str().into(),
                concurrency: agent.limits.concurrency,
                rate: agent.limits.per_minute,
            };
            let lines =
                std::iter::once(version_line(&agent.version)).chain(agent.goes_on_with.iter().map(String::as_str));
            queues.extend(lines.map(|line| (queue_name(&agent.name, line).into(), rule.clone())));
        }
        queues
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Registered> {
        self.agents.get(name)
    }

    /// The agent for `target`, or why there is none.
    pub(crate) async fn route(&self, target: &Target, input: &Payload, models: &Models) -> Result<&Registered> {
        match target {
            Target::Agent(name) => self.get(name).ok_or_else(|| {
                let fault = Fault::new("/agent", format!("there is no agent {name:?}; `agents list` shows all"));
                Error::invalid("the agent does not exist", vec![fault]).with_code("agent_not_found")
            }),
            Target::Capability(capability) => self
                .descriptors
                .iter()
                .filter(|agent| agent.capabilities.contains(capability))
                .min_by_key(|agent| (agent.phase, &agent.name))
                .and_then(|agent| self.get(&agent.name))
                .ok_or_else(|| {
                    let fault = Fault::new("/capability", format!("no agent declares {capability:?}"));
                    Error::invalid("no agent has the capability", vec![fault]).with_code("capability_not_found")
                }),
            Target::Meaning => self.by_meaning(input, models).await,
        }
    }

    async fn by_meaning(&self, input: &Payload, models: &Models) -> Result<&Registered> {
        #[derive(serde::Deserialize)]
        struct Text {
            text: String,
        }
        let unnamed = |path: &str, message: &str| {
            Error::invalid("no agent is named and none can be found", vec![Fault::new(path, message)])
                .with_code("agent_required")
        };
        let Some(router) = &self.router else {
            return Err(unnamed("/agent", "name an agent or a capability: no router by meaning is configured"));
        };
        let Text { text } = input
            .read()
            .map_err(|_| unnamed("/input/text", "without an agent and a capability, `input.text` must be a string"))?;
        let ranked = router.rank(&text, &self.descriptors, models).await?;
        ranked
            .first()
            .and_then(|best| self.get(&best.agent))
            .ok_or_else(|| unnamed("/input/text", "no agent fits this text; name one, `agents list` shows all"))
    }
}
