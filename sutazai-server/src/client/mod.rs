//! A client of the HTTP API, for the command line.

mod durable;
mod events;

use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::Value;

pub use self::events::TaskEvent;
use crate::{
    config::masked_url,
    process::{Exit, Failure},
};

/// How long an answer may take: longer than a server waits on purpose.
const PATIENCE: Duration = Duration::from_secs(90);

/// A server at an address. Nothing is sent before the first call.
#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    http: reqwest::Client,
}

/// An RFC 9457 answer, as far as people are told about it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
    code: String,
    errors: Vec<sutazai_core::Fault>,
}

impl Client {
    /// A client of the server at `base`, such as `http://127.0.0.1:10010`.
    pub fn new(base: &str) -> Result<Self, Failure> {
        let mut builder = reqwest::Client::builder().connect_timeout(Duration::from_secs(5));
        if is_local(base) {
            builder = builder.no_proxy();
        }
        let http = builder.build();
        let http = http.map_err(|error| Failure::new(Exit::Failed, format!("cannot start an HTTP client: {error}")))?;
        Ok(Self { base: base.to_owned(), http })
    }

    /// The server's address, to be shown.
    #[must_use]
    pub fn base(&self) -> String {
        masked_url(&self.base)
    }

    /// Whether a server of ours answers.
    pub async fn answers(&self) -> bool {
        let asked = self.request(Method::GET, "/version").timeout(Duration::from_secs(2)).send().await;
        let Ok(answer) = asked else { return false };
        let version = answer.json::<Value>().await.unwrap_or_default();
        version["name"] == env!("CARGO_PKG_NAME")
    }

    /// Reads what is at `path`.
    pub async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Failure> {
        self.send(self.request(Method::GET, path).query(query)).await
    }

    /// Posts `body` to `path`, with an idempotency key if one is given.
    pub async fn post(&self, path: &str, body: &Value, key: Option<&str>) -> Result<Value, Failure> {
        let request = self.request(Method::POST, path).json(body);
        self.send(keyed(request, key)).await
    }

    /// Reads a task.
    pub async fn task(&self, id: &str) -> Result<Value, Failure> {
        self.get(&format!("/api/v1/tasks/{}", segment(id)), &[]).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let answer = self.checked(request.timeout(PATIENCE).send().await).await?;
        answer.json().await.map_err(|error| {
            Failure::new(Exit::Failed, format!("{} gave no JSON: {}", self.base(), without_url(error)))
                .hint("is it a sutazai-server?")
        })
    }

    /// The answer, or what went wrong as an exit code and a line for people.
    async fn checked(&self, sent: reqwest::Result<reqwest::Response>) -> Result<reqwest::Response, Failure> {
        let answer = sent.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        Err(failure(status, &answer.text().await.unwrap_or_default()))
    }

    fn unreachable(&self, error: reqwest::Error) -> Failure {
        if error.is_builder() {
            return Failure::usage(format!("this cannot be sent: {}", without_url(error)));
        }
        let what = format!("no server answers at {}: {}", self.base(), without_url(error));
        Failure::new(Exit::Unreachable, what)
            .hint("start one with `sutazai-server serve`, or name another with --server URL")
    }
}

fn keyed(request: RequestBuilder, key: Option<&str>) -> RequestBuilder {
    key.into_iter().fold(request, |request, key| request.header("idempotency-key", key))
}

/// What a refusal means to the caller.
fn failure(status: StatusCode, body: &str) -> Failure {
    let problem: Problem = serde_json::from_str(body).unwrap_or_default();
    let exit = match status.as_u16() {
        404 => Exit::NotFound,
        _ if problem.code.ends_with("_not_found") => Exit::NotFound,
        400 | 405 | 413 | 415 | 422 => Exit::Usage,
        _ => Exit::Failed,
    };
    let mut text = if problem.detail.is_empty() { problem.title } else { problem.detail };
    if text.is_empty() {
        text = format!("the server answered {status}");
    }
    for fault in &problem.errors {
        text.push_str(&format!("; {}: {}", fault.path, fault.message));
    }
    Failure::new(exit, text).for_code(&problem.code)
}

/// The error with its causes; the address stands beside it already.
fn without_url(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// A proxy never leads back to this machine.
fn is_local(base: &str) -> bool {
    let url = reqwest::Url::parse(base).ok();
    let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `text` as one segment of a path, whatever somebody typed.
pub(crate) fn segment(text: &str) -> String {
    text.bytes().fold(String::new(), |mut path, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => path.push(byte as char),
            b'.' if !text.trim_matches('.').is_empty() => path.push('.'),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
        path
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_become_exit_codes() {
        let exit = |status, body| failure(StatusCode::from_u16(status).unwrap(), body).exit() as u8;
        assert_eq!(exit(404, r#"{"code":"task_not_found"}"#), 4);
        assert_eq!(exit(422, r#"{"code":"agent_not_found"}"#), 4);
        assert_eq!(exit(422, "{}"), 2);
        assert_eq!(exit(503, "not json"), 1);
    }

    #[test]
    fn a_segment_cannot_leave_its_place() {
        assert_eq!(segment("a.b-c"), "a.b-c");
        assert_eq!(segment("../x?y"), "..%2Fx%3Fy");
        assert_eq!(segment(".."), "%2E%2E");
    }

    #[test]
    fn loopback_needs_no_proxy() {
        assert!(is_local("http://127.0.0.1:1") && is_local("http://[::1]:1") && is_local("http://localhost"));
        assert!(!is_local("http://example.org"));
    }
}
