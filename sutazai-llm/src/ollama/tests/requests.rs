//! What is asked, as it is sent.

use std::time::Duration;

use super::*;
use crate::ollama::request::{chat_body, embed_body, generate_body, load_body, load_embedding_body, unload_body};

fn golden(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn body(model: &str, request: &ChatRequest) -> Value {
    chat_body(model, request, 2048, KeepAlive::default())
}

#[test]
fn a_chat_is_written_so() {
    let expected = golden(include_str!("../../../tests/goldens/ollama/chat-request.json"));
    let request = ChatRequest { think: Some(true), ..full_request("Weather in Bern?") };
    assert_eq!(chat_body("qwen3:8b", &request, 4096, KeepAlive::default()), expected);
    let plain = body("tinyllama", &ChatRequest { response_format: ResponseFormat::Json, ..ChatRequest::ask("Hi") });
    assert_eq!(plain["format"], json!("json"));
    assert!(["tools", "think"].iter().all(|field| plain.get(field).is_none()), "{plain}");
    assert!(plain["options"].get("seed").is_none() && plain["messages"][0].get("images").is_none(), "{plain}");
    let sampling = Sampling { seed: Some(u64::MAX), ..Sampling::default() };
    let seeded = body("tinyllama", &ChatRequest { sampling, ..ChatRequest::ask("Hi") });
    assert_eq!(seeded["options"]["seed"].as_i64(), Some(i64::MAX));
    let quiet = body("tinyllama", &ChatRequest { think: Some(false), ..ChatRequest::ask("Hi") });
    assert_eq!(quiet["think"], json!(false));
}

#[test]
fn a_result_is_of_the_last_call_with_its_id() {
    let turn = |name: &str| {
        let call = ToolCall { id: "call_0".into(), name: name.into(), arguments: json!({}) };
        let called = Message { tool_calls: vec![call], ..Message::new(Role::Assistant, "") };
        [called, Message { tool_call_id: Some("call_0".into()), ..Message::new(Role::Tool, "done") }]
    };
    let messages = [turn("clock"), turn("weather")].concat();
    let sent = body("tinyllama", &ChatRequest::new(messages));
    let names: Vec<_> = [1_usize, 3].map(|index| sent["messages"][index]["tool_name"].clone()).into();
    assert_eq!(names, ["clock", "weather"]);
}

#[test]
fn a_generation_is_written_so() {
    let mut request = GenerateRequest::new("llava", "What is this?");
    assert_eq!(
        generate_body(&request),
        json!({"model": "llava", "prompt": "What is this?", "stream": true, "truncate": false, "shift": false, "options": {}})
    );
    request.system = Some("Be short.".into());
    request.images = vec![picture()];
    request.response_format = ResponseFormat::Json;
    request.think = Some(false);
    request.raw = true;
    request.keep_alive = Some(KeepAlive::For(Duration::from_secs(90)));
    request.options.insert("num_predict".into(), json!(16));
    request.options.insert("temperature".into(), json!(0));
    assert_eq!(generate_body(&request), golden(include_str!("../../../tests/goldens/ollama/generate-request.json")));
}

#[test]
fn models_are_loaded_and_unloaded_so() {
    let keep_alive = KeepAlive::default();
    assert_eq!(
        load_body("tinyllama", 2048, keep_alive),
        json!({"model": "tinyllama", "stream": false, "keep_alive": "30m", "options": {"num_ctx": 2048}})
    );
    assert_eq!(
        load_embedding_body("all-minilm", KeepAlive::Always),
        json!({"model": "all-minilm", "input": [], "keep_alive": -1})
    );
    assert_eq!(unload_body("tinyllama"), json!({"model": "tinyllama", "stream": false, "keep_alive": 0}));
    // A request to load that says not to keep the model would unload it.
    let not_kept = load_body("tinyllama", 2048, KeepAlive::For(Duration::ZERO));
    assert_eq!(not_kept.get("keep_alive"), None);
}

#[test]
fn texts_are_sent_so() {
    let sent = embed_body("all-minilm", &["one".into(), String::new()], KeepAlive::For(Duration::ZERO));
    assert_eq!(sent, json!({"model": "all-minilm", "input": ["one", " "], "truncate": true, "keep_alive": 0}));
}
