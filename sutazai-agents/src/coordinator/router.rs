//! Routing by capability and by meaning.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use sutazai_core::{
    ErrorKind, Result,
    agent::AgentDescriptor,
    engine::{Ranked, Router},
    model::{EmbeddingModel, Models},
};

use super::Coordinator;
use crate::text::{Terms, sentences};

/// How much meaning counts beside shared words.
const MEANING: f32 = 0.6;
/// Below this an agent has no claim: what two unrelated texts reach.
const LEAST: f32 = 0.15;
/// Letters of a text that are read: what it is about is said at its beginning.
const READ: usize = 2_000;

/// Ranks agents for a text: the cosine to the nearest sentence of an agent's description, and the best covered of its capabilities' words. The
/// coordinator itself and `dev.*` agents are never among them.
///
/// The vectors of descriptions are kept, so that a decision costs one short embedding. Without an embedding model words alone decide.
#[derive(Default)]
pub struct MeaningRouter {
    terms: Terms,
    known: Mutex<HashMap<String, Arc<Known>>>,
}

/// An agent's description, embedded.
struct Known {
    model: String,
    texts: Vec<String>,
    vectors: Vec<Vec<f32>>,
}

impl MeaningRouter {
    fn known(&self, agent: &AgentDescriptor, model: &str, texts: &[String]) -> Option<Arc<Known>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&agent.name).filter(|known| known.model == model && known.texts == texts).cloned()
    }

    /// Each agent's cosine to `text`, in order.
    async fn meanings(&self, text: &str, agents: &[&AgentDescriptor], model: &dyn EmbeddingModel) -> Result<Vec<f32>> {
        let name = model.info().name.as_str();
        let mut known = Vec::with_capacity(agents.len());
        let mut batch = vec![text.to_owned()];
        for agent in agents {
            let texts = says(agent);
            let found = self.known(agent, name, &texts);
            if found.is_none() {
                batch.extend(texts.iter().cloned());
            }
            known.push((texts, found));
        }
        let mut vectors = model.embed(&batch).await?.vectors.into_iter();
        let query = vectors.next().unwrap_or_default();
        let mut fresh = Vec::new();
        let mut scores = Vec::with_capacity(agents.len());
        for (agent, (texts, found)) in agents.iter().zip(known) {
            let of_agent = found.unwrap_or_else(|| {
                let vectors = vectors.by_ref().take(texts.len()).collect();
                let made = Arc::new(Known { model: name.to_owned(), texts, vectors });
                fresh.push((agent.name.clone(), Arc::clone(&made)));
                made
            });
            let cosines =
                of_agent.vectors.iter().map(|vector| vector.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>());
            scores.push(cosines.fold(0.0, f32::max).min(1.0));
        }
        if !fresh.is_empty() {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.extend(fresh);
            // Bounded by what is registered.
            known.retain(|name, _| agents.iter().any(|agent| agent.name == *name));
        }
        Ok(scores)
    }

    /// The best covered capability: the share of its words that the text holds.
    fn capability(&self, text: &HashSet<String>, agent: &AgentDescriptor) -> f32 {
        let share = |capability: &String| {
            let words: HashSet<String> = self.terms.of(&capability.replace(['-', '.', '/'], " ")).into_iter().collect();
            let held = words.iter().filter(|word| text.contains(*word)).count();
            held as f32 / words.len().max(1) as f32
        };
        agent.capabilities.iter().map(share).fold(0.0, f32::max)
    }
}

/// What is embedded of an agent: each sentence of its description, and its capabilities as one.
fn says(agent: &AgentDescriptor) -> Vec<String> {
    let mut texts: Vec<_> =
        sentences(&agent.description).into_iter().map(|range| agent.description[range].to_owned()).collect();
    let words = agent.capabilities.join(", ").replace(['_', '-'], " ");
    texts.push(if words.is_empty() { agent.name.replace(['_', '-', '.'], " ") } else { words });
    texts
}

#[async_trait]
impl Router for MeaningRouter {
    async fn rank(&self, text: &str, agents: &[AgentDescriptor], models: &Models) -> Result<Vec<Ranked>> {
        let text: String = text.chars().take(READ).collect();
        let is_candidate =
            |agent: &&AgentDescriptor| agent.name != Coordinator::NAME && !agent.name.starts_with("dev.");
        let agents: Vec<_> = agents.iter().filter(is_candidate).collect();
        let words: HashSet<String> = self.terms.of(&text).into_iter().collect();
        let capabilities: Vec<_> = agents.iter().map(|agent| self.capability(&words, agent)).collect();
        let embedded = match models.embedding(None) {
            Ok(model) => self.meanings(&text, &agents, model.as_ref()).await,
            Err(none) => Err(none),
        };
        let (meanings, share) = match embedded {
            Ok(meanings) => (meanings, MEANING),
            // Words can still decide; where they cannot, the caller learns why.
            Err(error) if error.is_temporary() || error.kind() == ErrorKind::NotFound => {
                if capabilities.iter().all(|score| *score == 0.0) {
                    return Err(error);
                }
                (vec![0.0; agents.len()], 0.0)
            }
            Err(error) => return Err(error),
        };
        let mut ranked: Vec<_> = agents
            .iter()
            .zip(capabilities)
            .zip(meanings)
            .map(|((agent, by_capability), by_meaning)| Ranked {
                agent: agent.name.clone(),
                score: share * by_meaning + (1.0 - share) * by_capability,
                by_capability,
                by_meaning,
            })
            .filter(|ranked| ranked.score >= LEAST)
            .collect();
        ranked.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.agent.cmp(&b.agent)));
        Ok(ranked)
    }
}

#[cfg(test)]
mod tests {
    use sutazai_core::memory::HashedEmbedding;

    use super::*;

    fn agents() -> Vec<AgentDescriptor> {
        vec![
            AgentDescriptor::new("disks").description("Shows how full the disks are.").capabilities(["disk_usage"]),
            AgentDescriptor::new("poems").description("Writes poems about the sea.").capabilities(["poetry"]),
            AgentDescriptor::new("dev.echo").description("Shows how full the disks are.").capabilities(["disk_usage"]),
            AgentDescriptor::new(Coordinator::NAME).description("Shows how full the disks are."),
        ]
    }

    #[tokio::test]
    async fn the_right_agent_comes_first_and_helpers_are_left_out() {
        let router = MeaningRouter::default();
        let mut models = Models::default();
        models.add_embedding(Arc::new(HashedEmbedding::default()));
        for _ in 0..2 {
            let ranked = router.rank("how full are the disks? show disk usage", &agents(), &models).await.unwrap();
            assert_eq!(ranked[0].agent, "disks");
            assert!(ranked[0].by_capability > 0.9 && ranked[0].by_meaning > 0.3, "{ranked:?}");
            assert!(ranked.iter().all(|ranked| ranked.agent == "disks" || ranked.agent == "poems"));
        }
        let ranked = router.rank("a poem about the sea", &agents(), &models).await.unwrap();
        assert_eq!(ranked[0].agent, "poems");
    }

    #[tokio::test]
    async fn without_a_model_words_decide_and_without_words_it_says_why() {
        let router = MeaningRouter::default();
        let ranked = router.rank("disk usage", &agents(), &Models::default()).await.unwrap();
        assert_eq!((ranked[0].agent.as_str(), ranked[0].score), ("disks", 1.0));
        let error = router.rank("something else", &agents(), &Models::default()).await.unwrap_err();
        assert_eq!(error.code(), "model_not_found");
    }

    #[tokio::test]
    async fn a_changed_description_is_read_again() {
        let router = MeaningRouter::default();
        let mut models = Models::default();
        models.add_embedding(Arc::new(HashedEmbedding::default()));
        let mut agents = agents();
        let before = router.rank("astronomy of distant galaxies", &agents, &models).await.unwrap();
        agents[1].description = "Knows the astronomy of distant galaxies.".into();
        let after = router.rank("astronomy of distant galaxies", &agents, &models).await.unwrap();
        assert!(
            before.iter().all(|ranked| ranked.agent != "poems") && after[0].agent == "poems",
            "{before:?} {after:?}"
        );
    }
}
