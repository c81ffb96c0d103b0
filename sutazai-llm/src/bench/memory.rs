//! What a model takes of the memory, as whoever holds it can tell.

use async_trait::async_trait;

use super::machine::own_memory;
use crate::ollama::OllamaClient;

/// Tells what a model takes while it is loaded.
#[async_trait]
pub trait MemoryProbe: Send + Sync + 'static {
    /// Bytes that the model takes now; nothing where that cannot be told.
    async fn resident(&self) -> Option<u64>;
}

/// Cannot tell.
#[async_trait]
impl MemoryProbe for () {
    async fn resident(&self) -> Option<u64> {
        None
    }
}

/// A model in this process: what the process has grown by since the probe was made. It is made before the model is loaded, and while nothing else grows.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMemory {
    before: Option<u64>,
}

impl ProcessMemory {
    /// Looks at the process as it is now.
    pub async fn start() -> Self {
        Self { before: own_memory().await }
    }
}

#[async_trait]
impl MemoryProbe for ProcessMemory {
    async fn resident(&self) -> Option<u64> {
        grown(self.before, own_memory().await)
    }
}

/// What is more now than before, if anything is.
fn grown(before: Option<u64>, now: Option<u64>) -> Option<u64> {
    now?.checked_sub(before?).filter(|bytes| *bytes > 0)
}

/// A model of an Ollama, which says what its models take.
#[derive(Clone, Debug)]
pub struct OllamaMemory {
    client: OllamaClient,
    model: String,
}

impl OllamaMemory {
    /// The model of this name there.
    pub fn new(client: OllamaClient, model: impl Into<String>) -> Self {
        Self { client, model: model.into() }
    }
}

#[async_trait]
impl MemoryProbe for OllamaMemory {
    async fn resident(&self) -> Option<u64> {
        let running = self.client.ps().await.ok()?;
        running.iter().find(|running| running.is(&self.model)).map(|running| running.size).filter(|bytes| *bytes > 0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fake_http::{FakeHttpServer, FakeResponse};

    #[test]
    fn only_what_has_grown_is_known() {
        assert_eq!(grown(Some(10), Some(15)), Some(5));
        for (before, now) in [(Some(15), Some(10)), (Some(10), Some(10)), (None, Some(10)), (Some(10), None)] {
            assert_eq!(grown(before, now), None);
        }
    }

    #[tokio::test]
    async fn an_ollama_says_what_its_models_take() {
        let server = FakeHttpServer::start(|request| {
            assert_eq!(request.path, "/api/ps");
            FakeResponse::json(
                json!({"models": [{"name": "tinyllama:latest", "size": 700}, {"name": "qwen3:8b", "size": 0}]}),
            )
        })
        .await;
        let client = OllamaClient::new(&server.url()).unwrap();
        for (name, bytes) in [("tinyllama", Some(700)), ("qwen3:8b", None), ("mistral:7b", None)] {
            assert_eq!(OllamaMemory::new(client.clone(), name).resident().await, bytes, "{name}");
        }
        assert_eq!(().resident().await, None);
    }
}
