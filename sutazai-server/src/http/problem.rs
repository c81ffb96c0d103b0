//! Every error of the API: a problem document (RFC 9457) with a stable code.

use std::{borrow::Cow, time::Duration};

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sutazai_core::{Error, ErrorKind, Fault};
use utoipa::ToSchema;

use super::{codes, reply::document};

/// An error on its way out. The edge writes it as a document, since only the edge knows the request's id.
#[derive(Clone, Debug)]
pub(super) struct Problem(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    faults: Vec<Fault>,
    retry_after: Option<Duration>,
    /// For the log alone: causes may name paths and hosts.
    report: Option<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        Self(Box::new(Inner { status, code, detail, faults: Vec::new(), retry_after: None, report: None }))
    }

    /// A request that is well-formed but wrong.
    pub(super) fn invalid(detail: impl Into<Cow<'static, str>>, faults: Vec<Fault>) -> Self {
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail);
        problem.0.faults = faults;
        problem
    }

    /// One wrong field.
    pub(super) fn field(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid("the request is wrong", vec![Fault::new(path, message)])
    }

    /// The same problem in other words.
    pub(super) fn with_detail(mut self, detail: &'static str) -> Self {
        self.0.detail = detail.into();
        self
    }

    pub(super) fn not_found(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// A fault of ours; `report` goes to the log.
    pub(super) fn internal(report: impl Into<String>) -> Self {
        let detail = "the server made a mistake; its log has more under this request id";
        let mut problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail);
        problem.0.report = Some(report.into());
        problem
    }

    /// The same problem for a body that is the input itself: its paths do not begin with `/input`.
    pub(super) fn of_input(mut self) -> Self {
        for fault in &mut self.0.faults {
            if let Some(rest) = fault.path.strip_prefix("/input") {
                fault.path = rest.to_owned();
            }
        }
        self
    }

    /// The same problem of a part of the body: `/input` of a task becomes `/task/input` of a schedule.
    pub(super) fn below(mut self, prefix: &str) -> Self {
        self.0.faults = self.0.faults.into_iter().map(|fault| fault.below(prefix)).collect();
        self
    }

    pub(super) fn status(&self) -> StatusCode {
        self.0.status
    }

    pub(super) fn detail(&self) -> &str {
        &self.0.detail
    }

    pub(super) fn faults(&self) -> &[Fault] {
        &self.0.faults
    }

    pub(super) fn code(&self) -> &'static str {
        self.0.code
    }

    pub(super) fn report(&self) -> Option<&str> {
        self.0.report.as_deref()
    }

    /// The document, as part of a larger one or alone.
    pub(super) fn view<'a>(&'a self, request_id: &'a str) -> ProblemView<'a> {
        let Inner { status, code, detail, faults, .. } = &*self.0;
        let known = codes::find(code);
        ProblemView {
            // A code that the page does not explain has no anchor there.
            r#type: known.map_or_else(|| "/docs/errors".into(), |_| format!("/docs/errors#{code}")),
            title: known.map(|known| known.title).or(status.canonical_reason()).unwrap_or("Error"),
            status: status.as_u16(),
            detail,
            code,
            request_id,
            errors: faults,
        }
    }

    /// The whole answer.
    pub(super) fn respond(&self, request_id: &str) -> Response {
        let body = serde_json::to_string(&self.view(request_id)).unwrap_or_default();
        self.respond_as(self.0.status, "application/problem+json", body)
    }

    /// The same in other words, which are a `body` of `kind`: when to come back is said in a header.
    pub(super) fn respond_as(&self, status: StatusCode, kind: &'static str, body: String) -> Response {
        let mut response = document(status, kind, body);
        let comes_back = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if let Some(delay) = self.0.retry_after.filter(|_| comes_back) {
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.max(1).into());
        }
        response
    }
}

/// Leaves the problem for the edge to write.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The one place that decides what status an error of the house has.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match (error.kind(), error.code()) {
            (_, "queue_full" | "budget_exceeded") => StatusCode::TOO_MANY_REQUESTS,
            // The answer was to be a task's, and the task came to another end.
            (_, "task_failed" | "task_cancelled") => StatusCode::FAILED_DEPENDENCY,
            // A model is what the work needs. Where it is what the request names, the address says so (see `Dialect`).
            (_, "model_not_found" | "model_damaged" | "model_unavailable" | "model_unsupported" | "out_of_memory") => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            // Wrong is what the operator has set up, not what the client asks for.
            (_, "store_denied" | "store_missing") => StatusCode::SERVICE_UNAVAILABLE,
            // Nor is the client wrong where a model or its server is.
            (_, "model_unauthorised" | "model_malformed" | "answer_invalid" | "tool_loop") => StatusCode::BAD_GATEWAY,
            (ErrorKind::Invalid | ErrorKind::Unsupported, _) => StatusCode::UNPROCESSABLE_ENTITY,
            (ErrorKind::NotFound, _) => StatusCode::NOT_FOUND,
            (ErrorKind::Conflict | ErrorKind::Stale | ErrorKind::Cancelled, _) => StatusCode::CONFLICT,
            (ErrorKind::Full | ErrorKind::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
            (ErrorKind::Timeout, _) => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut problem = match status {
            StatusCode::INTERNAL_SERVER_ERROR => Self::internal(error.report()),
            _ => Self::new(status, error.code(), error.to_string()),
        };
        problem.0.faults = error.faults().to_vec();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            // A task's budget that is used up has no moment at which to come back.
            let is_final = status == StatusCode::TOO_MANY_REQUESTS && error.kind() == ErrorKind::Conflict;
            let soon = (!is_final).then_some(Duration::from_secs(1));
            problem.0.retry_after = error.delay().or(soon);
        }
        if status.is_server_error() && !is_ending(&error) {
            problem.0.report = Some(error.report());
        }
        problem
    }
}

/// Whether an error says nothing but that the server is about to end.
pub(super) fn is_ending(error: &Error) -> bool {
    matches!(error.code(), "shutting_down" | "store_closed")
}

/// A problem document (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemView<'a> {
    /// Where this kind of problem is explained, relative to the server.
    #[schema(example = "/docs/errors#task_not_found")]
    r#type: String,
    /// The kind of problem, for people.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// What happened this time and what to do.
    detail: &'a str,
    /// Stable; programs match on it.
    #[schema(example = "task_not_found")]
    code: &'a str,
    /// The id to quote, as in `x-request-id`.
    request_id: &'a str,
    /// The fields at fault.
    #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
    #[schema(value_type = Vec<FaultView>)]
    errors: &'a [Fault],
}

/// One bad field.
#[derive(ToSchema)]
#[schema(as = Fault)]
#[allow(dead_code, reason = "describes core's `Fault`, which knows nothing of OpenAPI")]
pub(super) struct FaultView {
    /// JSON pointer (RFC 6901) into the body, or the name of a query parameter behind a slash.
    #[schema(example = "/input/question")]
    path: String,
    /// What was found and what is allowed.
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_decides_the_status_and_the_log_keeps_the_cause() {
        let status = |kind| Problem::from(Error::new(kind, "m")).status().as_u16();
        assert_eq!(status(ErrorKind::Invalid), 422);
        assert_eq!(status(ErrorKind::NotFound), 404);
        assert_eq!(status(ErrorKind::Conflict), 409);
        assert_eq!(status(ErrorKind::Unavailable), 503);
        assert_eq!(status(ErrorKind::Timeout), 504);
        assert_eq!(status(ErrorKind::Corrupt), 500);
        let problem = Problem::from(Error::new(ErrorKind::Internal, "broken").because("/secret/path"));
        let text = serde_json::to_string(&problem.view("r-1")).unwrap();
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(problem.report(), Some("broken: /secret/path"));
    }

    #[test]
    fn a_model_that_cannot_work_is_named() {
        for (kind, code) in [
            (ErrorKind::NotFound, "model_not_found"),
            (ErrorKind::Corrupt, "model_damaged"),
            (ErrorKind::Unsupported, "model_unsupported"),
        ] {
            let problem = Problem::from(Error::new(kind, "no model").with_code(code));
            assert_eq!((problem.status().as_u16(), problem.code()), (503, code));
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_is_the_model_s_fault_and_says_where() {
        let faults = vec![Fault::new("/answer/colour", "value is not one of [\"red\",\"green\"]")];
        let error = Error::new(ErrorKind::Failed, "it does not fit").with_code("answer_invalid");
        let problem = Problem::from(error.with_faults(faults.clone()));
        assert_eq!((problem.status().as_u16(), problem.faults()), (502, &*faults));
        let problem = Problem::from(Error::new(ErrorKind::Failed, "it goes on").with_code("tool_loop"));
        assert_eq!(problem.status().as_u16(), 502);
    }

    #[test]
    fn a_store_that_refuses_is_no_fault_of_the_client() {
        let denied = Error::new(ErrorKind::Invalid, "permission denied").with_code("store_denied").because("role app");
        let problem = Problem::from(denied);
        assert_eq!((problem.status().as_u16(), problem.report()), (503, Some("permission denied: role app")));
    }

    #[test]
    fn an_address_of_a_code_is_never_empty() {
        let kind = |code| Problem::from(Error::new(ErrorKind::Conflict, "m").with_code(code)).view("").r#type;
        assert_eq!(kind("task_finished"), "/docs/errors#task_finished");
        assert_eq!(kind("of_an_embedder"), "/docs/errors");
    }

    #[test]
    fn a_busy_server_says_when_to_come_back() {
        let error =
            Error::new(ErrorKind::Full, "full").with_code("queue_full").retry_after(Duration::from_millis(1_200));
        let response = Problem::from(error).respond("r-1");
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let soon = Problem::from(Error::new(ErrorKind::Full, "full").with_code("queue_full")).respond("r-1");
        assert_eq!(soon.headers()["retry-after"], "1");
    }

    #[test]
    fn nobody_is_told_to_come_back_for_what_will_not_be_there() {
        let beyond = || Error::new(ErrorKind::Conflict, "beyond a budget").with_code("budget_exceeded");
        let never = Problem::from(beyond()).respond("r-1");
        assert_eq!((never.status().as_u16(), never.headers().get("retry-after")), (429, None));
        let tomorrow = Problem::from(beyond().retry_after(Duration::from_secs(3_600))).respond("r-1");
        assert_eq!((tomorrow.status().as_u16(), &tomorrow.headers()["retry-after"]), (429, &"3600".parse().unwrap()));
    }
}
