//! The answers of `POST /v1/chat/completions`.

use axum::http::StatusCode;
use serde::Serialize;
use sutazai_core::model::{ChatEvent, ToolCall};

use super::common::{DONE, Head, UsageOut, finish_reason};
use crate::http::{
    dialect::Dialect,
    models::{Whole, Wire, line},
    reply::{Reply, json},
};

/// Writes an answer as a message, or as the pieces of one.
pub(super) struct ChatWire {
    head: Head,
    include_usage: bool,
    /// Calls that were sent.
    calls: usize,
}

impl ChatWire {
    pub(super) fn new(head: Head, include_usage: bool) -> Self {
        Self { head, include_usage, calls: 0 }
    }

    fn chunk(&self, delta: Said<'_>, finish_reason: Option<&'static str>) -> String {
        let choice = Piece { index: 0, delta, finish_reason };
        line(&self.head.over("chat.completion.chunk", vec![choice], None))
    }
}

impl Wire for ChatWire {
    const DIALECT: Dialect = Dialect::OpenAi;

    fn begin(&self) -> Vec<String> {
        vec![self.chunk(Said { role: Some("assistant"), content: Some(Some("")), ..Said::default() }, None)]
    }

    fn piece(&mut self, event: ChatEvent) -> Vec<String> {
        match event {
            ChatEvent::Text(text) => vec![self.chunk(Said { content: Some(Some(&text)), ..Said::default() }, None)],
            ChatEvent::Thinking(text) => {
                vec![self.chunk(Said { reasoning_content: Some(&text), ..Said::default() }, None)]
            }
            ChatEvent::ToolCall(call) => {
                let call = CallOut::new(&call, Some(self.calls));
                self.calls += 1;
                vec![self.chunk(Said { tool_calls: vec![call], ..Said::default() }, None)]
            }
            ChatEvent::Finish(finish) => {
                let mut pieces = vec![self.chunk(Said::default(), Some(finish_reason(finish.stop)))];
                if self.include_usage {
                    let usage = Some(finish.usage.into());
                    pieces.push(line(&self.head.over("chat.completion.chunk", Vec::<Piece<'_>>::new(), usage)));
                }
                pieces.push(DONE.to_owned());
                pieces
            }
        }
    }

    fn whole(self, answer: Whole) -> Reply {
        let Whole { text, thinking, calls, finish, .. } = answer;
        let is_silent = text.is_empty() && !calls.is_empty();
        let message = Said {
            role: Some("assistant"),
            content: Some((!is_silent).then_some(&*text)),
            reasoning_content: (!thinking.is_empty()).then_some(&*thinking),
            tool_calls: calls.iter().map(|call| CallOut::new(call, None)).collect(),
        };
        let choice = Choice { index: 0, message, logprobs: (), finish_reason: finish_reason(finish.stop) };
        let size = 512 + text.len() + thinking.len();
        let usage = UsageOut::from(finish.usage);
        json(StatusCode::OK, &self.head.over("chat.completion", vec![choice], Some(usage)), size)
    }
}

/// The answer.
#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    message: Said<'a>,
    /// Always null: they are not kept.
    logprobs: (),
    finish_reason: &'static str,
}

/// A piece of it.
#[derive(Serialize)]
struct Piece<'a> {
    index: u32,
    delta: Said<'a>,
    finish_reason: Option<&'static str>,
}

/// What is said, or more of it.
#[derive(Default, Serialize)]
struct Said<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Null in a message that only calls tools; left out of a piece that adds nothing to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Option<&'a str>>,
    /// What the model thinks, under the name that other servers of this format have for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallOut<'a>>,
}

/// A call that the model wants made.
#[derive(Serialize)]
struct CallOut<'a> {
    /// Which one of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    id: &'a str,
    r#type: &'static str,
    function: FunctionOut<'a>,
}

#[derive(Serialize)]
struct FunctionOut<'a> {
    name: &'a str,
    arguments: String,
}

impl<'a> CallOut<'a> {
    fn new(call: &'a ToolCall, index: Option<usize>) -> Self {
        // A model that wrote no JSON is quoted as it is.
        let arguments = call.arguments.as_str().map_or_else(|| call.arguments.to_string(), str::to_owned);
        Self { index, id: &call.id, r#type: "function", function: FunctionOut { name: &call.name, arguments } }
    }
}
