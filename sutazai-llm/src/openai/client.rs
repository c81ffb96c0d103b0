//! Sending: the one place here that talks to a server.

use std::{fmt, time::Duration};

use reqwest::{Client, RequestBuilder, Response, Url, header};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use sutazai_core::{Error, ErrorKind, Result};

use super::refusal::{refused, silent, unavailable, unreadable};
use crate::http;

/// How long a server may be silent: it may have others to serve first, or a large model to load.
const SILENCE: Duration = Duration::from_secs(600);
/// How long questions that need no model may take.
const QUICK: Duration = Duration::from_secs(10);
/// Bytes of an answer that is read as a whole; 64 long vectors take a tenth of it.
const LONGEST: usize = 64 << 20;
/// Models of a long list that an error names.
const NAMED: usize = 10;

/// An API of OpenAI's format at an address. Cheap to clone.
#[derive(Clone)]
pub struct OpenAiClient {
    base: Url,
    client: Client,
    key: Option<SecretString>,
}

/// Without the key, and without the credentials that the address may carry.
impl fmt::Debug for OpenAiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiClient").field("address", &self.address()).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Listed {
    data: Vec<ListedModel>,
}

#[derive(Deserialize)]
struct ListedModel {
    id: String,
}

impl OpenAiClient {
    /// A client for the API at `base`, such as `http://127.0.0.1:8000/v1`: what stands there before `/chat/completions`. Sends nothing yet. Fails as
    /// invalid if that is no address.
    pub fn new(base: &str) -> Result<Self> {
        let base = http::parse(base)?;
        let client = http::client(&base, SILENCE)?;
        Ok(Self { base, client, key: None })
    }

    /// Sends this key with every request, in place of credentials in the address. White space around it does not count, and an empty one is none. It is
    /// never shown.
    #[must_use]
    pub fn api_key(mut self, key: SecretString) -> Self {
        if key.expose_secret().trim().is_empty() {
            self.key = None;
            return self;
        }
        // A request has room for one of them.
        let _ = self.base.set_username("");
        let _ = self.base.set_password(None);
        self.key = Some(key);
        self
    }

    /// Its address, without credentials.
    #[must_use]
    pub fn address(&self) -> String {
        http::shown(&self.base)
    }

    /// The ids of the models that it serves, in its order. Fails with code `model_unavailable` if no such API answers, `model_timeout` if not within ten
    /// seconds, and `model_unauthorised` if it refuses the key.
    pub async fn models(&self) -> Result<Vec<String>> {
        let request = self.with_key(self.client.get(self.url("models")?)).timeout(QUICK);
        let listed: Listed = self.json(request, None).await?;
        Ok(listed.data.into_iter().map(|model| model.id).collect())
    }

    /// Fails with code `model_not_found` unless it lists `model`.
    pub(super) async fn holds(&self, model: &str) -> Result<()> {
        let models = self.models().await?;
        if models.iter().any(|id| id == model) {
            return Ok(());
        }
        let more = if models.len() > NAMED { " and others" } else { "" };
        let message = match models.get(..models.len().min(NAMED)) {
            None | Some([]) => "the server serves no model".to_owned(),
            Some(some) => format!("the server does not serve this model; it serves {}{more}", some.join(", ")),
        };
        Err(Error::new(ErrorKind::NotFound, message).with_code("model_not_found").during("find model").about(model))
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<RequestBuilder> {
        Ok(self.with_key(self.client.post(self.url(path)?)).json(body))
    }

    fn url(&self, path: &str) -> Result<Url> {
        self.base
            .join(path)
            .map_err(|error| unavailable("the address cannot be used").about(self.address()).because(error))
    }

    fn key(&self) -> Option<&str> {
        self.key.as_ref().map(|key| key.expose_secret().trim())
    }

    fn with_key(&self, request: RequestBuilder) -> RequestBuilder {
        match self.key() {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends, and gives the answer if it is a good one.
    async fn send(&self, request: RequestBuilder, model: Option<&str>) -> Result<Response> {
        let response = request.send().await.map_err(|error| self.failed(error, model))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response, model).await) }
    }

    /// Sends, and gives the answer if it may be a stream.
    pub(super) async fn stream(&self, request: RequestBuilder, model: &str) -> Result<Response> {
        let response = self.send(request, Some(model)).await?;
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        // The page of a proxy, or a server that does not stream: neither is waited for as if it were an answer.
        if ["text/html", "application/json"].iter().any(|other| kind.starts_with(other)) {
            return Err(self.refused(response, Some(model)).await);
        }
        Ok(response)
    }

    /// Sends, and reads the answer as a whole.
    pub(super) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder, model: Option<&str>) -> Result<T> {
        let response = self.send(request, model).await?;
        let body = http::read(response, LONGEST).await.map_err(|error| self.failed(error, model))?;
        serde_json::from_slice(&body).map_err(|error| self.explained(unreadable().because(error), model))
    }

    async fn refused(&self, response: Response, model: Option<&str>) -> Error {
        match http::refusal(response).await {
            Ok(refusal) => self.explained(refused(&refusal, model, self.key()), model),
            Err(error) => self.failed(error, model),
        }
    }

    /// What it means that a request or an answer did not come through.
    pub(super) fn failed(&self, error: reqwest::Error, model: Option<&str>) -> Error {
        let meant = if error.is_builder() {
            Error::new(ErrorKind::Invalid, "the request cannot be written; an API key is of visible ASCII characters")
        } else if error.is_connect() {
            unavailable("no server answers; start it, or correct its address")
        } else if error.is_timeout() {
            silent("the server says nothing")
        } else {
            unavailable("the connection to the server failed")
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
