//! Sending: the one place here that talks to a server.

use std::{fmt, time::Duration};

use reqwest::{Client, RequestBuilder, Response, Url, header};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sutazai_core::{Error, Result};

use super::wire::{Shown, Tag, Tags, Version, refused, unavailable};
use crate::http;

/// How long a server may be silent: it may have to load a large model from a slow disk first.
const SILENCE: Duration = Duration::from_secs(600);
/// How long questions that need no model may take.
const QUICK: Duration = Duration::from_secs(10);
/// Bytes of a refusal that are read.
const REFUSAL: usize = 64 << 10;

/// An Ollama at an address. Cheap to clone.
#[derive(Clone)]
pub struct OllamaClient {
    base: Url,
    client: Client,
}

/// Without the credentials that the address may carry.
impl fmt::Debug for OllamaClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OllamaClient").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl OllamaClient {
    /// A client for the Ollama at `base`, such as `http://127.0.0.1:11434`. Sends nothing yet.
    pub fn new(base: &str) -> Result<Self> {
        let base = http::parse(base)?;
        let client = http::client(&base, SILENCE)?;
        Ok(Self { base, client })
    }

    /// Its address, without credentials.
    #[must_use]
    pub fn address(&self) -> String {
        http::shown(&self.base)
    }

    /// The models that it holds.
    pub async fn tags(&self) -> Result<Vec<Tag>> {
        self.tags_within(QUICK).await
    }

    pub(super) async fn tags_within(&self, limit: Duration) -> Result<Vec<Tag>> {
        let tags: Tags = self.json(self.get("api/tags")?.timeout(limit), None).await?;
        Ok(tags.models)
    }

    /// What it knows about a model; code `model_not_found` if it does not hold it.
    pub async fn show(&self, model: &str) -> Result<Shown> {
        self.json(self.post("api/show", &json!({"model": model}))?.timeout(QUICK), Some(model)).await
    }

    /// Its version.
    pub async fn version(&self) -> Result<String> {
        let version: Version = self.json(self.get("api/version")?.timeout(QUICK), None).await?;
        Ok(version.version)
    }

    fn get(&self, path: &str) -> Result<RequestBuilder> {
        Ok(self.client.get(self.url(path)?))
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<RequestBuilder> {
        Ok(self.client.post(self.url(path)?).json(body))
    }

    fn url(&self, path: &str) -> Result<Url> {
        self.base
            .join(path)
            .map_err(|error| unavailable("the address cannot be used").about(self.address()).because(error))
    }

    /// Sends, and gives the answer if it is a good one.
    pub(super) async fn send(&self, request: RequestBuilder, model: Option<&str>) -> Result<Response> {
        let mut response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let mut body = Vec::new();
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece);
            if body.len() > REFUSAL {
                break;
            }
        }
        Err(refused(status.as_u16(), wait.map(Duration::from_secs), &body, model)
            .during("ask")
            .about(model.map_or_else(|| self.address(), str::to_owned)))
    }

    pub(super) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder, model: Option<&str>) -> Result<T> {
        self.send(request, model).await?.json().await.map_err(|error| self.unreachable(error))
    }

    pub(super) fn unreachable(&self, error: reqwest::Error) -> Error {
        let message = if error.is_decode() {
            "what answers is no Ollama"
        } else if error.is_connect() {
            "no Ollama answers; start it or set OLLAMA_BASE_URL"
        } else {
            "the connection to Ollama failed"
        };
        unavailable(message).during("ask").about(self.address()).because(error.without_url())
    }
}
