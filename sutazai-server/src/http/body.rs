//! Request bodies: read within limits, parsed once, and refused with the place of the fault.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
};
use bytes::BytesMut;
use futures_util::StreamExt;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use sutazai_core::Payload;

use super::{
    problem::Problem,
    state::AppState,
    strict::{Object, check_readable},
};

/// What is read and thrown away of a body that is too large, so that a client that writes before it reads sees the answer.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(3);

/// The bytes of a body that says it is JSON.
pub(super) struct JsonBody(Bytes);

impl JsonBody {
    /// Reads it as a `T`: malformed JSON is 400, JSON that does not fit 422 with the places at fault.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        parse(&self.0)
    }

    /// Takes the whole body as one document.
    pub(super) fn payload(&self) -> Result<Payload, Problem> {
        let payload = self.parse()?;
        check_readable(&payload, "")?;
        Ok(payload)
    }

    async fn read(request: Request, state: &AppState) -> Result<Self, Problem> {
        let options = state.options();
        let (parts, body) = request.into_parts();
        let reading = read(body, &parts.headers, options.body_limit);
        match tokio::time::timeout(options.request_timeout, reading).await {
            Ok(bytes) => bytes.map(Self),
            Err(_) => Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                "the body did not arrive in time; send it again",
            )),
        }
    }
}

impl FromRequest<AppState> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        if is_json(request.headers()) { Self::read(request, state).await } else { Err(not_json()) }
    }
}

/// JSON, whatever type it is said to have: a client of Ollama often says none, and `curl -d` a wrong one. A page elsewhere cannot make use of that: what a
/// browser posts names its origin, which the guard looks at.
pub(super) struct UntypedBody(pub(super) JsonBody);

impl FromRequest<AppState> for UntypedBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        JsonBody::read(request, state).await.map(Self)
    }
}

/// A body that may be left out: then it is JSON `null`, whatever type it is said to have.
pub(super) struct OptionalBody(Option<JsonBody>);

impl OptionalBody {
    /// Reads it as a `T`, by default if there is none.
    pub(super) fn parse<T: DeserializeOwned + Default>(&self) -> Result<T, Problem> {
        self.0.as_ref().map_or_else(|| Ok(T::default()), JsonBody::parse)
    }

    /// Takes the whole body as one document.
    pub(super) fn payload(&self) -> Result<Payload, Problem> {
        self.0.as_ref().map_or_else(|| Ok(Payload::null()), JsonBody::payload)
    }
}

impl FromRequest<AppState> for OptionalBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let body = JsonBody::read(request, state).await?;
        match (body.0.is_empty(), is_json) {
            (true, _) => Ok(Self(None)),
            (false, true) => Ok(Self(Some(body))),
            (false, false) => Err(not_json()),
        }
    }
}

/// No body by contract: nothing, or an object without fields, whatever type it is said to have.
pub(super) struct NoBody;

impl FromRequest<AppState> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}

        let body = JsonBody::read(request, state).await?;
        if body.0.is_empty() {
            return Ok(Self);
        }
        match body.parse::<Object<Nothing>>() {
            Ok(_) => Ok(Self),
            Err(problem) => Err(problem.with_detail("this address takes no body: send none, or {}")),
        }
    }
}

fn not_json() -> Problem {
    let detail = "the body must be JSON: send content-type application/json";
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
        || (kind.len() > 12
            && kind[..12].eq_ignore_ascii_case("application/")
            && kind.to_ascii_lowercase().ends_with("+json"))
}

async fn read(body: Body, headers: &HeaderMap, limit: usize) -> Result<Bytes, Problem> {
    let mut stream = body.into_data_stream();
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > limit) {
        // Who waits for `100 Continue` has sent nothing yet and need not.
        let drain = !headers.contains_key(header::EXPECT);
        return Err(too_large(drain.then_some(stream), limit).await);
    }
    let Some(first) = next(&mut stream).await? else { return Ok(Bytes::new()) };
    if first.len() > limit {
        return Err(too_large(Some(stream), limit).await);
    }
    let Some(mut chunk) = next(&mut stream).await? else { return Ok(first) };
    let mut whole = BytesMut::from(&*first);
    loop {
        if whole.len() + chunk.len() > limit {
            return Err(too_large(Some(stream), limit).await);
        }
        whole.extend_from_slice(&chunk);
        match next(&mut stream).await? {
            Some(more) => chunk = more,
            None => return Ok(whole.freeze()),
        }
    }
}

async fn next(stream: &mut BodyDataStream) -> Result<Option<Bytes>, Problem> {
    stream
        .next()
        .await
        .transpose()
        .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "malformed_json", "the body ended before it was complete"))
}

async fn too_large(rest: Option<BodyDataStream>, limit: usize) -> Problem {
    if let Some(mut rest) = rest {
        let mut left = DRAIN_BYTES;
        let drain = async {
            while let Some(Ok(chunk)) = rest.next().await {
                left = left.saturating_sub(chunk.len());
                if left == 0 {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
    }
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!("the body is larger than the limit of {limit} bytes"),
    )
}

/// Reads JSON strictly.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|_| explain::<T>(bytes))
}

/// Reads once more, slowly, to say what is wrong and where.
fn explain<T: DeserializeOwned>(bytes: &[u8]) -> Problem {
    let malformed = |why: String| Problem::new(StatusCode::BAD_REQUEST, "malformed_json", why);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return malformed(format!("the body is not UTF-8 from byte {}", error.valid_up_to())),
    };
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return malformed(format!("the body is not JSON: {error}"));
    }
    // Core says what does not fit and where, of a body as of an agent's input.
    match Payload::from_text(text).and_then(|payload| payload.read::<T>()) {
        Ok(_) => malformed("the body is not one JSON document".into()),
        Err(error) => match error.faults().first() {
            Some(fault) => Problem::field(fault.path.clone(), fault.message.clone()),
            None => malformed(format!("the body is not JSON: {}", error.report())),
        },
    }
}

#[cfg(test)]
mod tests {
    use sutazai_core::task::RetryPolicy;

    use super::*;

    fn status<T: DeserializeOwned>(bytes: &[u8]) -> (u16, String) {
        let problem = parse::<Object<T>>(bytes).err().unwrap();
        let view = serde_json::to_value(problem.view("")).unwrap();
        (problem.status().as_u16(), view["errors"][0]["path"].as_str().unwrap_or("-").to_owned())
    }

    #[test]
    fn malformed_is_400_and_wrong_is_422_with_the_place() {
        type Policies = std::collections::BTreeMap<String, RetryPolicy>;
        for malformed in [&b"{not json"[..], b"", b"{} {}", b"{\"a\":\"\xff\"}", b"{\"a\":1,}", b"{\"a\":{\"no\":1}"] {
            assert_eq!(status::<Policies>(malformed), (400, "-".into()), "{malformed:?}");
        }
        assert_eq!(status::<Policies>(b"[]"), (422, String::new()));
        assert_eq!(status::<Policies>(br#"{"a/b":{"max_ms":"x"}}"#), (422, "/a~1b/max_ms".into()));
        assert_eq!(status::<Policies>(br#"{"a":{"max_ms":1,"max_ms":2}}"#).0, 422);
        assert_eq!(status::<Policies>(br#"{"a":{"other":1}}"#), (422, "/a/other".into()));
    }

    #[test]
    fn only_json_counts_as_json() {
        let kind = |value: &str| is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]));
        assert!(kind("application/json") && kind("Application/JSON; charset=utf-8") && kind("application/ld+json"));
        assert!(!kind("text/plain") && !kind("application/jsonx") && !kind("") && !kind("text/x+json"));
        assert!(!is_json(&HeaderMap::new()));
    }
}
