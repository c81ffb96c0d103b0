//! The wire format against files in the style of OpenAI, of llama.cpp's server and of vLLM, and the backends against a fake server.

mod served;

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use serde_json::{Value, json};
use sutazai_core::{
    ErrorKind, Result,
    model::{
        ChatEvent, ChatModel, ChatModelExt, ChatRequest, ChatStream, EmbeddingModel, EmbeddingModelExt, Embeddings,
        Finish, Image, Message, ModelCapabilities, ModelInfo, ResponseFormat, Sampling, StopReason, Usage,
    },
};

use super::{
    answer::Answer,
    request::{Words, chat_body, embedding_body},
    *,
};
use crate::{
    fake_http::{FakeHttpServer, FakeRequest, FakeResponse},
    fake_wire::{self, call, finish, full_request, text, thought},
    spent,
};

const OPENAI: &str = include_str!("../../tests/goldens/openai/openai.sse");
const OPENAI_TOOLS: &str = include_str!("../../tests/goldens/openai/openai-tools.sse");
const LLAMA_CPP: &str = include_str!("../../tests/goldens/openai/llama-cpp.sse");
const VLLM: &str = include_str!("../../tests/goldens/openai/vllm.sse");

/// As most servers say it.
const WORDS: Words = Words { limit: "max_tokens", plain_schema: false };

#[test]
fn a_request_is_written_so() {
    let expected: Value = serde_json::from_str(include_str!("../../tests/goldens/openai/chat-request.json")).unwrap();
    assert_eq!(chat_body("qwen3-8b", &full_request("Weather here?"), WORDS), expected);
    let plain = chat_body("qwen3-8b", &full_request("Weather here?"), Words { plain_schema: true, ..WORDS });
    let format = json!({"type": "json_object", "schema": expected["response_format"]["json_schema"]["schema"]});
    assert_eq!(plain["response_format"], format);

    let image = Image { media_type: "image/jpeg".into(), data: "AAAA".into() };
    let wordless = Message { images: vec![image], ..Message::user("") };
    let request = ChatRequest {
        response_format: ResponseFormat::Json,
        sampling: Sampling { seed: Some(u64::MAX), ..Sampling::default() },
        max_tokens: Some(5),
        ..ChatRequest::new(vec![wordless])
    };
    let body = chat_body("gpt-5", &request, Words { limit: "max_completion_tokens", ..WORDS });
    assert_eq!(body["response_format"], json!({"type": "json_object"}));
    assert_eq!((&body["max_completion_tokens"], body.get("max_tokens")), (&json!(5), None));
    assert_eq!(body["seed"].as_i64(), Some(i64::MAX));
    let url = json!({"url": "data:image/jpeg;base64,AAAA"});
    assert_eq!(body["messages"][0]["content"], json!([{"type": "image_url", "image_url": url}]));

    let plain = chat_body("gpt-5", &ChatRequest::ask("Hi"), WORDS);
    for absent in ["tools", "response_format", "seed", "max_tokens", "stop"] {
        assert_eq!(plain.get(absent), None, "{absent}");
    }
    assert_eq!(
        embedding_body("bge-m3", &["a", ""]),
        json!({"model": "bge-m3", "input": ["a", " "], "encoding_format": "float"})
    );
}

/// What an answer says that comes in pieces of this size, and how it ends.
fn read_in_pieces(bytes: &[u8], size: usize) -> (Vec<ChatEvent>, Result<()>) {
    fake_wire::read_in_pieces(Answer::new("tiny"), bytes, size)
}

fn read(text: &str) -> (Vec<ChatEvent>, Result<()>) {
    read_in_pieces(text.as_bytes(), text.len().max(1))
}

/// The events of these, each with one choice.
fn choices(choices: &[Value]) -> String {
    choices.iter().map(|choice| format!("data: {}\n\n", json!({"choices": [choice]}))).collect()
}

#[test]
fn the_answers_of_each_server_are_read_so_wherever_they_are_cut() {
    let openai = vec![text("Grüße"), text(" 東京 🦀"), ChatEvent::Finish(finish(StopReason::Stop, 26, 7))];
    let tools = vec![
        call("call_a", "weather", json!({"city": "Zürich"})),
        call("call_b", "clock", json!({})),
        ChatEvent::Finish(finish(StopReason::ToolCalls, 81, 44)),
    ];
    let measured = Finish { prompt_ms: Some(325), completion_ms: Some(4709), ..finish(StopReason::Length, 26, 290) };
    let llama_cpp = vec![thought("Hm."), text("Grüße"), text(" 東京 🦀"), ChatEvent::Finish(measured)];
    let vllm = vec![
        thought("The user wants"),
        thought(" the weather."),
        text("One moment."),
        call("chatcmpl-tool-1", "weather", json!({"city": "Bern", "days": 2})),
        ChatEvent::Finish(finish(StopReason::ToolCalls, 172, 24)),
    ];
    for (sent, expected) in [(OPENAI, openai), (OPENAI_TOOLS, tools), (LLAMA_CPP, llama_cpp), (VLLM, vllm)] {
        // Some put a carriage return before each line feed, some no space after the name, and some leave the last event open.
        for sent in [sent.to_owned(), sent.replace('\n', "\r\n"), sent.replace("data: ", "data:"), sent.trim().into()] {
            for size in [1, 2, 3, 7, 100, sent.len()] {
                let (events, end) = read_in_pieces(sent.as_bytes(), size);
                end.unwrap();
                assert_eq!(events, expected, "pieces of {size}");
            }
        }
    }
}

#[test]
fn what_servers_leave_out_is_made_up_for() {
    // No last event, no usage, and a refusal in place of an answer.
    let short = choices(&[json!({"delta": {"refusal": "I won't."}}), json!({"delta": {}, "finish_reason": "stop"})]);
    let (events, end) = read(&short);
    end.unwrap();
    assert_eq!(events, [text("I won't."), ChatEvent::Finish(finish(StopReason::Stop, 0, 0))]);

    // Calls without numbers and ids, with an object for arguments, and a reason that does not name them.
    let piece = |name: &str, arguments: Value| json!({"function": {"name": name, "arguments": arguments}});
    let bare = choices(&[
        json!({"delta": {"tool_calls": [piece("clock", json!("")), piece("weather", json!({"days": 2}))]}}),
        json!({"delta": {"tool_calls": [piece("weather", json!("{\"days\":"))]}}),
        json!({"delta": {"tool_calls": [{"function": {"arguments": "3}"}}]}, "finish_reason": "stop"}),
    ]);
    let (events, end) = read(&bare);
    end.unwrap();
    let expected = [
        call("call_0", "clock", json!({})),
        call("call_1", "weather", json!({"days": 2})),
        call("call_2", "weather", json!({"days": 3})),
        ChatEvent::Finish(finish(StopReason::ToolCalls, 0, 0)),
    ];
    assert_eq!(events, expected);

    // The same number for every call.
    let piece = |id: &str| json!({"index": 0, "id": id, "function": {"name": "clock", "arguments": "{}"}});
    let (events, end) = read(&choices(&[
        json!({"delta": {"tool_calls": [piece("a")]}}),
        json!({"delta": {"tool_calls": [piece("b")]}, "finish_reason": "tool_calls"}),
    ]));
    end.unwrap();
    assert_eq!(events[..2], [call("a", "clock", json!({})), call("b", "clock", json!({}))]);
}

#[test]
fn a_call_that_is_not_whole_is_none() {
    let half = json!({"delta": {"tool_calls": [
        {"index": 1, "id": "b", "function": {"name": "weather", "arguments": "{\"city\": \"Be"}},
        {"index": 0, "id": "a", "function": {"name": "clock", "arguments": "{}"}},
    ]}});
    let ends = |reason: &str| choices(&[half.clone(), json!({"delta": {}, "finish_reason": reason})]);
    // Cut off by the limit, the call before it is whole.
    let (events, end) = read(&ends("length"));
    end.unwrap();
    assert_eq!(events, [call("a", "clock", json!({})), ChatEvent::Finish(finish(StopReason::Length, 0, 0))]);

    let error = read(&ends("tool_calls")).1.unwrap_err();
    assert_eq!((error.kind(), error.code(), error.subject()), (ErrorKind::Failed, "model_malformed", "tiny"));
    let nameless = json!({"delta": {"tool_calls": [{"index": 0, "id": "a"}]}, "finish_reason": "tool_calls"});
    let error = read(&choices(&[nameless])).1.unwrap_err();
    assert_eq!((error.code(), spent::of(&error)), ("model_malformed", Some(Usage::default())));

    let usage = json!({"choices": [], "usage": {"prompt_tokens": 26, "completion_tokens": 7}});
    let error = read(&format!("{}data: {usage}\n\n", ends("tool_calls"))).1.unwrap_err();
    let spent = spent::of(&error).unwrap();
    assert_eq!((spent.prompt_tokens, spent.completion_tokens), (26, 7), "what was wrong has been paid for");
}

#[test]
fn arguments_that_are_all_but_json_are_read() {
    let piece = json!({"index": 0, "id": "a", "function": {"name": "weather", "arguments": "{\"city\": \"Berlin\",}"}});
    let (events, end) = read(&choices(&[json!({"delta": {"tool_calls": [piece]}, "finish_reason": "tool_calls"})]));
    end.unwrap();
    assert_eq!(events[0], call("a", "weather", json!({"city": "Berlin"})));
}

#[test]
fn an_answer_that_does_not_end_well_is_an_error_after_what_it_said() {
    let said = choices(&[json!({"delta": {"content": "Grü"}})]);
    let ends = |reason: &str| choices(&[json!({"delta": {}, "finish_reason": reason})]);
    let event = |value: Value| format!("data: {value}\n\n");
    for (rest, kind, code, words) in [
        (String::new(), ErrorKind::Unavailable, "model_unavailable", "broke off"),
        // llama-cpp-python says so when it gives an answer up for another request.
        ("data: [DONE]\n\n".into(), ErrorKind::Unavailable, "model_unavailable", "broke off"),
        ("data: {\"choices\": [{\"del".into(), ErrorKind::Unavailable, "model_unavailable", "broke off"),
        (ends("abort"), ErrorKind::Unavailable, "model_unavailable", "broke off"),
        (ends("content_filter"), ErrorKind::Failed, "failed", "filter"),
        ("data: <html>\n\n".into(), ErrorKind::Unavailable, "model_unavailable", "cannot be read"),
        (event(json!({"error": "out of memory"})), ErrorKind::Unavailable, "model_unavailable", "out of memory"),
        (
            event(json!({"error": {"message": "out of memory", "type": "server_error", "code": null}})),
            ErrorKind::Unavailable,
            "model_unavailable",
            "out of memory",
        ),
        (
            event(json!({"object": "error", "message": "engine died", "type": "InternalServerError", "code": 500})),
            ErrorKind::Unavailable,
            "model_unavailable",
            "engine died",
        ),
        (event(json!({"error": {"message": "wait", "code": 429}})), ErrorKind::Full, "queue_full", "wait"),
        (
            event(json!({"error": {"code": 500, "message": "Context size has been exceeded."}})),
            ErrorKind::Invalid,
            "context_length_exceeded",
            "exceeded",
        ),
    ] {
        let (events, end) = read(&format!("{said}{rest}"));
        let error = end.unwrap_err();
        assert_eq!(events, [text("Grü")], "{rest}");
        assert_eq!((error.kind(), error.code()), (kind, code), "{rest}");
        assert!(error.report().starts_with("ask tiny: ") && error.report().contains(words), "{}", error.report());
    }
}

/// A server that serves `tiny` and `all-minilm`, and answers chats with `chat`.
async fn server(chat: impl Fn(&FakeRequest) -> FakeResponse + Send + Sync + 'static) -> FakeHttpServer {
    FakeHttpServer::start(move |request| match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/v1/models") => {
            let model = |id: &str| json!({"id": id, "object": "model", "created": 1_763_632_800, "owned_by": "us"});
            FakeResponse::json(json!({"object": "list", "data": [model("tiny"), model("all-minilm")]}))
        }
        ("POST", "/v1/chat/completions") => chat(request),
        ("POST", "/v1/embeddings") => served::embed(request),
        other => panic!("nobody asks for {other:?}"),
    })
    .await
}

fn client(server: &FakeHttpServer) -> OpenAiClient {
    OpenAiClient::new(&format!("{}/v1", server.url())).unwrap()
}

fn chat_model(server: &FakeHttpServer) -> OpenAiChat {
    let mut config = OpenAiChatConfig::new("tiny", 2048);
    config.capabilities = ModelCapabilities { chat: true, schema: true, seed: true, ..ModelCapabilities::NONE };
    OpenAiChat::new(client(server), config)
}

fn streamed(text: &str, size: usize) -> FakeResponse {
    fake_wire::streamed(text, size).header("content-type", "text/event-stream; charset=utf-8")
}

async fn refusal(model: &OpenAiChat) -> sutazai_core::Error {
    model.chat(ChatRequest::ask("Hi")).await.err().unwrap()
}

#[tokio::test]
async fn a_chat_streams() {
    let server = server(|_| streamed(OPENAI, 61)).await;
    let model = chat_model(&server);
    model.ready().await.unwrap();
    let reply = model.complete(ChatRequest::ask("Hi")).await.unwrap();
    assert_eq!(reply.text, "Grüße 東京 🦀");
    assert_eq!(reply.finish, finish(StopReason::Stop, 26, 7));
    let sent = server.requests().pop().unwrap();
    assert_eq!((&sent.json()["model"], sent.headers.get("authorization")), (&json!("tiny"), None));
    assert_eq!(model.chat(ChatRequest::ask("Hi")).await.unwrap().served().backend, "openai");
}

#[tokio::test]
async fn half_a_character_in_a_packet_is_no_matter() {
    let server = server(|_| {
        let cut = OPENAI.find("ü").unwrap() + 1;
        FakeResponse::stream([&OPENAI.as_bytes()[..cut], &OPENAI.as_bytes()[cut..]])
    })
    .await;
    assert_eq!(chat_model(&server).complete(ChatRequest::ask("Hi")).await.unwrap().text, "Grüße 東京 🦀");
}

#[tokio::test]
async fn what_is_not_declared_is_not_sent() {
    let server = server(|_| streamed(OPENAI, 1000)).await;
    let mut config = OpenAiChatConfig::new("tiny", 2048);
    config.capabilities.thinking = true;
    let model = OpenAiChat::new(client(&server), config);
    assert!(!model.info().capabilities.thinking, "the format has no word for it");
    for request in [ChatRequest { think: Some(true), ..ChatRequest::ask("Hi") }, full_request("Weather here?")] {
        assert_eq!(model.chat(request).await.err().unwrap().kind(), ErrorKind::Unsupported);
    }
    assert!(server.requests().is_empty());
    model.chat(ChatRequest { think: Some(false), ..ChatRequest::ask("Hi") }).await.unwrap();
}

#[tokio::test]
async fn a_dropped_answer_closes_the_connection() {
    let piece = choices(&[json!({"delta": {"content": "and "}})]);
    let server = server(move |_| FakeResponse::stream([piece.clone()]).endless()).await;
    let mut stream = chat_model(&server).chat(ChatRequest::ask("Hi")).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), text("and "));
    drop(stream);
    server.client_gone().await;
}

#[tokio::test]
async fn nothing_follows_an_error() {
    let said = choices(&[json!({"delta": {"content": "Grü"}})]);
    let packet = said + "data: {\"error\": \"out of memory\"}\n\n" + OPENAI;
    let server = server(move |_| FakeResponse::stream([packet.clone()])).await;
    let events: Vec<_> = chat_model(&server).chat(ChatRequest::ask("Hi")).await.unwrap().collect().await;
    assert!(matches!(&events[..], [Ok(ChatEvent::Text(text)), Err(_)] if text == "Grü"), "{events:?}");
}

#[tokio::test]
async fn errors_before_the_first_piece_come_back_at_once() {
    for (sent, code) in [
        ("", "model_unavailable"),
        ("data: {\"error\": {\"code\": \"context_length_exceeded\"}}\n\n", "context_length_exceeded"),
    ] {
        let server = server(move |_| FakeResponse::stream([sent])).await;
        assert_eq!(refusal(&chat_model(&server)).await.code(), code);
    }
    // A body that is shorter than was said.
    let server = server(|_| FakeResponse::stream([": ping\n\n"]).header("content-length", 1000)).await;
    let error = refusal(&chat_model(&server)).await;
    assert!(error.is_temporary() && error.code() == "model_unavailable", "{error:?}");
}

#[tokio::test]
async fn what_does_not_stream_is_no_answer() {
    for (kind, body, report) in [
        ("text/html", "<html>", "/v1"),
        ("application/json", r#"{"error": {"message": "the reason"}}"#, "the reason"),
        ("application/json; charset=utf-8", r#"{"choices": []}"#, "/v1"),
    ] {
        let server = server(move |_| FakeResponse::new(200, body).header("content-type", kind)).await;
        let error = refusal(&chat_model(&server)).await;
        assert_eq!((error.kind(), error.code()), (ErrorKind::Unsupported, "model_unavailable"), "{body}");
        assert!(error.report().contains(report), "{}", error.report());
    }
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let said = |error: Value| json!({"error": error}).to_string();
    let openai = |kind: &str, code: Value| said(json!({"message": "the reason", "type": kind, "code": code}));
    let vllm_long = "This model's maximum context length is 2048 tokens. However, you requested 4000 tokens.";
    for (status, body, kind, code) in [
        (400, openai("invalid_request_error", Value::Null), ErrorKind::Invalid, "invalid"),
        (422, openai("invalid_request_error", Value::Null), ErrorKind::Invalid, "invalid"),
        (
            400,
            openai("invalid_request_error", json!("context_length_exceeded")),
            ErrorKind::Invalid,
            "context_length_exceeded",
        ),
        (
            400,
            said(json!({"code": 400, "message": "the reason", "type": "exceed_context_size_error"})),
            ErrorKind::Invalid,
            "context_length_exceeded",
        ),
        (
            400,
            json!({"object": "error", "message": vllm_long, "type": "BadRequestError", "code": 400}).to_string(),
            ErrorKind::Invalid,
            "context_length_exceeded",
        ),
        (404, openai("invalid_request_error", json!("model_not_found")), ErrorKind::NotFound, "model_not_found"),
        (404, said(json!("the reason")), ErrorKind::NotFound, "model_not_found"),
        (400, openai("invalid_request_error", json!("model_not_found")), ErrorKind::NotFound, "model_not_found"),
        (404, r#"{"detail":"Not Found"}"#.into(), ErrorKind::Unsupported, "model_unavailable"),
        (405, "<html>".into(), ErrorKind::Unsupported, "model_unavailable"),
        (401, openai("invalid_request_error", json!("invalid_api_key")), ErrorKind::Invalid, "model_unauthorised"),
        (403, String::new(), ErrorKind::Invalid, "model_unauthorised"),
        (402, said(json!("the reason")), ErrorKind::Failed, "failed"),
        (429, openai("insufficient_quota", json!("insufficient_quota")), ErrorKind::Failed, "failed"),
        (429, openai("tokens", json!("rate_limit_exceeded")), ErrorKind::Full, "queue_full"),
        (424, openai("server_error", json!("task_failed")), ErrorKind::Failed, "task_failed"),
        (424, openai("server_error", json!("task_cancelled")), ErrorKind::Cancelled, "task_cancelled"),
        (408, String::new(), ErrorKind::Timeout, "model_timeout"),
        (504, "<html>".into(), ErrorKind::Timeout, "model_timeout"),
        (500, openai("server_error", Value::Null), ErrorKind::Unavailable, "model_unavailable"),
        (501, openai("not_supported_error", json!(501)), ErrorKind::Unsupported, "unsupported"),
        (503, said(json!({"code": 503, "message": "Loading model"})), ErrorKind::Unavailable, "model_unavailable"),
    ] {
        let sent = body.clone();
        let server = server(move |_| FakeResponse::new(status, sent.clone())).await;
        let error = refusal(&chat_model(&server)).await;
        assert_eq!((error.kind(), error.code()), (kind, code), "{status} {body}");
        assert_eq!((error.operation(), error.subject()), ("ask", "tiny"), "{status} {body}");
        let shown = body.contains("the reason") && status != 401;
        assert_eq!(error.report().ends_with("the reason"), shown, "{}", error.report());
    }
}

#[tokio::test]
async fn a_busy_server_says_when_to_come_again() {
    for (status, kind) in [(429, ErrorKind::Full), (503, ErrorKind::Unavailable)] {
        let server = server(move |_| FakeResponse::new(status, "").header("retry-after", 7)).await;
        let error = refusal(&chat_model(&server)).await;
        assert_eq!((error.kind(), error.delay()), (kind, Some(Duration::from_secs(7))));
    }
}

#[tokio::test]
async fn the_key_is_sent_and_never_shown() {
    const KEY: &str = "sk-0123456789";
    let server = server(|request| {
        let text = format!("I do not like {:?}", request.headers["authorization"]);
        let status = if request.json()["messages"][0]["content"] == "401" { 401 } else { 400 };
        FakeResponse::new(status, json!({"error": {"message": text}}).to_string())
    })
    .await;
    let address = format!("{}/v1", server.url()).replace("//", "//me:secret@");
    let client = OpenAiClient::new(&address).unwrap().api_key(format!(" {KEY}\n").into());
    let model = OpenAiChat::new(client.clone(), OpenAiChatConfig::new("tiny", 2048));
    for question in ["401", "400"] {
        let error = model.chat(ChatRequest::ask(question)).await.err().unwrap();
        assert!(!error.report().contains(KEY) && !error.report().contains("secret"), "{}", error.report());
        assert_eq!(error.report().contains("I do not like"), question == "400");
    }
    let sent = server.requests();
    assert!(sent.iter().all(|request| request.headers["authorization"] == format!("Bearer {KEY}")), "{sent:?}");
    let shown = format!("{model:?}");
    assert!(shown.contains("OpenAiClient { address: \"http://127.0.0.1") && !shown.contains(KEY), "{shown}");

    let error = client.clone().api_key("sk-01\nxyz".into()).models().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && !error.report().contains("xyz"), "{}", error.report());
    client.api_key(" ".into()).models().await.unwrap();
    assert_eq!(server.requests().last().unwrap().headers.get("authorization"), None);
}

#[tokio::test]
async fn nobody_at_the_address_is_temporary() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = OpenAiClient::new(&format!("http://me:secret@{closed}/v1")).unwrap();
    for error in [
        client.models().await.unwrap_err(),
        refusal(&OpenAiChat::new(client.clone(), OpenAiChatConfig::new("tiny", 2048))).await,
    ] {
        assert!(error.is_temporary() && error.code() == "model_unavailable");
        assert!(error.report().contains(&client.address()), "{}", error.report());
        assert!(!error.report().contains("secret"), "{}", error.report());
    }
    assert_eq!(OpenAiClient::new("ftp://x").unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn models_are_listed() {
    let server = server(|_| streamed(OPENAI, 1000)).await;
    assert_eq!(client(&server).models().await.unwrap(), ["tiny", "all-minilm"]);
    let error = OpenAiChat::new(client(&server), OpenAiChatConfig::new("gone", 1)).ready().await.unwrap_err();
    assert_eq!((error.code(), error.subject()), ("model_not_found", "gone"));
    assert!(error.to_string().contains("it serves tiny, all-minilm"), "{error}");

    let other = FakeHttpServer::start(|_| FakeResponse::new(200, "<html>")).await;
    let error = client(&other).models().await.unwrap_err();
    assert!(error.code() == "model_unavailable" && error.subject().starts_with("http://127.0.0.1"), "{error:?}");
}
