//! Reading an answer, without IO: bytes in, pieces of the answer out.

use std::{collections::VecDeque, mem, time::Duration};

use serde::{Deserialize, de::IgnoredAny};
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatEvent, Finish, StopReason, Usage},
};

use super::{
    calls::{CallPiece, Calls},
    refusal::{broken, unavailable, unreadable},
    sse::Events,
};
use crate::http::Decode;

/// What stands where the event after the last would.
const END: &[u8] = b"[DONE]";

/// An answer, as far as it has come.
#[derive(Debug)]
pub(super) struct Answer {
    model: String,
    events: Events,
    calls: Calls,
    /// Why the answer ends, once the server has said so. The usage comes after it.
    reason: Option<String>,
    usage: Usage,
    timings: Timings,
}

#[derive(Deserialize)]
struct Chunk {
    error: Option<IgnoredAny>,
    object: Option<String>,
    choices: Option<Vec<Choice>>,
    usage: Option<WireUsage>,
    timings: Option<Timings>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
    /// Why the model does not answer, which is its answer.
    refusal: Option<String>,
    /// What it thinks, in vLLM and llama.cpp.
    reasoning_content: Option<String>,
    /// The same under the name that newer servers give it; some send both.
    reasoning: Option<String>,
    tool_calls: Option<Vec<CallPiece>>,
}

#[derive(Deserialize)]
struct WireUsage {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
}

/// What llama.cpp measures.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Timings {
    prompt_ms: Option<f64>,
    predicted_ms: Option<f64>,
}

impl Decode for Answer {
    type Item = ChatEvent;

    fn push(&mut self, bytes: &[u8], out: &mut VecDeque<ChatEvent>) -> Result<bool> {
        let read = self.take(bytes, out);
        read.map_err(|error| self.explained(error))
    }

    fn end(&mut self, out: &mut VecDeque<ChatEvent>) -> Result<()> {
        let read = self.close(out);
        read.map_err(|error| self.explained(error))
    }
}

impl Answer {
    /// An answer of `model` of which nothing has come yet.
    pub(super) fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            events: Events::default(),
            calls: Calls::default(),
            reason: None,
            usage: Usage::default(),
            timings: Timings::default(),
        }
    }

    fn explained(&self, error: Error) -> Error {
        error.during("ask").about(&self.model)
    }

    fn take(&mut self, bytes: &[u8], out: &mut VecDeque<ChatEvent>) -> Result<bool> {
        let mut whole = Vec::new();
        let pushed = self.events.push(bytes, &mut whole);
        for event in whole {
            if !self.read(&event, out)? {
                return Ok(false);
            }
        }
        pushed.map(|()| true)
    }

    fn close(&mut self, out: &mut VecDeque<ChatEvent>) -> Result<()> {
        // Half an event says nothing.
        let is_whole = |event: &Vec<u8>| {
            event.trim_ascii() == END || serde_json::from_slice::<IgnoredAny>(event.as_slice()).is_ok()
        };
        if let Some(event) = self.events.rest().filter(is_whole)
            && !self.read(&event, out)?
        {
            return Ok(());
        }
        self.finish(out)
    }

    /// Takes in an event; says whether another may follow.
    fn read(&mut self, event: &[u8], out: &mut VecDeque<ChatEvent>) -> Result<bool> {
        let event = event.trim_ascii();
        if event == END {
            return self.finish(out).map(|()| false);
        }
        if event.is_empty() {
            return Ok(true);
        }
        let chunk: Chunk = serde_json::from_slice(event).map_err(|error| unreadable().because(error))?;
        if chunk.error.is_some() || chunk.object.as_deref() == Some("error") {
            return Err(broken(event, &self.model));
        }
        // One answer was asked for, so there is one choice.
        if let Some(choice) = chunk.choices.and_then(|choices| choices.into_iter().next()) {
            let Delta { content, refusal, reasoning_content, reasoning, tool_calls } = choice.delta.unwrap_or_default();
            let said = |text: &String| !text.is_empty();
            let thought = reasoning_content.filter(said).or(reasoning.filter(said));
            out.extend(thought.map(ChatEvent::Thinking));
            out.extend([content, refusal].into_iter().flatten().filter(said).map(ChatEvent::Text));
            tool_calls.into_iter().flatten().try_for_each(|piece| self.calls.add(piece))?;
            self.reason = choice.finish_reason.filter(said).or(self.reason.take());
        }
        if let Some(usage) = chunk.usage {
            // Where it comes with every event, the last one counts.
            self.usage = Usage {
                prompt_tokens: usage.prompt_tokens.unwrap_or(0),
                completion_tokens: usage.completion_tokens.unwrap_or(0),
            };
        }
        self.timings = chunk.timings.unwrap_or(self.timings);
        Ok(true)
    }

    /// Ends the answer. It has broken off if nobody said why it ends, whatever follows: a server that stops in the middle may still send its last event.
    fn finish(&mut self, out: &mut VecDeque<ChatEvent>) -> Result<()> {
        let broke_off = || unavailable("the answer of the server broke off");
        let stop = match self.reason.as_deref().ok_or_else(broke_off)? {
            "length" | "model_length" => StopReason::Length,
            "content_filter" => {
                return Err(Error::new(ErrorKind::Failed, "a filter of the server ended the answer"));
            }
            "abort" | "error" | "insufficient_system_resource" => return Err(broke_off()),
            _ => StopReason::Stop,
        };
        let calls = mem::take(&mut self.calls).finish(stop == StopReason::Length, self.usage)?;
        // Not every server says that it ends for its calls.
        let stop = if stop == StopReason::Stop && !calls.is_empty() { StopReason::ToolCalls } else { stop };
        out.extend(calls.into_iter().map(ChatEvent::ToolCall));
        out.push_back(ChatEvent::Finish(Finish {
            stop,
            usage: self.usage,
            prompt_ms: whole(self.timings.prompt_ms),
            completion_ms: whole(self.timings.predicted_ms),
        }));
        Ok(())
    }
}

/// Whole milliseconds.
fn whole(ms: Option<f64>) -> Option<u64> {
    let spent = Duration::try_from_secs_f64(ms? / 1000.0).ok()?;
    u64::try_from(spent.as_millis()).ok()
}
