//! The agents of this crate together, as the server registers them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sutazai_core::agent::{Agent, typed};

use crate::{
    coordinator::{Coordinator, MeaningRouter},
    documents::{DocumentManager, DocumentsOptions},
    hardware::{HardwareOptimizer, Thresholds},
};

/// What an operator decides about the agents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentsOptions {
    /// Documents.
    pub documents: DocumentsOptions,
    /// When a figure of the machine is worth a word.
    pub hardware: Thresholds,
}

/// Every agent, and the router that the orchestrator shares with the coordinator.
pub struct Catalogue {
    /// The agents, by name.
    pub agents: Vec<Arc<dyn Agent>>,
    /// Finds the agent for a text.
    pub router: Arc<MeaningRouter>,
}

/// Makes every agent of this crate.
#[must_use]
pub fn catalogue(options: AgentsOptions) -> Catalogue {
    let router = Arc::new(MeaningRouter::default());
    let mut agents: Vec<Arc<dyn Agent>> = vec![
        Arc::new(typed(DocumentManager::new(options.documents))),
        Arc::new(typed(HardwareOptimizer::new(options.hardware))),
        Arc::new(typed(Coordinator::new(Arc::clone(&router)))),
    ];
    agents.sort_by(|a, b| a.descriptor().name.cmp(&b.descriptor().name));
    Catalogue { agents, router }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_declares_itself_fully() {
        let catalogue = catalogue(AgentsOptions::default());
        let declared: Vec<_> = catalogue
            .agents
            .iter()
            .map(|agent| {
                let agent = agent.descriptor();
                assert!(agent.description.len() > 40 && !agent.capabilities.is_empty(), "{}", agent.name);
                assert!(agent.input_schema.is_object() && agent.output_schema.is_object(), "{}", agent.name);
                (agent.name.as_str(), u8::from(agent.phase), agent.port)
            })
            .collect();
        assert_eq!(
            declared,
            [
                ("document-knowledge-manager", 3, Some(10380)),
                ("hardware-resource-optimizer", 3, Some(10370)),
                ("task-assignment-coordinator", 1, Some(10302)),
            ]
        );
    }
}
