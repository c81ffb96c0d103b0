//! Chat: a request, a stream of events, and the trait between them.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Caller, ChatStream, ModelInfo};
use crate::error::{Error, ErrorKind, Fault, Result};

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The person or program that asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Pictures that belong to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Image>,
    /// The tools an assistant's message calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), images: Vec::new(), tool_calls: Vec::new(), tool_call_id: None }
    }

    /// Instructions.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(Role::System, content)
    }

    /// A question.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }
}

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its media type, such as `image/png`.
    pub media_type: String,
    /// Its bytes in standard base64.
    pub data: String,
}

/// A tool that the model may call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// Its name.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON schema of its arguments.
    pub parameters: Value,
}

/// A call that the model wants made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Its id within the conversation.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments, as the model wrote them.
    pub arguments: Value,
}

/// The form of the answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Free text.
    #[default]
    Text,
    /// Any JSON object.
    Json,
    /// JSON that fits this schema.
    Schema(Value),
}

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// 0 is greedy; at most 2.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens with this probability mass; in (0, 1].
    pub top_p: f32,
    /// The same seed gives the same answer where the model can.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.7, top_p: 0.95, seed: None }
    }
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, seed: Some(0) };
}

/// What to ask of a chat model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    /// The model, where the caller chooses; the default one otherwise.
    pub model: Option<String>,
    /// The conversation, oldest first; at least one message.
    pub messages: Vec<Message>,
    /// Tools the model may call.
    pub tools: Vec<ToolSpec>,
    /// The form of the answer.
    pub response_format: ResponseFormat,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens of answer at most; what fits the context otherwise.
    pub max_tokens: Option<u32>,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
    /// Whether the model thinks aloud first; its own habit if not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think: Option<bool>,
    /// Whether an answer that was given before will do.
    #[serde(skip)]
    pub caching: Caching,
    /// Who asks.
    #[serde(skip)]
    pub caller: Caller,
}

/// Whether an answer that was given before will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Caching {
    /// Where the request says that its answer is always the same: with temperature 0.
    #[default]
    Auto,
    /// If it is no older than this, whatever the temperature.
    MaxAge(Duration),
    /// Never; the new answer is not kept either.
    Off,
}

impl ChatRequest {
    /// A request with one user message.
    pub fn ask(question: impl Into<String>) -> Self {
        Self::new(vec![Message::user(question)])
    }

    /// A request with these messages.
    #[must_use]
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }

    /// Checks what needs no model: ranges, and what `info` declares.
    pub fn check(&self, info: &ModelInfo) -> Result<()> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, path: &str, message: String| {
            if !ok {
                faults.push(Fault::new(path, message));
            }
        };
        let Sampling { temperature, top_p, .. } = self.sampling;
        check(!self.messages.is_empty(), "/messages", "at least one message is needed".into());
        check((0.0..=2.0).contains(&temperature), "/sampling/temperature", format!("{temperature} is not in 0 to 2"));
        let top_p_message = format!("{top_p} is not above 0 and at most 1");
        check(top_p > 0.0 && top_p <= 1.0, "/sampling/top_p", top_p_message);
        check(self.max_tokens != Some(0), "/max_tokens", "at least 1 token is needed".into());
        if !faults.is_empty() {
            return Err(Error::invalid("the chat request is wrong", faults).about(&info.name));
        }
        let unsupported =
            |what: &'static str| Err(Error::new(ErrorKind::Unsupported, what).during("chat with").about(&info.name));
        if !info.capabilities.chat {
            return unsupported("this model does not chat");
        }
        let past = |message: &Message| message.role == Role::Tool || !message.tool_calls.is_empty();
        if !info.capabilities.tools && !self.tools.is_empty() {
            return unsupported("this model does not call tools");
        }
        if !info.capabilities.tools && self.messages.iter().any(past) {
            return unsupported("this model does not understand the tool calls in the conversation");
        }
        if !info.capabilities.vision && self.messages.iter().any(|message| !message.images.is_empty()) {
            return unsupported("this model does not see images");
        }
        if !info.capabilities.thinking && self.think == Some(true) {
            return unsupported("this model does not think aloud");
        }
        if self.response_format != ResponseFormat::Text && !info.capabilities.schema {
            return unsupported("this model does not keep to a JSON schema");
        }
        Ok(())
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopReason {
    /// The model was done, or a stop sequence came.
    Stop,
    /// `max_tokens` or the context was used up.
    Length,
    /// The model wants tools called.
    ToolCalls,
}

/// Tokens used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: u32,
    /// Of the answer.
    pub completion_tokens: u32,
}

/// The end of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finish {
    /// Why it ended.
    pub stop: StopReason,
    /// Tokens used.
    pub usage: Usage,
    /// Milliseconds spent on the prompt, where the backend measures it.
    pub prompt_ms: Option<u64>,
    /// Milliseconds spent on the answer, where the backend measures it.
    pub completion_ms: Option<u64>,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatEvent {
    /// More text, never empty, whole characters.
    Text(String),
    /// More of what the model thinks before it answers, never empty, whole characters.
    Thinking(String),
    /// A complete tool call.
    ToolCall(ToolCall),
    /// The end; nothing follows.
    Finish(Finish),
}

/// A model that answers.
#[async_trait]
pub trait ChatModel: Send + Sync + 'static {
    /// What it is and can do. Cheap; does not load the model.
    fn info(&self) -> &ModelInfo;

    /// Whether a call would find what it needs (files on disk, a server that answers), without loading anything. The error says what to do.
    async fn ready(&self) -> Result<()>;

    /// Begins an answer. Waits for the model's turn and for the first sign of life, not for the answer.
    ///
    /// Errors before the first piece come back here: invalid or unsupported requests, a prompt beyond the context (code
    /// `context_length_exceeded`), a model that is missing (`model_not_found`) or cannot be reached (`model_unavailable`). Cancel by dropping: the
    /// model's slot is free soon after.
    async fn chat(&self, request: ChatRequest) -> Result<ChatStream>;

    /// Brings the model into memory, where that can be asked for; otherwise the first answer does. Returns when it is there.
    async fn load(&self) -> Result<()> {
        Ok(())
    }

    /// Gives the model's memory back, where that can be asked for. What is being answered is answered first.
    async fn unload(&self) -> Result<()> {
        Ok(())
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatReply {
    /// The text.
    pub text: String,
    /// The tools the model wants called.
    pub tool_calls: Vec<ToolCall>,
    /// How it ended.
    pub finish: Finish,
}

/// Conveniences over [`ChatModel`].
#[async_trait]
pub trait ChatModelExt: ChatModel {
    /// The whole answer at once.
    async fn complete(&self, request: ChatRequest) -> Result<ChatReply> {
        collect(self.chat(request).await?).await
    }
}

impl<M: ChatModel + ?Sized> ChatModelExt for M {}

/// Reads an answer to its end.
pub(crate) async fn collect(mut stream: ChatStream) -> Result<ChatReply> {
    let (mut text, mut tool_calls) = (String::new(), Vec::new());
    while let Some(event) = stream.next().await {
        match event? {
            ChatEvent::Text(piece) => text.push_str(&piece),
            ChatEvent::Thinking(_) => {}
            ChatEvent::ToolCall(call) => tool_calls.push(call),
            ChatEvent::Finish(finish) => return Ok(ChatReply { text, tool_calls, finish }),
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "the answer broke off").with_code("model_unavailable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_of_json_has_its_default() {
        let request: ChatRequest =
            serde_json::from_str(r#"{"messages": [{"role": "user", "content": "Hi"}], "sampling": {"seed": 7}}"#)
                .unwrap();
        let sampling = Sampling { seed: Some(7), ..Sampling::default() };
        assert_eq!(request, ChatRequest { sampling, ..ChatRequest::ask("Hi") });
    }
}
