//! Finding an Ollama that runs.

use std::{env, time::Duration};

use futures_util::future::join_all;

use super::{client::OllamaClient, models::Tag};

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

/// The first of these addresses where an Ollama answers that holds the model `name`; a second for each at most.
pub async fn discover(urls: &[String], name: &str) -> Option<Discovered> {
    for url in urls {
        if let Some(found) = ask(url).await.filter(|found| found.holds(name)) {
            return Some(found);
        }
    }
    None
}

/// Every Ollama that answers at one of these addresses, with what it holds.
pub async fn answering(urls: &[String]) -> Vec<Discovered> {
    join_all(urls.iter().map(|url| ask(url))).await.into_iter().flatten().collect()
}

async fn ask(url: &str) -> Option<Discovered> {
    let client = OllamaClient::new(url).ok()?;
    let models = client.tags_within(LIMIT).await.ok()?;
    Some(Discovered { client, models })
}
