//! A model server in OpenAI's format, whose one model calls the tool that it is offered, and repeats what came of it.

use std::{
    net::{Ipv4Addr, TcpListener},
    thread,
};

use axum::{
    Json, Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::runtime;

/// The model.
pub(crate) const MODEL: &str = "caller";

/// Starts it on a free port of the loopback, on a thread that ends with the process; gives what stands before `/chat/completions`.
pub(crate) fn start() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, Router::new().route("/v1/chat/completions", post(chat))).await.unwrap();
        });
    });
    format!("http://{address}/v1")
}

async fn chat(Json(asked): Json<Value>) -> Response {
    // Servers that bind an answer to a form do so from its first token on, and then no tool can be called.
    if asked.get("tools").is_some() && asked.get("response_format").is_some() {
        return (StatusCode::BAD_REQUEST, "tools beside a form").into_response();
    }
    let last = asked["messages"].as_array().and_then(|messages| messages.last());
    let (delta, reason) = match last.filter(|last| last["role"] == "tool") {
        Some(result) => {
            let said = format!("It says {}.", result["content"].as_str().unwrap_or_default());
            (json!({"content": said}), "stop")
        }
        None => {
            let tool = &asked["tools"][0]["function"]["name"];
            let call = json!({"name": tool, "arguments": "{\"city\": \"Bern\"}"});
            (json!({"tool_calls": [{"index": 0, "id": "call_b", "type": "function", "function": call}]}), "tool_calls")
        }
    };
    let usage = json!({"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25});
    let pieces = [
        json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]}),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}),
        json!({"choices": [], "usage": usage}),
    ];
    let body: String = pieces.iter().map(|piece| format!("data: {piece}\n\n")).collect();
    ([(CONTENT_TYPE, "text/event-stream")], body + "data: [DONE]\n\n").into_response()
}
