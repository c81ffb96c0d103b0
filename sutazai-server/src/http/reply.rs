//! Answers in JSON, written once and straight from what they show.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Serialize;

use super::problem::Problem;

/// What a handler gives.
pub(super) type Reply = Result<Response, Problem>;

/// `value` as JSON. `size` is a guess at its length.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T, size: usize) -> Reply {
    let mut text = Vec::with_capacity(size);
    serde_json::to_writer(&mut text, value)
        .map_err(|error| Problem::internal(format!("cannot write the answer: {error}")))?;
    Ok(document(status, "application/json", text))
}

/// It is done, and there is nothing to say about it.
pub(super) fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A body of `kind`.
pub(super) fn document(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
