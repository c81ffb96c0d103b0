//! The answers of `POST /api/chat` and `POST /api/generate`: lines that say more and more, and a last one with the figures.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use sutazai_core::{
    clock::{Clock, SystemClock, Timestamp},
    model::{ChatEvent, Finish, StopReason, ToolCall},
};

use crate::http::{
    dialect::Dialect,
    models::{Whole, Wire, line},
    reply::{Reply, json},
};

/// Where the text of an answer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// In a message.
    Chat,
    /// By itself.
    Generate,
}

/// Writes an answer.
pub(super) struct OllamaWire {
    form: Form,
    model: String,
    began: Instant,
    /// When the first piece came.
    first: Option<Instant>,
}

impl OllamaWire {
    /// The answer of `model` to a request that came at `began`.
    pub(super) fn new(form: Form, model: String, began: Instant) -> Self {
        Self { form, model, began, first: None }
    }

    /// An answer without a word.
    pub(super) fn empty(&self, done_reason: &'static str) -> Reply {
        json(StatusCode::OK, &Line { done: true, done_reason: Some(done_reason), ..self.says(Said::default()) }, 256)
    }

    fn says<'a>(&'a self, said: Said<'a>) -> Line<'a> {
        let mut line = Line {
            model: &self.model,
            created_at: SystemClock.now(),
            message: None,
            response: None,
            thinking: None,
            done: false,
            done_reason: None,
            figures: None,
        };
        match self.form {
            Form::Chat => line.message = Some(said),
            Form::Generate => (line.response, line.thinking) = (Some(said.content), said.thinking),
        }
        line
    }

    fn ends<'a>(&'a self, said: Said<'a>, finish: Finish, first: Instant) -> Line<'a> {
        let done_reason = if finish.stop == StopReason::Length { "length" } else { "stop" };
        let figures = Figures::new(finish, self.began, first, Instant::now());
        Line { done: true, done_reason: Some(done_reason), figures: Some(figures), ..self.says(said) }
    }
}

impl Wire for OllamaWire {
    const DIALECT: Dialect = Dialect::Ollama;

    fn piece(&mut self, event: ChatEvent) -> Vec<String> {
        let first = *self.first.get_or_insert_with(Instant::now);
        let one = match event {
            ChatEvent::Text(text) => line(&self.says(Said { content: &text, ..Said::default() })),
            ChatEvent::Thinking(text) => line(&self.says(Said { thinking: Some(&text), ..Said::default() })),
            ChatEvent::ToolCall(call) => {
                line(&self.says(Said { tool_calls: vec![CallOut::from(&call)], ..Said::default() }))
            }
            ChatEvent::Finish(finish) => line(&self.ends(Said::default(), finish, first)),
        };
        vec![one]
    }

    fn whole(self, answer: Whole) -> Reply {
        let Whole { text, thinking, calls, finish, first } = answer;
        let said = Said {
            content: &text,
            thinking: (!thinking.is_empty()).then_some(&*thinking),
            tool_calls: calls.iter().map(CallOut::from).collect(),
            ..Said::default()
        };
        json(StatusCode::OK, &self.ends(said, finish, first), 512 + text.len() + thinking.len())
    }
}

#[derive(Serialize)]
struct Line<'a> {
    model: &'a str,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Said<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a str>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    #[serde(flatten)]
    figures: Option<Figures>,
}

/// What is said, or more of it.
#[derive(Serialize)]
struct Said<'a> {
    role: &'static str,
    content: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallOut<'a>>,
}

impl Default for Said<'_> {
    fn default() -> Self {
        Self { role: "assistant", content: "", thinking: None, tool_calls: Vec::new() }
    }
}

/// A call that the model wants made.
#[derive(Serialize)]
struct CallOut<'a> {
    id: &'a str,
    function: FunctionOut<'a>,
}

#[derive(Serialize)]
struct FunctionOut<'a> {
    name: &'a str,
    arguments: &'a Value,
}

impl<'a> From<&'a ToolCall> for CallOut<'a> {
    fn from(call: &'a ToolCall) -> Self {
        Self { id: &call.id, function: FunctionOut { name: &call.name, arguments: &call.arguments } }
    }
}

/// What an answer took: tokens and nanoseconds.
#[derive(Serialize)]
struct Figures {
    total_duration: u64,
    prompt_eval_count: u32,
    prompt_eval_duration: u64,
    eval_count: u32,
    eval_duration: u64,
}

impl Figures {
    /// As the backend measured it; else as it was seen from here, where the wait for the model's turn counts as part of the prompt's time.
    fn new(finish: Finish, began: Instant, first: Instant, end: Instant) -> Self {
        let seen = |from: Instant, to: Instant| nanos(to.saturating_duration_since(from));
        let measured = |ms: Option<u64>| ms.map(|ms| nanos(Duration::from_millis(ms)));
        Self {
            total_duration: seen(began, end),
            prompt_eval_count: finish.usage.prompt_tokens,
            prompt_eval_duration: measured(finish.prompt_ms).unwrap_or_else(|| seen(began, first)),
            eval_count: finish.usage.completion_tokens,
            eval_duration: measured(finish.completion_ms).unwrap_or_else(|| seen(first, end)),
        }
    }
}

/// A duration as Ollama writes it.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sutazai_core::model::Usage;

    use super::*;

    fn written(form: Form, event: ChatEvent) -> Value {
        let mut wire = OllamaWire::new(form, "m".into(), Instant::now());
        let mut lines = wire.piece(event);
        let mut value: Value = serde_json::from_str(&lines.remove(0)).unwrap();
        let fields = value.as_object_mut().unwrap();
        assert!(fields.remove("created_at").unwrap().as_str().unwrap().ends_with('Z') && lines.is_empty());
        assert_eq!(fields.remove("model"), Some(json!("m")));
        value
    }

    #[test]
    fn a_piece_is_a_line() {
        let text = || ChatEvent::Text("Hi".into());
        let message = json!({"role": "assistant", "content": "Hi"});
        assert_eq!(written(Form::Chat, text()), json!({"message": message, "done": false}));
        assert_eq!(written(Form::Generate, text()), json!({"response": "Hi", "done": false}));
        let thought = written(Form::Generate, ChatEvent::Thinking("hm".into()));
        assert_eq!(thought, json!({"response": "", "thinking": "hm", "done": false}));
        let call = ToolCall { id: "c".into(), name: "now".into(), arguments: json!({"zone": "UTC"}) };
        let called = written(Form::Chat, ChatEvent::ToolCall(call));
        let function = json!({"name": "now", "arguments": {"zone": "UTC"}});
        assert_eq!(called["message"]["tool_calls"], json!([{"id": "c", "function": function}]));
    }

    #[test]
    fn the_last_line_has_the_figures() {
        let usage = Usage { prompt_tokens: 3, completion_tokens: 5 };
        let finish = Finish { stop: StopReason::Length, usage, prompt_ms: Some(2), completion_ms: None };
        let end = written(Form::Chat, ChatEvent::Finish(finish));
        assert_eq!((&end["done"], &end["done_reason"]), (&json!(true), &json!("length")));
        assert_eq!((&end["prompt_eval_count"], &end["eval_count"]), (&json!(3), &json!(5)));
        assert_eq!(end["prompt_eval_duration"], 2_000_000);
        assert!(end["eval_duration"].is_u64() && end["total_duration"].is_u64());
        assert_eq!(end["message"]["content"], "");
    }
}
