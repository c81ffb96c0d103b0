//! Finding an Ollama that runs.

use std::{env, time::Duration};

use super::{client::OllamaClient, wire::Tag};

/// How long each address has to answer.
const LIMIT: Duration = Duration::from_secs(1);

/// An Ollama that answers, and what it holds.
#[derive(Clone, Debug)]
pub struct Discovered {
    /// The server.
    pub client: OllamaClient,
    /// Its models.
    pub models: Vec<Tag>,
}

impl Discovered {
    /// Whether it holds the model of this name.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        self.models.iter().any(|model| model.is(name))
    }
}

/// Where an Ollama may run: `OLLAMA_BASE_URL`, then this machine at Ollama's own port and at 10104.
#[must_use]
pub fn default_urls() -> Vec<String> {
    let mut urls = vec!["http://127.0.0.1:11434".to_owned(), "http://127.0.0.1:10104".to_owned()];
    if let Some(url) = env::var("OLLAMA_BASE_URL").ok().filter(|url| !url.trim().is_empty()) {
        urls.retain(|known| *known != url);
        urls.insert(0, url);
    }
    urls
}

/// The first of these addresses where an Ollama answers; a second for each at most.
pub async fn discover(urls: &[String]) -> Option<Discovered> {
    for url in urls {
        let Ok(client) = OllamaClient::new(url) else { continue };
        if let Ok(models) = client.tags_within(LIMIT).await {
            return Some(Discovered { client, models });
        }
    }
    None
}
