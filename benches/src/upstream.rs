//! A model server in OpenAI's format that answers at once and always the same: what stands behind a gateway that is measured.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
};

use axum::{
    Json, Router,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use serde::Deserialize;
use tokio::runtime;

/// The one model.
pub const MODEL: &str = "fixed";

/// What it answers.
pub const ANSWER: &str = "The answer is small.";

const JSON: &str = "application/json";
const MODELS: &str = r#"{"object":"list","data":[{"id":"fixed","object":"model","created":0,"owned_by":"bench"}]}"#;
const WHOLE: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"fixed","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is small."},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":24,"completion_tokens":5,"total_tokens":29}}"#;
const STREAM: &str = concat!(
    r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"fixed","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
    "\n\n",
    r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"fixed","choices":[{"index":0,"delta":{"content":"The answer is small."},"finish_reason":null}]}"#,
    "\n\n",
    r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"fixed","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
    "\n\n",
    r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"fixed","choices":[],"usage":{"prompt_tokens":24,"completion_tokens":5,"total_tokens":29}}"#,
    "\n\ndata: [DONE]\n\n",
);

/// Starts it on a free port of the loopback, on a thread that ends with the process.
pub fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("upstream".into()).spawn(move || runtime.block_on(serve(listener)))?;
    Ok(address)
}

async fn serve(listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?.tap_io(|stream| {
        // Without it a piece may wait for others; the figures would be those of the kernel.
        let _ = stream.set_nodelay(true);
    });
    let models = get(|| async { ([(CONTENT_TYPE, JSON)], MODELS) });
    let routes = Router::new().route("/v1/models", models).route("/v1/chat/completions", post(chat));
    axum::serve(listener, routes).await
}

/// As much of a request as there is to know.
#[derive(Deserialize)]
struct Asked {
    stream: Option<bool>,
}

async fn chat(Json(asked): Json<Asked>) -> Response {
    let (kind, body) = if asked.stream == Some(true) { ("text/event-stream", STREAM) } else { (JSON, WHOLE) };
    ([(CONTENT_TYPE, kind)], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request;

    #[tokio::test]
    async fn it_answers_both_ways() {
        let address = start().unwrap().to_string();
        assert!(MODELS.contains(MODEL) && WHOLE.contains(ANSWER) && STREAM.contains(ANSWER));
        assert_eq!(request(&address, "GET", "/v1/models", "").await.unwrap(), (200, MODELS.to_owned()));
        for (stream, answer) in [("null", WHOLE), ("false", WHOLE), ("true", STREAM)] {
            let body = format!(r#"{{"model":"fixed","messages":[],"stream":{stream}}}"#);
            let answered = request(&address, "POST", "/v1/chat/completions", &body).await.unwrap();
            assert_eq!(answered, (200, answer.to_owned()), "{stream}");
        }
    }
}
