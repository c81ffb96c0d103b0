//! Reading the answers of chats and generations, without IO: lines in, pieces of the answer out.

use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::{Value, json};
use sutazai_core::{
    Error, Result,
    model::{ChatEvent, Finish, StopReason, ToolCall, Usage},
};

use super::{
    ndjson::ReadLine,
    refusal::{broken, unavailable, unreadable},
};

/// An answer, as far as it has come.
#[derive(Debug)]
pub(super) struct Answer {
    model: String,
    calls: u32,
}

/// A line of it. What is left out has said nothing.
#[derive(Deserialize)]
struct Line {
    error: Option<Value>,
    /// What a chat says.
    message: Option<Message>,
    /// What a generation says.
    response: Option<String>,
    /// What the model thinks in a generation.
    thinking: Option<String>,
    done: Option<bool>,
    done_reason: Option<String>,
    prompt_eval_count: Option<u32>,
    eval_count: Option<u32>,
    prompt_eval_duration: Option<u64>,
    eval_duration: Option<u64>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
    thinking: Option<String>,
    tool_calls: Option<Vec<Call>>,
}

#[derive(Deserialize)]
struct Call {
    id: Option<String>,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    arguments: Option<Value>,
}

impl Answer {
    /// An answer of `model` of which nothing has come yet.
    pub(super) fn new(model: &str) -> Self {
        Self { model: model.to_owned(), calls: 0 }
    }

    /// A call, with an id of its own where the server gives none, as old ones do.
    fn call(&mut self, call: Call) -> ToolCall {
        let id = call.id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("call_{}", self.calls));
        self.calls += 1;
        let Function { name, arguments } = call.function;
        ToolCall { id, name, arguments: arguments.unwrap_or_else(|| json!({})) }
    }

    fn finish(&self, line: &Line) -> Finish {
        let stop = match line.done_reason.as_deref() {
            _ if self.calls > 0 => StopReason::ToolCalls,
            Some("length") => StopReason::Length,
            _ => StopReason::Stop,
        };
        let usage = Usage {
            prompt_tokens: line.prompt_eval_count.unwrap_or(0),
            completion_tokens: line.eval_count.unwrap_or(0),
        };
        let ms = |nanos: Option<u64>| nanos.map(|nanos| nanos / 1_000_000);
        Finish { stop, usage, prompt_ms: ms(line.prompt_eval_duration), completion_ms: ms(line.eval_duration) }
    }
}

impl ReadLine for Answer {
    type Item = ChatEvent;

    fn read(&mut self, line: &[u8], out: &mut VecDeque<ChatEvent>) -> Result<bool> {
        let mut line: Line = serde_json::from_slice(line).map_err(|error| unreadable().because(error))?;
        if let Some(error) = &line.error {
            return Err(broken(error, &self.model));
        }
        let (content, thinking, calls) = match line.message.take() {
            Some(Message { content, thinking, tool_calls }) => (content, thinking, tool_calls),
            None => (line.response.take(), line.thinking.take(), None),
        };
        let said = |text: &String| !text.is_empty();
        out.extend(thinking.filter(said).map(ChatEvent::Thinking));
        out.extend(content.filter(said).map(ChatEvent::Text));
        for call in calls.unwrap_or_default() {
            let call = self.call(call);
            out.push_back(ChatEvent::ToolCall(call));
        }
        let done = line.done == Some(true);
        if done {
            out.push_back(ChatEvent::Finish(self.finish(&line)));
        }
        Ok(!done)
    }

    fn broke_off(&self) -> Error {
        unavailable("the answer of Ollama broke off")
    }

    fn explained(&self, error: Error) -> Error {
        error.during("ask").about(&self.model)
    }
}
