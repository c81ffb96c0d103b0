//! Sending: the one place here that talks to a server.

use std::{fmt, time::Duration};

use futures_core::stream::BoxStream;
use reqwest::{Client, RequestBuilder, Response, Url};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};
use sutazai_core::{Error, Result, model::ModelInfo};

use super::{
    models::{Processes, Running, Shown, Tag, Tags, Version},
    ndjson::{Ndjson, ReadLine},
    refusal::{refused, silent, unavailable},
    request::unload_body,
};
use crate::http;

/// How long a server may be silent: it may have others to serve first, or a large model to load from a slow disk. No more than a guard: who knows
/// better how long a model needs waits less, as the gateway does.
pub(super) const SILENCE: Duration = Duration::from_secs(600);
/// How long questions that need no model may take.
const QUICK: Duration = Duration::from_secs(10);
/// Bytes of an answer that is read as a whole; 64 long vectors take a tenth of it.
const LONGEST: usize = 64 << 20;

/// An Ollama at an address. Cheap to clone.
///
/// Errors of every call, beside its own: code `model_unavailable` if no Ollama answers, or one that cannot serve now; `model_timeout` if it is silent,
/// after ten seconds where it need not load a model; `queue_full`, with a pause, if it has too much to do; `out_of_memory` if a model does not fit, which
/// is not temporary; `model_unauthorised` if it lets nobody in; kind `Invalid` if it refuses a request as wrong.
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
    /// A client for the Ollama at `base`, such as `http://127.0.0.1:11434`. Sends nothing yet. Fails as invalid if that is no address.
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

    /// The models that it holds, newest first.
    pub async fn tags(&self) -> Result<Vec<Tag>> {
        self.tags_within(QUICK).await
    }

    pub(super) async fn tags_within(&self, limit: Duration) -> Result<Vec<Tag>> {
        let tags: Tags = self.json(self.get("api/tags")?.timeout(limit), None).await?;
        Ok(tags.models.unwrap_or_default())
    }

    /// The models that it has in memory. One that was told to leave may still show for a moment.
    pub async fn ps(&self) -> Result<Vec<Running>> {
        let processes: Processes = self.json(self.get("api/ps")?.timeout(QUICK), None).await?;
        Ok(processes.models.unwrap_or_default())
    }

    /// What it knows about a model; code `model_not_found` if it does not hold it.
    pub async fn show(&self, model: &str) -> Result<Shown> {
        self.json(self.post("api/show", &json!({"model": model}))?.timeout(QUICK), Some(model)).await
    }

    /// Takes a model from its disk; code `model_not_found` if it does not hold it. Weights that another model shares stay.
    pub async fn delete(&self, model: &str) -> Result<()> {
        let request = self.client.delete(self.url("api/delete")?).json(&json!({"model": model}));
        self.send(request.timeout(QUICK), Some(model)).await.map(drop)
    }

    /// Its version.
    pub async fn version(&self) -> Result<String> {
        let version: Version = self.json(self.get("api/version")?.timeout(QUICK), None).await?;
        Ok(version.version)
    }

    /// A model as this backend presents it, from what the server says in several places; at most `context` tokens of context.
    pub(super) async fn describe(&self, model: &str, context: usize) -> Result<ModelInfo> {
        let (shown, tags, running) = tokio::join!(self.show(model), self.tags(), self.ps());
        // Old versions cannot say what is in memory, and the model can be used all the same.
        Ok(shown?.described(model, context, &tags?, &running.unwrap_or_default()))
    }

    /// Loads a model by this request, which the server answers when it is there.
    pub(super) async fn load(&self, path: &str, body: &Value, model: &str) -> Result<()> {
        self.json::<IgnoredAny>(self.post(path, body)?, Some(model)).await.map(drop)
    }

    /// Has the server unload a model as soon as it is not busy.
    pub(super) async fn unload(&self, model: &str) -> Result<()> {
        let request = self.post("api/generate", &unload_body(model))?.timeout(QUICK);
        self.json::<IgnoredAny>(request, Some(model)).await.map(drop)
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
    async fn send(&self, request: RequestBuilder, model: Option<&str>) -> Result<Response> {
        let response = request.send().await.map_err(|error| self.failed(error, model))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let refusal = http::refusal(response).await.map_err(|error| self.failed(error, model))?;
        Err(self.explained(refused(&refusal, model), model))
    }

    /// Sends, and reads the answer as a whole.
    pub(super) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder, model: Option<&str>) -> Result<T> {
        let response = self.send(request, model).await?;
        let body = http::read(response, LONGEST).await.map_err(|error| self.failed(error, model))?;
        serde_json::from_slice(&body)
            .map_err(|error| self.explained(unavailable("what answers is no Ollama").because(error), model))
    }

    /// Sends, and reads the answer line by line as it comes. An error in place of the first line is one of this call. Dropping the stream closes the
    /// connection, which makes the server stop.
    pub(super) async fn lines<R: ReadLine>(
        &self,
        request: RequestBuilder,
        model: &str,
        reader: R,
    ) -> Result<BoxStream<'static, Result<R::Item>>> {
        let response = self.send(request, Some(model)).await?;
        let (client, name) = (self.clone(), model.to_owned());
        http::decoded(response, move |error| client.failed(error, Some(&name)), Ndjson::new(reader)).await
    }

    /// What it means that a request or an answer did not come through.
    fn failed(&self, error: reqwest::Error, model: Option<&str>) -> Error {
        let meant = if error.is_connect() {
            unavailable("no Ollama answers; start it or set OLLAMA_BASE_URL")
        } else if error.is_timeout() {
            silent("Ollama says nothing")
        } else {
            unavailable("the connection to Ollama failed")
        };
        // A model's name alone does not say which server it is.
        let meant = meant.because(error.without_url());
        match model {
            Some(model) => meant.during("ask").about(format!("{model} at {}", self.address())),
            None => self.explained(meant, None),
        }
    }

    fn explained(&self, error: Error, model: Option<&str>) -> Error {
        error.during("ask").about(model.map_or_else(|| self.address(), str::to_owned))
    }
}
