//! Ollama's wire format, without IO: requests are built here and answers are read here.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{
        ChatEvent, ChatRequest, Finish, Message, ModelCapabilities, ModelInfo, ResponseFormat, Role, StopReason,
        ToolCall, Usage,
    },
};

/// The body of `POST /api/chat`. `context` is always sent: a server reloads a model that is asked for with another one.
pub(super) fn chat_body(model: &str, request: &ChatRequest, context: usize) -> Value {
    let sampling = request.sampling;
    let mut options = Map::from_iter([
        ("num_ctx".into(), json!(context)),
        // As f64, 0.7 would be written as 0.699999988079071.
        ("temperature".into(), number(sampling.temperature)),
        ("top_p".into(), number(sampling.top_p)),
    ]);
    // Ollama's seeds are signed, and a negative one means none.
    options.extend(sampling.seed.map(|seed| ("seed".into(), json!(seed & i64::MAX.unsigned_abs()))));
    options.extend(request.max_tokens.map(|tokens| ("num_predict".into(), json!(tokens))));
    if !request.stop.is_empty() {
        options.insert("stop".into(), json!(request.stop));
    }
    let messages: Vec<_> = request.messages.iter().map(|message| message_body(message, &request.messages)).collect();
    let mut body = Map::from_iter([
        ("model".into(), json!(model)),
        ("messages".into(), json!(messages)),
        ("stream".into(), json!(true)),
        // A conversation beyond the context is refused: by default its oldest messages are left out without a word.
        ("truncate".into(), json!(false)),
        ("shift".into(), json!(false)),
        ("options".into(), Value::Object(options)),
    ]);
    if !request.tools.is_empty() {
        let tools: Vec<_> = request.tools.iter().map(|tool| json!({"type": "function", "function": tool})).collect();
        body.insert("tools".into(), json!(tools));
    }
    match &request.response_format {
        ResponseFormat::Text => {}
        ResponseFormat::Json => drop(body.insert("format".into(), json!("json"))),
        ResponseFormat::Schema(schema) => drop(body.insert("format".into(), schema.clone())),
    }
    Value::Object(body)
}

/// A number as it was written, not as the next f64.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |value| json!(value))
}

fn message_body(message: &Message, conversation: &[Message]) -> Value {
    let mut body = Map::from_iter([("role".into(), json!(message.role)), ("content".into(), json!(message.content))]);
    if !message.tool_calls.is_empty() {
        let call = |call: &ToolCall| json!({"function": {"name": call.name, "arguments": call.arguments}});
        body.insert("tool_calls".into(), message.tool_calls.iter().map(call).collect());
    }
    if message.role == Role::Tool {
        // Ollama knows results by the tool's name, not by the call's id.
        let mut calls = conversation.iter().flat_map(|message| &message.tool_calls);
        if let Some(call) = calls.find(|call| Some(&call.id) == message.tool_call_id.as_ref()) {
            body.insert("tool_name".into(), json!(call.name));
        }
    }
    Value::Object(body)
}

/// Reads the lines of an answer.
#[derive(Debug, Default)]
pub(super) struct ChatReader {
    calls: u32,
}

#[derive(Deserialize)]
struct ChatLine {
    error: Option<Value>,
    message: Option<LineMessage>,
    #[serde(default)]
    done: bool,
    done_reason: Option<String>,
    #[serde(default)]
    prompt_eval_count: u32,
    #[serde(default)]
    eval_count: u32,
    prompt_eval_duration: Option<u64>,
    eval_duration: Option<u64>,
}

#[derive(Deserialize)]
struct LineMessage {
    #[serde(default)]
    content: String,
    #[serde(default)]
    tool_calls: Vec<LineCall>,
}

#[derive(Deserialize)]
struct LineCall {
    id: Option<String>,
    function: LineFunction,
}

#[derive(Deserialize)]
struct LineFunction {
    name: String,
    #[serde(default)]
    arguments: Value,
}

impl ChatReader {
    /// The events of one line, in order.
    pub(super) fn read(&mut self, line: &[u8]) -> Result<Vec<ChatEvent>> {
        let line: ChatLine = serde_json::from_slice(line).map_err(|error| unreadable().because(error))?;
        if let Some(error) = line.error {
            return Err(unavailable("Ollama broke the answer off").because(said(&error)));
        }
        let mut events = Vec::new();
        if let Some(message) = line.message {
            if !message.content.is_empty() {
                events.push(ChatEvent::Text(message.content));
            }
            for call in message.tool_calls {
                let id = call.id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("call_{}", self.calls));
                self.calls += 1;
                let LineFunction { name, arguments } = call.function;
                events.push(ChatEvent::ToolCall(ToolCall { id, name, arguments }));
            }
        }
        if line.done {
            let stop = match line.done_reason.as_deref() {
                _ if self.calls > 0 => StopReason::ToolCalls,
                Some("length") => StopReason::Length,
                _ => StopReason::Stop,
            };
            let ms = |nanos: Option<u64>| nanos.map(|nanos| nanos / 1_000_000);
            events.push(ChatEvent::Finish(Finish {
                stop,
                usage: Usage { prompt_tokens: line.prompt_eval_count, completion_tokens: line.eval_count },
                prompt_ms: ms(line.prompt_eval_duration),
                completion_ms: ms(line.eval_duration),
            }));
        }
        Ok(events)
    }
}

/// Splits bytes into lines. Characters may be cut anywhere: a line is handed out only when it is whole.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// No line of Ollama's is longer; one that is would fill the memory.
    const LONGEST: usize = 16 << 20;

    /// Takes bytes, gives the lines that are now whole, without empty ones.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.pending.extend_from_slice(bytes);
        let mut lines = Vec::new();
        if let Some(end) = self.pending.iter().rposition(|byte| *byte == b'\n') {
            let rest = self.pending.split_off(end + 1);
            let whole = std::mem::replace(&mut self.pending, rest);
            lines.extend(
                whole
                    .split(|byte| *byte == b'\n')
                    .map(<[u8]>::trim_ascii)
                    .filter(|line| !line.is_empty())
                    .map(<[u8]>::to_vec),
            );
        }
        if self.pending.len() > Self::LONGEST { Err(unreadable()) } else { Ok(lines) }
    }

    /// What stands after the last line break.
    pub(super) fn rest(&mut self) -> Option<Vec<u8>> {
        let rest = std::mem::take(&mut self.pending).trim_ascii().to_vec();
        (!rest.is_empty()).then_some(rest)
    }
}

/// The body of `POST /api/embed`.
pub(super) fn embed_body(model: &str, texts: &[String]) -> Value {
    // Ollama has no vector for a text without a token.
    let input: Vec<_> = texts.iter().map(|text| if text.is_empty() { " " } else { text }).collect();
    json!({"model": model, "input": input, "truncate": true})
}

/// The answer of `POST /api/embed`.
#[derive(Debug, Deserialize)]
pub(super) struct Embedded {
    pub(super) embeddings: Vec<Vec<f32>>,
    #[serde(default)]
    pub(super) prompt_eval_count: u32,
}

/// The answer of `GET /api/tags`.
#[derive(Debug, Deserialize)]
pub(super) struct Tags {
    #[serde(default)]
    pub(super) models: Vec<Tag>,
}

/// The answer of `GET /api/version`.
#[derive(Debug, Deserialize)]
pub(super) struct Version {
    pub(super) version: String,
}

/// A model that an Ollama holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// Its name, with tag.
    pub name: String,
    /// Bytes on disk.
    #[serde(default)]
    pub size: u64,
    /// Digest of its manifest.
    #[serde(default)]
    pub digest: String,
    /// More about it.
    #[serde(default)]
    pub details: Details,
}

/// What Ollama says about a model's weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// `gguf`.
    #[serde(default)]
    pub format: String,
    /// The architecture.
    #[serde(default)]
    pub family: String,
    /// Such as `1.1B`.
    #[serde(default)]
    pub parameter_size: String,
    /// Such as `Q4_0`.
    #[serde(default)]
    pub quantization_level: String,
}

impl Tag {
    /// Whether this is what `name` means: a name without a tag means `:latest`.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        let full = |name: &str| if name.contains(':') { name.to_owned() } else { format!("{name}:latest") };
        full(&self.name).eq_ignore_ascii_case(&full(name))
    }
}

/// The answer of `POST /api/show`, as far as it is used.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Shown {
    /// How the model was made; its `FROM` line names the file.
    #[serde(default)]
    pub modelfile: String,
    /// What it can do: `completion`, `tools`, `embedding`. Old versions do not say.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// The metadata of its file, such as `llama.context_length`.
    #[serde(default)]
    pub model_info: Map<String, Value>,
}

impl Shown {
    /// A number of the metadata, whatever the architecture.
    fn metadata(&self, name: &str) -> Option<usize> {
        let architecture = self.model_info.get("general.architecture")?.as_str()?;
        usize::try_from(self.model_info.get(&format!("{architecture}.{name}"))?.as_u64()?).ok()
    }

    /// The model as this backend presents it; at most `context` tokens of context.
    pub(super) fn info(&self, name: &str, context: usize) -> ModelInfo {
        let can = |what: &str| self.capabilities.iter().any(|capability| capability == what);
        let embedding = can("embedding") || (self.capabilities.is_empty() && self.metadata("pooling_type").is_some());
        let chat = if self.capabilities.is_empty() { !embedding } else { can("completion") };
        ModelInfo {
            name: name.into(),
            backend: "ollama".into(),
            context_length: self.metadata("context_length").unwrap_or(context).min(context),
            dimension: if embedding { self.metadata("embedding_length").unwrap_or(0) } else { 0 },
            capabilities: ModelCapabilities { chat, embedding, tools: can("tools"), schema: chat, seed: true },
        }
    }
}

/// What an answer that is not 200 means. `wait` is what it says about when to come again.
pub(super) fn refused(status: u16, wait: Option<Duration>, body: &[u8], model: Option<&str>) -> Error {
    #[derive(Deserialize)]
    struct Refusal {
        error: Value,
    }
    let reason = serde_json::from_slice::<Refusal>(body).map(|refusal| refusal.error);
    let error = match (status, model) {
        (404, Some(model)) => Error::new(
            ErrorKind::NotFound,
            format!("Ollama does not hold this model; get it with `ollama pull {model}`"),
        )
        .with_code("model_not_found"),
        (429 | 503, _) => Error::new(ErrorKind::Full, "Ollama has too much to do; try again later")
            .with_code("queue_full")
            .retry_after(wait.unwrap_or(Duration::from_secs(1))),
        (500.., _) => unavailable("Ollama cannot serve now"),
        (400, _) if reason.as_ref().is_ok_and(|reason| exceeds_context(reason, 4)) => {
            Error::new(ErrorKind::Invalid, "the prompt leaves no room for an answer in the model's context")
                .with_code("context_length_exceeded")
        }
        (400, _) => Error::new(ErrorKind::Invalid, "Ollama refuses the request"),
        _ => Error::new(ErrorKind::Unsupported, format!("what answers with status {status} is no Ollama"))
            .with_code("model_unavailable"),
    };
    match reason {
        Ok(reason) => error.because(said(&reason)),
        Err(_) => error,
    }
}

/// What an error says: its text, or the message in it.
fn said(error: &Value) -> String {
    match (error.as_str(), error.get("message").and_then(Value::as_str)) {
        (Some(text), _) | (None, Some(text)) => text.to_owned(),
        (None, None) => error.to_string(),
    }
}

/// Whether an error is of llama.cpp's type for prompts beyond the context. Ollama passes on what its runner says, as an object or as JSON in a text.
fn exceeds_context(error: &Value, depth: u32) -> bool {
    let inside = |inner: &Value| depth > 0 && exceeds_context(inner, depth - 1);
    match error {
        Value::Object(fields) => {
            fields.get("type").is_some_and(|kind| kind == "exceed_context_size_error")
                || fields.get("error").is_some_and(inside)
        }
        Value::String(text) => text.starts_with('{') && serde_json::from_str(text).is_ok_and(|inner| inside(&inner)),
        _ => false,
    }
}

/// A temporary failure.
pub(super) fn unavailable(message: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, message).with_code("model_unavailable")
}

fn unreadable() -> Error {
    unavailable("Ollama sent what cannot be read")
}
