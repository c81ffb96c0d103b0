//! One answer, from its first logits to its last piece.

use std::time::Instant;

use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatEvent, ChatRequest, Finish, StopReason, Usage},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{grammar::Grammar, sampler::Sampler, text::TextStream, tokenizer::Tokenizer};

/// An answer under way.
pub(crate) struct Answer {
    events: mpsc::Sender<Result<ChatEvent>>,
    grammar: Option<Grammar>,
    sampler: Sampler,
    text: TextStream,
    prompt: usize,
    made: usize,
    most: usize,
    began: Instant,
    /// When the prompt was read.
    read: Option<Instant>,
    _turn: OwnedSemaphorePermit,
}

impl Answer {
    /// An answer to `request`, whose prompt has `prompt` tokens of the `context` that there are.
    pub(crate) fn new(
        request: &ChatRequest,
        (prompt, context): (usize, usize),
        grammar: Option<Grammar>,
        events: mpsc::Sender<Result<ChatEvent>>,
        turn: OwnedSemaphorePermit,
    ) -> Self {
        let left = context - prompt;
        Self {
            events,
            grammar,
            sampler: Sampler::new(request.sampling),
            text: TextStream::new(&request.stop),
            prompt,
            made: 0,
            most: request.max_tokens.and_then(|most| usize::try_from(most).ok()).map_or(left, |most| most.min(left)),
            began: Instant::now(),
            read: None,
            _turn: turn,
        }
    }

    /// Whether nobody listens any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// Whether the prompt has been read.
    pub(crate) fn has_read(&self) -> bool {
        self.read.is_some()
    }

    /// Chooses the next token by `logits` and sends what is certain of its text; `None` once the answer has ended.
    pub(crate) fn advance(&mut self, tokenizer: &Tokenizer, logits: &[f32]) -> Result<Option<u32>> {
        self.read.get_or_insert_with(Instant::now);
        if let Some(grammar) = &mut self.grammar {
            grammar.prepare()?;
        }
        let allowed = |token| self.grammar.as_ref().is_none_or(|grammar| grammar.allows(token));
        let token = self.sampler.choose(logits, allowed).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "the model gave no number for any token").with_code("model_failed")
        })?;
        if tokenizer.is_end(token) {
            return Ok(self.end(StopReason::Stop));
        }
        self.made += 1;
        let complete = self.grammar.as_mut().map_or(Ok(false), |grammar| grammar.take(token))?;
        let piece = self.text.push(tokenizer.bytes(token));
        self.send(piece);
        if complete || self.text.stopped() {
            return Ok(self.end(StopReason::Stop));
        }
        if self.made == self.most {
            return Ok(self.end(StopReason::Length));
        }
        Ok(Some(token))
    }

    /// Ends the answer with an error.
    pub(crate) fn fail(self, error: Error) {
        let _ = self.events.try_send(Err(error));
    }

    fn end<T>(&mut self, stop: StopReason) -> Option<T> {
        if !self.text.stopped() {
            let rest = self.text.finish();
            self.send(rest);
        }
        let usage = Usage { prompt_tokens: count(self.prompt), completion_tokens: count(self.made) };
        let read = self.read.unwrap_or(self.began);
        let (prompt_ms, completion_ms) = (Some(millis(self.began, read)), Some(millis(read, Instant::now())));
        // Refused only where nobody listens.
        let _ = self.events.try_send(Ok(ChatEvent::Finish(Finish { stop, usage, prompt_ms, completion_ms })));
        None
    }

    /// Sends a piece; the channel has room for as many as the context has tokens, so only a lost listener refuses it.
    fn send(&self, piece: String) {
        if !piece.is_empty() {
            let _ = self.events.try_send(Ok(ChatEvent::Text(piece)));
        }
    }
}

fn millis(from: Instant, to: Instant) -> u64 {
    u64::try_from((to - from).as_millis()).unwrap_or(u64::MAX)
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
