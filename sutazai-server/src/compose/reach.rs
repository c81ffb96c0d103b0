//! Every chat model that these settings reach, as whoever has to measure one or to choose one wants to know it.

use std::{net::IpAddr, sync::Arc};

use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatModel, ModelInfo},
};
use sutazai_llm::{
    bench::{
        BenchKey, BenchResult, BenchResults, Machine, MemoryProbe, OllamaMemory, ProcessMemory, available_memory,
        result_of,
    },
    ollama::{OllamaClient, Running},
    registry::{Catalogue, ListedModel, ModelState},
    selection::{Candidate, Presence, Runs},
    tier::{Tier, TierModel},
};

use super::{any_ollama, model_store, models::chat_models};
use crate::config::Settings;

/// What these settings reach.
pub struct Reach {
    /// This machine.
    pub machine: Machine,
    /// Bytes of memory that models may still take here, where that is known.
    pub memory: Option<u64>,
    /// The models: those that can be asked, and those that the users' documents name and nobody has.
    pub models: Vec<Reached>,
}

/// A model, here or not.
pub struct Reached {
    /// What is known about it.
    pub candidate: Candidate,
    /// The model itself, unless nobody has it.
    model: Option<Arc<dyn ChatModel>>,
    /// The Ollama that serves it.
    ollama: Option<OllamaClient>,
}

/// Looks for models where a server with these settings would, and in any other Ollama of this machine if that finds none there. Nothing is loaded.
///
/// Code `bench_results_damaged` if the results of benches cannot be read.
pub async fn reach(settings: &Settings) -> Result<Reach> {
    let store = model_store(settings);
    let results = BenchResults::of(&store).read().await?;
    let (machine, listed) = (Machine::here().await?, store.list().await?);
    let ollama = any_ollama(settings).await;
    let client = ollama.as_ref().map(|found| found.client.clone());
    let running = match &client {
        Some(client) => client.ps().await.unwrap_or_default(),
        None => Vec::new(),
    };
    let ollama_runs = match &client {
        Some(client) if !is_here(&client.address()) => Runs::Elsewhere,
        _ => Runs::Here,
    };
    let mut models = Vec::new();
    for model in chat_models(settings, ollama).await? {
        let info = model.info().clone();
        let (candidate, ollama) = match info.backend.as_str() {
            "local" => (local(info, &listed), None),
            "ollama" => (Candidate { runs: ollama_runs, ..served(info, &running) }, client.clone()),
            _ => (Candidate { runs: Runs::Elsewhere, ..Candidate::new(info, Presence::Ready) }, None),
        };
        models.push(Reached { candidate: measured(candidate, &results, &machine), model: Some(model), ollama });
    }
    models.extend(missing(&models, settings.ollama_context));
    let given_back = match ollama_runs {
        // What is in memory goes when another model comes.
        Runs::Here if settings.models_loaded == 1 => running.iter().map(in_memory).sum::<u64>(),
        _ => 0,
    };
    let memory = match settings.model_memory_mb {
        0 => available_memory().await.map(|bytes| bytes.saturating_add(given_back)),
        megabytes => Some(megabytes.saturating_mul(1_000_000)),
    };
    Ok(Reach { machine, memory, models })
}

impl Reach {
    /// The model that `name` means, an embedded one first. Code `model_not_found` if none can be asked.
    pub fn find(&self, name: &str) -> Result<&Reached> {
        let askable = || self.models.iter().filter(|reached| reached.model.is_some());
        let embedded = Catalogue::embedded().find(name).ok().map(|known| known.name);
        let local = askable().find(|reached| {
            let info = &reached.candidate.info;
            info.backend == "local" && embedded == Some(info.name.as_str())
        });
        let found = local.or_else(|| askable().find(|reached| is_same(&reached.candidate.info.name, name)));
        found.ok_or_else(|| {
            let known: Vec<_> = askable().map(|reached| reached.candidate.info.name.as_str()).collect();
            let message = format!("no chat model of this name can be asked; there are {}", known.join(", "));
            Error::new(ErrorKind::NotFound, message).with_code("model_not_found").during("find model").about(name)
        })
    }

    /// What the models are, for whoever chooses among them.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        self.models.iter().map(|reached| reached.candidate.clone()).collect()
    }
}

impl Reached {
    /// The model itself. Code `model_not_found` if nobody has it.
    pub fn model(&self) -> Result<&Arc<dyn ChatModel>> {
        self.model.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "nobody has this model")
                .with_code("model_not_found")
                .during("find model")
                .about(&self.candidate.info.name)
        })
    }

    /// What a result of its bench is about.
    #[must_use]
    pub fn key(&self, machine: &Machine) -> BenchKey {
        BenchKey::new(&self.candidate.info, machine)
    }

    /// Who tells what it takes of the memory. Asked for before it is loaded.
    pub async fn memory(&self) -> Arc<dyn MemoryProbe> {
        match (&self.ollama, self.candidate.info.backend.as_str()) {
            (Some(client), _) => Arc::new(OllamaMemory::new(client.clone(), &self.candidate.info.name)),
            (None, "local") => Arc::new(ProcessMemory::start().await),
            _ => Arc::new(()),
        }
    }
}

/// A model in this process, with what the catalogue says about it.
fn local(info: ModelInfo, listed: &[ListedModel]) -> Candidate {
    let Some(listed) = listed.iter().find(|listed| listed.model.name == info.name) else {
        return Candidate::new(info, Presence::Absent);
    };
    let presence = match &listed.state {
        ModelState::Ready => Presence::Ready,
        ModelState::Partial | ModelState::Absent => Presence::Absent,
        ModelState::Damaged(why) => Presence::Unusable(why.clone()),
    };
    let known = listed.model.info();
    Candidate::new(ModelInfo { digest: known.digest, memory: known.memory, ..info }, presence)
}

/// A model of an Ollama that has these in memory.
fn served(info: ModelInfo, running: &[Running]) -> Candidate {
    let is = |running: &&Running| running.is(&info.name) || info.digest.as_ref() == Some(&running.digest);
    let presence = if running.iter().any(|running| is(&running)) { Presence::Loaded } else { Presence::Ready };
    Candidate::new(info, presence)
}

/// The candidate with what its bench found out.
fn measured(mut candidate: Candidate, results: &[BenchResult], machine: &Machine) -> Candidate {
    let result = result_of(results, &BenchKey::new(&candidate.info, machine));
    candidate.measured = result.map(|result| result.measured.clone());
    candidate
}

/// The models that the users' documents have for their tiers and that are not among `models`.
fn missing(models: &[Reached], context: usize) -> Vec<Reached> {
    let there = |wanted: &TierModel| models.iter().any(|reached| wanted.is(&reached.candidate.info.name));
    let wanted = Tier::ALL.into_iter().map(|tier| tier.models()[0]).filter(|wanted| !there(wanted));
    let absent = wanted.map(|wanted| {
        let info = ModelInfo { memory: Some(wanted.memory_bytes), ..ModelInfo::new(wanted.name, "ollama", context) };
        Reached { candidate: Candidate::new(info, Presence::Absent), model: None, ollama: None }
    });
    absent.collect()
}

/// Bytes of this machine's own memory that a model of an Ollama takes.
fn in_memory(running: &Running) -> u64 {
    running.size.saturating_sub(running.size_vram)
}

/// Whether what answers at this address runs on this machine.
fn is_here(address: &str) -> bool {
    let url = reqwest::Url::parse(address).ok();
    let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether both names mean one model: a name without a tag means `:latest`.
fn is_same(one: &str, other: &str) -> bool {
    let bare = |name: &str| name.strip_suffix(":latest").unwrap_or(name).to_lowercase();
    bare(one) == bare(other)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::{
        Json, Router,
        routing::{get, post},
    };
    use serde_json::json;
    use sutazai_core::clock::Timestamp;
    use sutazai_llm::bench::Measured;

    use super::*;
    use crate::config::{find, load};

    /// An Ollama that holds two models and has one of them in memory.
    async fn ollama() -> String {
        let tag = |name: &str, digest: &str, size: u64| json!({ "name": name, "digest": digest, "size": size });
        let tags = json!({ "models": [tag("qwen3:8b", "d1", 5_000), tag("mistral:7b", "d2", 4_000)] });
        let running = json!({ "models": [{ "name": "qwen3:8b", "digest": "d1", "size": 6_000, "size_vram": 1_000 }] });
        let shown = json!({ "capabilities": ["completion", "tools"], "model_info": {} });
        let router = Router::new()
            .route("/api/tags", get(move || async { Json(tags) }))
            .route("/api/ps", get(move || async { Json(running) }))
            .route("/api/show", post(move || async { Json(shown) }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, router).await });
        url
    }

    fn settings(directory: &std::path::Path, url: &str) -> Settings {
        let values = [("models_dir", directory.to_str().unwrap()), ("ollama_base_url", url), ("model_memory_mb", "7")];
        let flags: Vec<_> = values.iter().map(|(name, value)| (find(name).unwrap(), (*value).to_owned())).collect();
        let home = BTreeMap::from([("HOME".to_owned(), "/home/someone".to_owned())]);
        load(&flags, &home).unwrap().settings
    }

    #[tokio::test]
    async fn what_is_reached_is_known_with_its_state_and_its_results() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path(), &ollama().await);
        let reached = reach(&settings).await.unwrap();
        assert_eq!(reached.memory, Some(7_000_000));
        let mut states: Vec<_> = reached
            .models
            .iter()
            .map(|reached| (reached.candidate.info.name.as_str(), reached.candidate.presence.clone()))
            .collect();
        states.sort_by(|a, b| a.0.cmp(b.0));
        let expected = [
            ("deepseek-coder:6.7b", Presence::Absent),
            ("mistral:7b", Presence::Ready),
            ("qwen3:8b", Presence::Loaded),
            ("smollm2:135m", Presence::Absent),
            ("tinyllama:latest", Presence::Absent),
        ];
        assert_eq!(states, expected);

        let qwen = reached.find("QWEN3:8b").unwrap();
        let info = &qwen.candidate.info;
        assert_eq!((info.digest.as_deref(), info.memory, info.capabilities.tools), (Some("d1"), Some(6_000), true));
        assert!(qwen.candidate.measured.is_none() && qwen.model().is_ok());
        let small = &reached.find("smollm2").unwrap().candidate.info;
        assert!(small.digest.as_deref().is_some_and(|digest| digest.len() == 64) && small.memory.is_some());
        for name in ["tinyllama", "nobody"] {
            assert_eq!(reached.find(name).err().unwrap().code(), "model_not_found", "{name}");
        }

        // The next one who looks finds what was measured.
        let result = BenchResult::new(qwen.key(&reached.machine), Timestamp::from_millis(1), Measured::default());
        BenchResults::of(&model_store(&settings)).put(result).await.unwrap();
        let again = reach(&settings).await.unwrap();
        assert_eq!(again.find("qwen3:8b").unwrap().candidate.measured, Some(Measured::default()));
        assert_eq!(again.find("mistral:7b").unwrap().candidate.measured, None);
    }

    #[test]
    fn loopback_is_here() {
        for (address, here) in [
            ("http://127.0.0.1:11434", true),
            ("http://localhost:1", true),
            ("http://[::1]:1", true),
            ("http://10.0.0.7:11434", false),
            ("https://ollama.example", false),
            ("nowhere", false),
        ] {
            assert_eq!(is_here(address), here, "{address}");
        }
        assert!(is_same("tinyllama", "TinyLlama:latest") && !is_same("qwen3", "qwen3:8b"));
    }
}
