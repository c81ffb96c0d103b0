//! What operators and their tools ask: is it alive, is it ready, how is it doing, which build is it.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;
use sutazai_core::{
    Error, ErrorKind, Result,
    agent::{AgentDescriptor, ModelRole},
};
use utoipa::ToSchema;

use super::{
    build::BuildInfo,
    reply::{Reply, document, json},
    state::AppState,
    views::Availability,
};
use crate::metrics::{CONTENT_TYPE, QueueState};

/// How long the store has to answer those who ask how the server is: they do not wait long themselves.
const PROMPTLY: Duration = Duration::from_secs(3);

/// The check of the server that keeps answers. The work goes on without it, only slower: it never makes this server unready.
const ANSWER_CACHE: &str = "answer_cache";

async fn promptly<T>(asked: impl Future<Output = Result<T>>) -> Result<T> {
    within("the store", "store_timeout", asked).await
}

/// The same of something else.
async fn within<T>(who: &str, code: &'static str, asked: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PROMPTLY, asked).await.unwrap_or_else(|_| {
        let message = format!("{who} did not answer within {} s", PROMPTLY.as_secs());
        Err(Error::new(ErrorKind::Timeout, message).with_code(code))
    })
}

/// That the process lives.
#[derive(Serialize, ToSchema)]
pub(super) struct Health<'a> {
    /// `ok`.
    #[schema(example = "ok")]
    pub(super) status: &'a str,
    pub(super) version: &'a str,
    /// Seconds since the start.
    pub(super) uptime_s: u64,
}

/// Is it alive?
#[utoipa::path(get, path = "/health", tag = "operators", operation_id = "health",
    responses((status = 200, description = "The process lives", body = Health<'static>)))]
pub(super) async fn health(State(state): State<AppState>) -> Reply {
    let version = env!("CARGO_PKG_VERSION");
    json(StatusCode::OK, &Health { status: "ok", version, uptime_s: state.uptime().as_secs() }, 128)
}

/// Which build is it?
#[utoipa::path(get, path = "/version", tag = "operators", operation_id = "version",
    responses((status = 200, description = "The build", body = BuildInfo)))]
pub(super) async fn version() -> Reply {
    json(StatusCode::OK, &BuildInfo::current(), 256)
}

/// Whether work can be done, and what is missing.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    /// `ok` or `unavailable`.
    #[schema(example = "ok")]
    status: &'static str,
    /// What was looked at.
    checks: BTreeMap<&'static str, Check>,
}

/// One thing that was looked at.
#[derive(Clone, Serialize, ToSchema)]
pub(super) struct Check {
    /// `ok` or `unavailable`.
    status: &'static str,
    /// What is wrong and what to do.
    #[schema(required = true)]
    detail: Option<String>,
}

impl From<Result<()>> for Check {
    fn from(outcome: Result<()>) -> Self {
        match outcome {
            Ok(()) => Self { status: "ok", detail: None },
            Err(error) => Self { status: "unavailable", detail: Some(error.to_string()) },
        }
    }
}

impl Readiness {
    /// Of the server: the store answers and work is taken. Beside it, whether kept answers are there.
    async fn of_server(state: &AppState) -> Self {
        let store = async { Some(promptly(state.orchestrator().ping()).await) };
        let answers = async {
            let asked = state.answers()?.ready();
            Some(within("the cache", "cache_timeout", asked).await)
        };
        let (store, answers) = tokio::join!(store, answers);
        let checks = [("store", store), (ANSWER_CACHE, answers)];
        checks.into_iter().filter_map(|(name, outcome)| Some((name, Check::from(outcome?)))).collect()
    }

    /// Of one agent: also its models are on disk.
    pub(super) async fn of_agent(state: &AppState, agent: &AgentDescriptor) -> Self {
        let Self { mut checks, .. } = Self::of_server(state).await;
        for role in &agent.models {
            checks.insert(check_name(*role), check_model(state, *role).await.into());
        }
        Self::from_iter(checks)
    }

    /// Of every kind of model, once for a list of agents.
    pub(super) async fn of_models(state: &AppState) -> Self {
        let mut checks = BTreeMap::new();
        for role in [ModelRole::Chat, ModelRole::Embedding] {
            checks.insert(check_name(role), check_model(state, role).await.into());
        }
        Self::from_iter(checks)
    }

    /// Whether what `agent` calls is there, by these checks.
    pub(super) fn availability(&self, agent: &AgentDescriptor) -> Availability {
        let ok = |role: &ModelRole| self.checks.get(check_name(*role)).is_some_and(|check| check.status == "ok");
        if agent.models.iter().all(ok) { Availability::Ready } else { Availability::Unavailable }
    }

    /// 200, or 503 with when to ask again.
    pub(super) fn reply(&self) -> Reply {
        if self.status == "ok" {
            return json(StatusCode::OK, self, 256);
        }
        let mut response = json(StatusCode::SERVICE_UNAVAILABLE, self, 512)?;
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        Ok(response)
    }
}

impl FromIterator<(&'static str, Check)> for Readiness {
    fn from_iter<I: IntoIterator<Item = (&'static str, Check)>>(checks: I) -> Self {
        let checks: BTreeMap<&'static str, Check> = BTreeMap::from_iter(checks);
        let ok = checks.iter().all(|(name, check)| check.status == "ok" || *name == ANSWER_CACHE);
        Self { status: if ok { "ok" } else { "unavailable" }, checks }
    }
}

fn check_name(role: ModelRole) -> &'static str {
    match role {
        ModelRole::Chat => "chat_model",
        ModelRole::Embedding => "embedding_model",
    }
}

async fn check_model(state: &AppState, role: ModelRole) -> Result<()> {
    let models = state.orchestrator().models();
    match role {
        ModelRole::Chat => models.chat(None)?.ready().await,
        ModelRole::Embedding => models.embedding(None)?.ready().await,
    }
}

/// Is it ready for work?
#[utoipa::path(get, path = "/ready", tag = "operators", operation_id = "ready",
    responses(
        (status = 200, description = "The store answers", body = Readiness),
        (status = 503, description = "Something is missing", body = Readiness),
    ))]
pub(super) async fn ready(State(state): State<AppState>) -> Reply {
    Readiness::of_server(&state).await.reply()
}

/// How is it doing?
#[utoipa::path(get, path = "/metrics", tag = "operators", operation_id = "metrics",
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(state): State<AppState>) -> Reply {
    prometheus(&state, None).await
}

/// The metrics, or those of one agent. A store that does not answer leaves the figures of the queue as they were last known.
pub(super) async fn prometheus(state: &AppState, agent: Option<&str>) -> Reply {
    let engine = state.orchestrator();
    let queue =
        async { Ok(QueueState { depths: engine.queue_depths().await?, queued: engine.task_store().queued().await? }) };
    let queue: Result<QueueState> = promptly(queue).await;
    let queue = queue.inspect_err(|error| tracing::warn!(error = %error.report(), "the queue cannot be counted")).ok();
    let text = state.metrics().text(engine.running(), queue.as_ref(), agent)?;
    Ok(document(StatusCode::OK, CONTENT_TYPE, text))
}

/// The description of this API
#[utoipa::path(get, path = "/openapi.json", tag = "operators", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(super) async fn openapi() -> Reply {
    Ok(document(StatusCode::OK, "application/json", super::docs::document()?))
}

/// The API for people
#[utoipa::path(get, path = "/docs", tag = "operators", operation_id = "docs",
    responses((status = 200, description = "A page that needs nothing from outside", body = String, content_type = "text/html")))]
pub(super) async fn docs() -> Reply {
    Ok(page(super::docs::reference()?))
}

/// The codes of errors for people
#[utoipa::path(get, path = "/docs/errors", tag = "operators", operation_id = "docs_errors",
    responses((status = 200, description = "What each code means and what to do", body = String, content_type = "text/html")))]
pub(super) async fn docs_errors() -> Reply {
    Ok(page(super::docs::errors()?))
}

fn page(html: bytes::Bytes) -> axum::response::Response {
    let mut response = document(StatusCode::OK, "text/html; charset=utf-8", html).into_response();
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_says_nothing_is_a_check_that_failed() {
        let check = Check::from(promptly(std::future::pending::<Result<()>>()).await);
        assert_eq!(
            (check.status, check.detail.as_deref()),
            ("unavailable", Some("the store did not answer within 3 s"))
        );
        assert_eq!(Check::from(promptly(async { Ok(()) }).await).status, "ok");
    }
}
