//! The one layer around every route: who may speak, request ids, time limits, panics, security headers, errors, metrics.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use utoipa::openapi::OpenApi;
use uuid::Uuid;

use super::{dialect::Dialect, guard, models::TASK_ID, parameters::Parameters, problem::Problem, state::AppState};
use crate::metrics::Routes;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the edge of a group of routes needs.
#[derive(Clone)]
pub(super) struct Edge {
    state: AppState,
    routes: Arc<Routes>,
    parameters: Arc<Parameters>,
    /// How long an answer may take, its body included.
    limit: Duration,
    ids: Arc<RequestIds>,
}

impl Edge {
    /// Of all routes that `document` describes.
    pub(super) fn new(state: &AppState, document: &OpenApi) -> Self {
        Self {
            state: state.clone(),
            routes: Arc::new(Routes::new(state.metrics(), document.paths.paths.keys())),
            parameters: Arc::new(Parameters::of(document)),
            limit: Duration::MAX,
            ids: Arc::new(RequestIds::new()),
        }
    }

    /// The same for routes that may take so long.
    pub(super) fn within(&self, limit: Duration) -> Arc<Self> {
        Arc::new(Self { limit, ..self.clone() })
    }

    fn admits(&self, request: &Request, route: Option<&MatchedPath>) -> Result<(), Problem> {
        let (method, uri) = (request.method(), request.uri());
        guard::check(method, uri, request.headers(), &self.state.options().allowed_hosts)?;
        match (route, uri.query()) {
            (Some(route), Some(query)) => self.parameters.check(route.as_str(), method, query),
            _ => Ok(()),
        }
    }
}

/// The id of a request that has passed the edge.
pub(super) fn request_id(headers: &HeaderMap) -> &str {
    headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default()
}

/// Carries one request through.
pub(super) async fn pass(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = edge.ids.of(request.headers());
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let dialect = Dialect::of(request.uri().path());
    let mut response = match edge.admits(&request, path.as_ref()) {
        Ok(()) => answer(next.run(request), edge.limit).await,
        Err(problem) => problem.into_response(),
    };
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = write(dialect, &problem, &id, response.headers());
    }
    dress(response.headers_mut(), id);
    edge.routes.observe(&method, path.as_ref().map(MatchedPath::as_str), response.status(), began.elapsed());
    response
}

async fn answer(work: impl Future<Output = Response>, limit: Duration) -> Response {
    let Ok(outcome) = tokio::time::timeout(limit, AssertUnwindSafe(work).catch_unwind()).await else {
        let detail = "the answer took too long; the work may still be done: read before you repeat it";
        return Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail).into_response();
    };
    outcome
        .unwrap_or_else(|panic| Problem::internal(format!("a handler panicked: {}", message(&*panic))).into_response())
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// A problem as its address tells it, with the headers that the handler had set; faults of ours go to the log: a name that the client has wrong is none.
fn write(dialect: Dialect, problem: &Problem, id: &HeaderValue, headers: &HeaderMap) -> Response {
    let id = id.to_str().unwrap_or_default();
    if let Some(report) = problem.report()
        && dialect.status(problem).is_server_error()
    {
        tracing::error!(request_id = id, code = problem.code(), report, "a request failed");
    }
    let mut response = dialect.respond(problem, id);
    for name in [header::ALLOW, TASK_ID] {
        if let Some(value) = headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

fn dress(headers: &mut HeaderMap, id: HeaderValue) {
    headers.insert(REQUEST_ID, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

/// Where the ids of requests without one come from: unique among processes and within this one.
pub(super) struct RequestIds {
    process: String,
    next: AtomicU64,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        // The last 8 of a UUIDv7's 16 bytes are random.
        let process = Uuid::now_v7().simple().to_string().split_off(20);
        Self { process, next: AtomicU64::new(1) }
    }

    /// The caller's, if it sent a sane one, else a new one.
    fn of(&self, headers: &HeaderMap) -> HeaderValue {
        if let Some(id) = headers.get(REQUEST_ID).filter(|id| is_sane(id.as_bytes())) {
            return id.clone();
        }
        let id = format!("{}-{:x}", self.process, self.next.fetch_add(1, Ordering::Relaxed));
        HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("-"))
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=128).contains(&id.len()) && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sane_id_of_the_caller_is_kept() {
        let ids = RequestIds::new();
        let of = |id: &[u8]| ids.of(&HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_bytes(id).unwrap())]));
        assert_eq!(of(b"abc-123"), "abc-123");
        for strange in [&b""[..], b"a b", b"<script>", b"\xfc", &[b'x'; 129]] {
            assert_ne!(of(strange).as_bytes(), strange);
        }
        assert_ne!(ids.of(&HeaderMap::new()), ids.of(&HeaderMap::new()));
    }
}
