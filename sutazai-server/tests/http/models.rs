//! Models in OpenAI's format and in Ollama's, whole and as they come.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request},
};
use serde_json::{Value, json};
use sutazai_core::{
    Error, ErrorKind,
    agent::agent_fn,
    context::Context,
    engine::OrchestratorBuilder,
    memory::{HashedEmbedding, Script, ScriptedChat},
    model::{Caching, ChatRequest, ResponseFormat, ToolCall},
};
use sutazai_llm::gateway::{
    Structured, StructuredConfig, Unobserved,
    admission::{Admission, AdmissionConfig},
};
use sutazai_server::http::{Options, router};
use tower::ServiceExt;

use crate::server::{Answer, Server, server_with, state_with};

/// A server with this chat model and an embedding model.
pub(crate) async fn speaking(model: Arc<ScriptedChat>) -> Server {
    server_with(Options::default(), |builder| {
        builder.chat_model(model).embedding_model(Arc::new(HashedEmbedding::new(8)))
    })
    .await
}

/// What asks the model `actor` for its line.
pub(crate) fn question(more: Value) -> String {
    let mut body = json!({"model": "actor", "messages": [{"role": "user", "content": "Your line?"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

/// The data of server-sent events; the last one may be no JSON.
pub(crate) fn data(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    answer.text().lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
}

/// The lines of a stream of JSON.
pub(crate) fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn openai_whole() {
    let model = Arc::new(ScriptedChat::new("actor").otherwise("To be, or not to be."));
    let server = speaking(Arc::clone(&model)).await;
    let schema = json!({"type": "object"});
    let body = question(json!({
        "temperature": 0, "seed": 1, "max_tokens": 4, "unheard": {},
        "response_format": {"type": "json_schema", "json_schema": {"name": "line", "schema": schema}},
    }));
    let headers = [("content-type", "application/json"), ("cache-control", "no-store")];
    let answer = server.ask(Method::POST, "/v1/chat/completions", &headers, body).await.expect(200);
    assert_eq!(answer.headers["x-sutazai-model"], "actor");
    assert_eq!(answer.headers["x-sutazai-cache"], "off");
    assert!(!answer.headers.contains_key("x-sutazai-fallback") && answer.headers.contains_key("x-request-id"));
    let whole = answer.json();
    assert_eq!((&whole["object"], &whole["model"]), (&json!("chat.completion"), &json!("actor")));
    assert!(whole["id"].as_str().unwrap().starts_with("chatcmpl-") && whole["created"].as_u64().unwrap() > 0);
    let choice = json!({"index": 0, "logprobs": null, "finish_reason": "length",
        "message": {"role": "assistant", "content": "To be, or not "}});
    assert_eq!(whole["choices"], json!([choice]));
    assert_eq!(whole["usage"], json!({"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}));
    let asked = &model.requests()[0];
    assert_eq!((asked.max_tokens, asked.sampling.seed, asked.caching), (Some(4), Some(1), Caching::Off));
    assert_eq!((&asked.response_format, asked.model.as_deref()), (&ResponseFormat::Schema(schema), Some("actor")));
    assert_eq!(asked.caller.tenant(), "default");
}

#[tokio::test]
async fn openai_as_it_comes() {
    let server = speaking(Arc::new(ScriptedChat::new("actor").otherwise("To be, or not."))).await;
    let body = question(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let answer = server.post("/v1/chat/completions", body).await.expect(200);
    assert_eq!(answer.headers["x-sutazai-model"], "actor");
    assert_eq!(answer.headers["cache-control"], "no-store");
    let mut data = data(&answer);
    assert_eq!(data.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> = data.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"]));
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "To be, or not.");
    let [.., end, usage] = &chunks[..] else { panic!("{chunks:?}") };
    assert_eq!(end["choices"][0], json!({"index": 0, "delta": {}, "finish_reason": "stop"}));
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(4)));
    let bare = server.post("/v1/chat/completions", question(json!({"stream": true}))).await.expect(200);
    assert!(!bare.text().contains("usage"));
}

#[tokio::test]
async fn a_model_may_want_tools_called() {
    let call = || ToolCall { id: "c1".into(), name: "look".into(), arguments: json!({"at": "sky"}) };
    let server = speaking(Arc::new(ScriptedChat::new("actor").otherwise(Script::text("").calling(call())))).await;
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]);
    let whole = server.post("/v1/chat/completions", question(json!({"tools": tools}))).await.expect(200).json();
    let choice = &whole["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
    let function = json!({"name": "look", "arguments": "{\"at\":\"sky\"}"});
    assert_eq!(choice["message"]["tool_calls"], json!([{"id": "c1", "type": "function", "function": function}]));
    let stream = question(json!({"tools": tools, "stream": true}));
    let data = data(&server.post("/v1/chat/completions", stream).await.expect(200));
    let piece: Value = serde_json::from_str(&data[1]).unwrap();
    let streamed = &piece["choices"][0]["delta"]["tool_calls"][0];
    assert_eq!((&streamed["index"], &streamed["function"]), (&json!(0), &function));
    let ollama = question(json!({"tools": tools, "stream": false}));
    let said = server.post("/api/chat", ollama).await.expect(200).json();
    let function = json!({"name": "look", "arguments": {"at": "sky"}});
    assert_eq!(said["message"]["tool_calls"], json!([{"id": "c1", "function": function}]));
}

#[tokio::test]
async fn prompts_and_vectors() {
    let server = speaking(Arc::new(ScriptedChat::new("actor").otherwise("It is green."))).await;
    let body = |more: &str| format!(r#"{{"model": "actor", "prompt": ["The grass?"]{more}}}"#);
    let whole = server.post("/v1/completions", body("")).await.expect(200).json();
    assert_eq!((&whole["object"], &whole["choices"][0]["text"]), (&json!("text_completion"), &json!("It is green.")));
    assert_eq!(whole["usage"]["total_tokens"], 5);
    let stream = data(&server.post("/v1/completions", body(r#", "stream": true"#)).await.expect(200));
    assert_eq!((stream.len(), &*stream[4]), (5, "[DONE]"));

    let embed = async |body: Value| server.post("/v1/embeddings", body.to_string()).await;
    let many = embed(json!({"model": "hashed", "input": ["a cat", "a dog", "a cat"]})).await.expect(200);
    assert_eq!(many.headers["x-sutazai-model"], "hashed");
    assert_eq!(many.headers["x-sutazai-cache"], "off");
    let many = many.json();
    let rows = many["data"].as_array().unwrap();
    assert!(rows.iter().zip(0..).all(|(row, n)| row["index"] == n && row["embedding"].as_array().unwrap().len() == 8));
    assert_eq!(rows[0]["embedding"], rows[2]["embedding"]);
    assert_eq!(many["usage"], json!({"prompt_tokens": 6, "total_tokens": 6}));
    let one = embed(json!({"model": "hashed", "input": "a cat", "encoding_format": "base64"})).await.expect(200).json();
    assert_eq!(one["data"][0]["embedding"].as_str().map(str::len), Some(44));
    for (field, value) in
        [("input", json!([1, 2])), ("input", json!([])), ("dimensions", json!(4)), ("encoding_format", json!("int8"))]
    {
        let mut body = json!({"model": "hashed", "input": "x"});
        body[field] = value;
        let error = embed(body).await.expect(400).json();
        assert!(error["error"]["param"].as_str().unwrap().starts_with(field), "{error}");
    }
    embed(json!({"model": "hashed", "input": "x", "dimensions": 8})).await.expect(200);
    assert_eq!(
        embed(json!({"model": "actor", "input": "x"})).await.expect(404).json()["error"]["code"],
        "model_not_found"
    );
    let same = server.post("/api/embed", r#"{"model": "hashed:latest", "input": ["a cat"], "truncate": true}"#).await;
    assert_eq!(same.expect(200).json()["embeddings"][0], rows[0]["embedding"]);
    let older = server.post("/api/embeddings", r#"{"model": "hashed", "prompt": "a cat"}"#).await.expect(200).json();
    assert_eq!(older["embedding"], rows[0]["embedding"]);
}

#[tokio::test]
async fn models_are_listed_with_the_agents() {
    let server = speaking(Arc::new(ScriptedChat::new("actor"))).await;
    let list = server.get("/v1/models").await.expect(200).json();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!((&list["object"], &ids[..3]), (&json!("list"), &["actor", "hashed", "agent:dev.append"][..]));
    for id in ["actor", "actor:latest", "agent:dev.echo"] {
        assert_eq!(server.get(&format!("/v1/models/{id}")).await.expect(200).json()["object"], "model");
    }
    for id in ["nobody", "agent:nobody"] {
        let error = server.get(&format!("/v1/models/{id}")).await.expect(404).json();
        assert_eq!((&error["error"]["code"], &error["error"]["param"]), (&json!("model_not_found"), &json!("model")));
    }
    let tags = server.get("/api/tags").await.expect(200).json();
    assert_eq!((&tags["models"][0]["name"], &tags["models"][1]["model"]), (&json!("actor"), &json!("hashed")));
    let shown = server.post("/api/show", r#"{"model": "hashed"}"#).await.expect(200).json();
    assert_eq!(shown["capabilities"], json!(["embedding"]));
    assert_eq!(shown["model_info"]["hashed.embedding_length"], 8);
    // As Ollama's own client writes it.
    server.post("/api/show", r#"{"model": "", "name": "hashed"}"#).await.expect(200);
    server.ask(Method::HEAD, "/", &[], Body::empty()).await.expect(200);
    assert!(server.get("/").await.expect(200).text().contains("running"));
    server.post("/api/show", r#"{"name": "nobody"}"#).await.expect(404);
    assert!(server.get("/api/version").await.expect(200).json()["version"].is_string());
}

#[tokio::test]
async fn ollama_whole_and_as_it_comes() {
    let model = Arc::new(ScriptedChat::new("actor").otherwise("To be, or not."));
    let server = speaking(Arc::clone(&model)).await;
    let options =
        json!({"options": {"temperature": 0, "seed": 1, "num_predict": 16, "stop": ["zzz"]}, "keep_alive": "5m"});
    // As `curl -d` sends it.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let answer = server.ask(Method::POST, "/api/chat", &form, question(options.clone())).await.expect(200);
    assert_eq!(answer.headers["x-sutazai-model"], "actor");
    let lines = lines(&answer);
    let text: String = lines.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, "To be, or not.");
    let (end, pieces) = lines.split_last().unwrap();
    assert!(pieces.iter().all(|piece| piece["done"] == false && piece["done_reason"].is_null()));
    assert_eq!((&end["done"], &end["done_reason"], &end["eval_count"]), (&json!(true), &json!("stop"), &json!(4)));
    assert!(end["total_duration"].is_u64() && end["created_at"].as_str().unwrap().ends_with('Z'));
    let mut whole = options;
    whole["stream"] = json!(false);
    let whole = server.post("/api/chat", question(whole)).await.expect(200);
    assert_eq!(whole.headers["content-type"], "application/json");
    assert_eq!(whole.json()["message"]["content"], text);
    assert_eq!(model.requests()[0].max_tokens, Some(16));

    let generate = r#"{"model": "actor", "prompt": "Your line?", "system": "You act.", "stream": false}"#;
    let said = server.post("/api/generate", generate).await.expect(200).json();
    assert_eq!((&said["response"], &said["done"]), (&json!("To be, or not."), &json!(true)));
    assert_eq!(model.requests().last().unwrap().messages.len(), 2);
    let raw =
        server.post("/api/generate", r#"{"model": "actor", "prompt": "x", "raw": true}"#).await.expect(400).json();
    assert!(raw["error"].as_str().unwrap().contains("raw"), "{raw}");
}

/// A server whose models are behind an admission, with an agent that asks the chat model.
async fn admitting(keep: Option<Duration>) -> Server {
    let mut config = AdmissionConfig::default();
    config.max_loaded_models = 2;
    config.keep = keep;
    let admission = Admission::new("test", config, Arc::new(Unobserved)).unwrap();
    let chat = Arc::new(admission.chat(Arc::new(ScriptedChat::new("actor").otherwise("yes"))));
    let embedding = Arc::new(admission.embedding(Arc::new(HashedEmbedding::new(8))));
    let agent = agent_fn("test.asks", |context: Context, (): ()| async move {
        Ok(context.chat(ChatRequest::ask("Well?")).await?.text)
    });
    let with = |builder: OrchestratorBuilder| builder.chat_model(chat).embedding_model(embedding).agent(agent);
    let state = state_with(Options::default(), with).await.with_admissions(vec![admission]);
    Server { router: router(state) }
}

#[tokio::test(start_paused = true)]
async fn what_agents_have_brought_into_memory_is_listed_until_it_goes() {
    let server = admitting(Some(Duration::from_secs(90))).await;
    let id = server.submit("test.asks", Value::Null).await;
    assert_eq!(server.finished(&id).await["output"], "yes");
    let listed = server.get("/api/ps").await.expect(200).json()["models"].take();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["name"]), (1, &json!("actor")), "{listed}");
    assert!(listed[0]["expires_at"].as_str().unwrap().ends_with('Z'), "{listed}");
    tokio::time::sleep(Duration::from_secs(91)).await;
    assert_eq!(server.get("/api/ps").await.expect(200).json()["models"], json!([]));
}

#[tokio::test]
async fn what_is_in_memory_is_listed_until_it_is_unloaded() {
    let server = admitting(None).await;
    let listed = async || server.get("/api/ps").await.expect(200).json()["models"].as_array().unwrap().len();
    let keep = async |path: &str, body: Value| server.post(path, body.to_string()).await.expect(200).json();
    assert_eq!(listed().await, 0);
    server.post("/v1/chat/completions", question(json!({}))).await.expect(200);
    assert_eq!(listed().await, 1);
    let gone = keep("/api/generate", json!({"model": "actor", "keep_alive": 0})).await;
    assert_eq!((&gone["done"], &gone["done_reason"], &gone["response"]), (&json!(true), &json!("unload"), &json!("")));
    assert_eq!(listed().await, 0);
    let here = keep("/api/chat", json!({"model": "actor:latest", "messages": []})).await;
    assert_eq!((&here["done_reason"], &here["message"]["content"]), (&json!("load"), &json!("")));
    keep("/api/generate", json!({"model": "hashed", "prompt": ""})).await;
    assert_eq!(listed().await, 2);
    keep("/api/generate", json!({"model": "hashed", "keep_alive": "0s"})).await;
    assert_eq!(listed().await, 1);
    server.post("/api/generate", r#"{"model": "nobody"}"#).await.expect(404);
}

/// The error of an answer in OpenAI's form.
fn openai_error(answer: Answer, status: u16) -> Value {
    let error = answer.expect(status).json()["error"].take();
    let fields: Vec<_> = error.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields.len(), 4, "{fields:?}");
    assert!(error["message"].is_string() && error["type"].is_string());
    error
}

#[tokio::test]
async fn errors_have_the_form_of_their_address() {
    let refusal = |kind: ErrorKind, code: &'static str| Script::error(move || Error::new(kind, "no").with_code(code));
    let model = ScriptedChat::new("actor")
        .reply(refusal(ErrorKind::Full, "queue_full"))
        .reply(refusal(ErrorKind::Full, "budget_exceeded"))
        .reply(refusal(ErrorKind::Unavailable, "model_unavailable"))
        .reply(refusal(ErrorKind::Timeout, "model_timeout"))
        .reply(refusal(ErrorKind::Internal, "model_failed"))
        .otherwise("yes")
        .with_context_length(50);
    let server = speaking(Arc::new(model)).await;
    let chat = async |body: String| server.post("/v1/chat/completions", body).await;
    for (status, code) in [
        (429, "queue_full"),
        (429, "budget_exceeded"),
        (503, "model_unavailable"),
        (504, "model_timeout"),
        (500, "internal"),
    ] {
        let answer = chat(question(json!({}))).await;
        assert_eq!(answer.headers.contains_key("retry-after"), matches!(status, 429 | 503), "{code}");
        assert_eq!(openai_error(answer, status)["code"], code);
    }
    let unknown = openai_error(chat(question(json!({"model": "nobody"}))).await, 404);
    assert_eq!((&unknown["code"], &unknown["param"]), (&json!("model_not_found"), &json!("model")));
    let long = json!({"messages": [{"role": "user", "content": "word ".repeat(60)}]});
    assert_eq!(openai_error(chat(question(long.clone())).await, 400)["code"], "context_length_exceeded");
    for (more, param) in [
        (json!({"messages": []}), "messages"),
        (json!({"messages": "x"}), "messages"),
        (json!({"messages": [{"role": "wizard", "content": "x"}]}), "messages[0].role"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}),
            "messages[0].content[0].text",
        ),
        (json!({"temperature": -3}), "temperature"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"messages": [["user", "x", null, null]]}), "messages[0]"),
        (json!({"stream_options": [true]}), "stream_options"),
        (json!({"response_format": ["text", null]}), "response_format"),
        (json!({"tools": [["function", {"name": "f"}]]}), "tools[0]"),
        (json!({"tools": [{"function": ["f", null, null]}]}), "tools[0].function"),
    ] {
        assert_eq!(openai_error(chat(question(more)).await, 400)["param"], param);
    }
    assert_eq!(openai_error(chat("{not json".into()).await, 400)["code"], "malformed_json");
    assert_eq!(openai_error(chat("[]".into()).await, 400)["type"], "invalid_request_error");
    let large = format!(r#"{{"model": "{}"}}"#, "x".repeat(11 << 20));
    assert_eq!(openai_error(chat(large.clone()).await, 413)["code"], "body_too_large");
    let text = [("content-type", "text/plain")];
    let untyped = server.ask(Method::POST, "/v1/chat/completions", &text, question(json!({}))).await;
    assert_eq!(openai_error(untyped, 415)["code"], "unsupported_media_type");
    assert_eq!(openai_error(server.get("/v1/nothing").await, 404)["code"], "route_not_found");
    let method = server.get("/v1/chat/completions").await;
    assert_eq!(method.headers["allow"], "POST");
    assert_eq!(openai_error(method, 405)["code"], "method_not_allowed");

    let ollama = async |body: String, status: u16| {
        let error = server.post("/api/chat", body).await.expect(status).json();
        assert_eq!(error.as_object().unwrap().len(), 1);
        error["error"].as_str().unwrap().to_owned()
    };
    assert!(ollama(question(json!({"model": "nobody"})), 404).await.contains("nobody"));
    assert!(ollama(question(json!({"options": {"temperature": 9}})), 400).await.contains("options.temperature"));
    assert!(ollama(question(json!({"options": [0.5]})), 400).await.contains("options"));
    assert!(ollama(json!({"model": "actor", "keep_alive": "soon"}).to_string(), 400).await.contains("keep_alive"));
    ollama(question(long), 400).await;
    ollama("{".into(), 400).await;
    ollama(large, 413).await;
    // A page elsewhere is refused, whatever it says its body is.
    let origin = [("origin", "https://evil.example"), ("content-type", "text/plain")];
    let foreign = server.ask(Method::POST, "/api/chat", &origin, question(json!({}))).await.expect(403).json();
    assert!(foreign["error"].is_string());
}

#[tokio::test]
async fn what_is_wrong_is_named_as_its_address_calls_it() {
    let server = checking("{}").await;
    let schema = json!({"type": "object", "properties": {"x": {"type": "number-like"}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    let body = question(json!({"response_format": format}));
    let error = openai_error(server.post("/v1/chat/completions", body).await, 400);
    assert_eq!(
        (&error["code"], &error["param"]),
        (&json!("schema_unsupported"), &json!("response_format.json_schema.schema.properties.x.type"))
    );
    let error = server.post("/api/chat", question(json!({"format": schema}))).await.expect(400).json();
    assert!(error["error"].as_str().unwrap().contains(" format.properties.x.type: "), "{error}");
    let body = json!({"model": "agent:dev.echo", "prompt": "Hi"});
    for (path, more) in
        [("/v1/completions", json!({})), ("/api/generate", json!({})), ("/api/generate", json!({"prompt": ""}))]
    {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let error = server.post(path, body.to_string()).await.expect(400);
        assert!(error.text().contains("an agent is asked"), "{path}: {}", error.text());
    }
    for more in [json!({"truncate": false}), json!({"dimensions": 4})] {
        let mut body = json!({"model": "hashed", "input": "x"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let error = speaking(Arc::new(ScriptedChat::new("actor"))).await.post("/api/embed", body.to_string()).await;
        assert!(error.expect(400).text().contains(more.as_object().unwrap().keys().next().unwrap()), "{more}");
    }
}

#[tokio::test]
async fn tokens_that_clients_ask_for_themselves_are_counted() {
    let server = speaking(Arc::new(ScriptedChat::new("actor").otherwise("To be, or not."))).await;
    server.post("/v1/chat/completions", question(json!({}))).await.expect(200);
    server.post("/api/chat", question(json!({}))).await.expect(200);
    let metrics = server.get("/metrics").await.expect(200).text();
    let line = r#"sutazai_agents_model_tokens_total{agent="",model="actor",role="completion"} 8"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn an_error_amid_a_stream_is_its_last_piece() {
    let away = || Error::new(ErrorKind::Unavailable, "the line is dead").with_code("model_unavailable");
    let script = Script::text("half an ").breaking_off(away);
    let server = speaking(Arc::new(ScriptedChat::new("actor").otherwise(script))).await;
    let data = data(&server.post("/v1/chat/completions", question(json!({"stream": true}))).await.expect(200));
    let last: Value = serde_json::from_str(data.last().unwrap()).unwrap();
    assert_eq!((&last["error"]["code"], &last["error"]["type"]), (&json!("model_unavailable"), &json!("server_error")));
    assert!(!data.contains(&"[DONE]".to_owned()));
    let lines = lines(&server.post("/api/chat", question(json!({}))).await.expect(200));
    assert_eq!((lines.len(), lines.last().unwrap()), (3, &json!({"error": "the line is dead"})));
    let whole = server.post("/v1/chat/completions", question(json!({}))).await;
    assert_eq!(openai_error(whole, 503)["message"], "the line is dead");
}

/// A server whose one model answers so, and is asked once whether that has the form it should.
async fn checking(script: impl Into<Script>) -> Server {
    let model = Arc::new(ScriptedChat::new("actor").otherwise(script));
    let config = StructuredConfig { repairs: 0, ..StructuredConfig::default() };
    let checked = Arc::new(Structured::new(model, config, Arc::new(Unobserved)));
    server_with(Options::default(), |builder| builder.chat_model(checked)).await
}

#[tokio::test]
async fn an_answer_of_a_wrong_form_is_502_or_the_last_piece_of_its_stream() {
    let server = checking("It is green.").await;
    let ask = async |stream: bool| {
        let form = json!({"type": "json_object"});
        server.post("/v1/chat/completions", question(json!({"response_format": form, "stream": stream}))).await
    };
    assert_eq!(openai_error(ask(false).await, 502)["code"], "answer_invalid");
    let data = data(&ask(true).await.expect(200));
    let last: Value = serde_json::from_str(data.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "answer_invalid");
    assert!(!data.iter().any(|piece| piece.contains("green")), "{data:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_checked_shows_that_it_comes() {
    let server = checking(Script::text("{\"grass\": \"green\"}").pausing(Duration::from_secs(25))).await;
    let asked = question(json!({"response_format": {"type": "json_object"}, "stream": true}));
    let sse = server.post("/v1/chat/completions", asked).await.expect(200);
    assert!(sse.text().lines().filter(|line| line.starts_with(':')).count() >= 3, "{}", sse.text());
    assert_eq!(data(&sse).last().map(String::as_str), Some("[DONE]"));
}

/// Time is the runtime's own here and jumps whenever everybody waits.
#[tokio::test(start_paused = true)]
async fn a_slow_model_shows_that_it_lives() {
    let script = Script::text("one two").pausing(Duration::from_secs(25));
    let server = speaking(Arc::new(ScriptedChat::new("actor").otherwise(script))).await;
    let sse = server.post("/v1/chat/completions", question(json!({"stream": true}))).await.expect(200);
    let comments = sse.text().lines().filter(|line| line.starts_with(':')).count();
    assert!(comments >= 3, "{}", sse.text());
    let blank = server.post("/api/chat", question(json!({}))).await.expect(200);
    assert!(blank.text().starts_with("  {"), "{}", blank.text());
    assert_eq!(lines(&blank).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_its_client_does_not_read_is_dropped() {
    let admission = Admission::new("test", AdmissionConfig::default(), Arc::new(Unobserved)).unwrap();
    let long = ScriptedChat::new("actor").otherwise("word ".repeat(1_000));
    let model = Arc::new(admission.chat(Arc::new(long)));
    let server = server_with(Options::default(), |builder| builder.chat_model(model)).await;
    for (path, more) in [("/v1/chat/completions", json!({"stream": true})), ("/api/chat", json!({}))] {
        let request = Request::builder().method(Method::POST).uri(path);
        let request = request.header("host", "localhost").header("content-type", "application/json");
        let request = request.body(Body::from(question(more))).unwrap();
        let response = server.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert_eq!(admission.status().running, 1, "{path}");
        // Long before the admission itself would take the place back.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(admission.status().running, 0, "{path}");
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains("the answer was not read"), "{text}");
    }
}

#[tokio::test]
async fn a_process_that_only_executes_has_no_models() {
    let options = Options { operators_only: true, ..Options::default() };
    let server = server_with(options, |builder| builder.chat_model(Arc::new(ScriptedChat::new("actor")))).await;
    let answer = server.ask(Method::GET, "/v1/models", &[], Body::empty()).await;
    assert_eq!(openai_error(answer, 404)["code"], "route_not_found");
}
