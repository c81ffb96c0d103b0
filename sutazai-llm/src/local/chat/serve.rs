//! Answers of a loaded model, some at a time: each pass over the weights serves all of them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sutazai_core::{Error, ErrorKind, Result, model::ChatRequest};

use super::{
    answer::Answer,
    loaded::Loaded,
    network::{Part, Sessions},
    place::{Offer, Place, place},
    worker::{Job, Work},
};
use crate::local::text_of;

/// Tokens of prompt in a pass: between two of them it is seen whether somebody still listens.
pub(crate) const CHUNK: usize = 64;
/// The same where others are being answered, who wait for as long as a pass takes.
const CHUNK_BESIDE: usize = 16;

/// The sessions of a loaded model, and the answers that are given in them.
pub(crate) struct Serving<'a> {
    name: &'a str,
    loaded: &'a Loaded,
    sessions: Box<dyn Sessions + 'a>,
    slots: Vec<Slot>,
    clock: u64,
}

/// One session.
#[derive(Default)]
struct Slot {
    /// What it has read, and then what it is to read.
    tokens: Vec<u32>,
    read: usize,
    /// Whose tokens these are. Others could tell from the time to an answer what was asked before.
    tenant: String,
    used: u64,
    answer: Option<Answer>,
}

impl Slot {
    fn unread(&self) -> usize {
        self.tokens.len() - self.read
    }

    /// Ends the answer; what was read stays, for whoever begins alike.
    fn free(&mut self) {
        self.tokens.truncate(self.read);
        self.answer = None;
    }

    fn fail(&mut self, error: Error) {
        self.tokens.clear();
        self.read = 0;
        if let Some(answer) = self.answer.take() {
            answer.fail(error);
        }
    }
}

impl<'a> Serving<'a> {
    /// A model that answers `count` requests at a time.
    pub(crate) fn new(name: &'a str, loaded: &'a Loaded, count: usize) -> Result<Self> {
        let sessions = guarded(|| loaded.sessions(count))?;
        Ok(Self { name, loaded, sessions, slots: (0..count).map(|_| Slot::default()).collect(), clock: 0 })
    }

    /// Whether an answer is being given.
    pub(crate) fn is_busy(&self) -> bool {
        self.slots.iter().any(|slot| slot.answer.is_some())
    }

    /// Takes a request into a free session.
    pub(crate) fn begin(&mut self, job: Job) {
        let Job { work: Work::Answer { request, events }, turn } = job else { return };
        if events.is_closed() {
            return;
        }
        let begun = guarded(|| {
            let prompt = self.loaded.prompt(&request)?;
            let grammar = self.loaded.grammar(&request)?;
            let measures = (prompt.len(), self.loaded.context());
            let answer = Answer::new(&request, measures, grammar, events.clone(), turn);
            self.take(&request, prompt, answer)
        });
        if let Err(error) = begun {
            let _ = events.try_send(Err(error.about(self.name)));
        }
    }

    fn take(&mut self, request: &ChatRequest, prompt: Vec<u32>, answer: Answer) -> Result<()> {
        let tenant = request.caller.tenant();
        let offers = self.slots.iter().map(|slot| Offer {
            tokens: if slot.tenant == tenant { &slot.tokens[..slot.read] } else { &[] },
            length: slot.read,
            busy: slot.answer.is_some(),
            used: slot.used,
        });
        let Place { to, from, length } = place(&offers.collect::<Vec<_>>(), &prompt)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "more requests than sessions"))?;
        if from != to && length > 0 {
            self.slots[to] = Slot::default();
            self.sessions.copy(from, to, length)?;
        }
        self.clock += 1;
        let tenant = tenant.to_owned();
        self.slots[to] = Slot { tokens: prompt, read: length, tenant, used: self.clock, answer: Some(answer) };
        Ok(())
    }

    /// One pass: a piece of the prompt that came first, and the next token of every answer whose prompt was read. An error has broken the model.
    pub(crate) fn step(&mut self) -> Result<()> {
        for slot in self.slots.iter_mut().filter(|slot| slot.answer.as_ref().is_some_and(Answer::is_abandoned)) {
            slot.free();
        }
        let has_read = |slot: &Slot| slot.answer.as_ref().is_some_and(Answer::has_read);
        let chunk = if self.slots.iter().any(has_read) { CHUNK_BESIDE } else { CHUNK };
        let reads = |slot: &&Slot| slot.answer.is_some() && !has_read(slot);
        let first = self.slots.iter().filter(reads).map(|slot| slot.used).min();
        let count = |slot: &Slot| match &slot.answer {
            Some(answer) if answer.has_read() => slot.unread(),
            Some(_) if Some(slot.used) == first => slot.unread().min(chunk),
            _ => 0,
        };
        let counts: Vec<usize> = self.slots.iter().map(count).collect();
        let parts: Vec<Part<'_>> = self
            .slots
            .iter()
            .zip(&counts)
            .enumerate()
            .filter(|(_, (_, count))| **count > 0)
            .map(|(session, (slot, count))| Part {
                session,
                position: slot.read,
                tokens: &slot.tokens[slot.read..slot.read + count],
                wants_logits: slot.unread() == *count,
            })
            .collect();
        if parts.is_empty() {
            return Ok(());
        }
        let wanted = parts.iter().filter(|part| part.wants_logits).count();
        let sessions = &mut *self.sessions;
        let logits = guarded(move || sessions.pass(&parts))?;
        let mut logits = logits.chunks_exact((logits.len() / wanted.max(1)).max(1));
        for (slot, count) in self.slots.iter_mut().zip(counts).filter(|(_, count)| *count > 0) {
            slot.read += count;
            if slot.unread() > 0 {
                continue;
            }
            let (Some(answer), Some(logits)) = (&mut slot.answer, logits.next()) else { continue };
            match guarded(|| answer.advance(self.loaded.tokenizer(), logits)) {
                Ok(Some(token)) => slot.tokens.push(token),
                Ok(None) => {
                    self.clock += 1;
                    slot.used = self.clock;
                    slot.free();
                }
                Err(error) => slot.fail(error.about(self.name)),
            }
        }
        Ok(())
    }

    /// Ends every answer, for this reason.
    pub(crate) fn fail(&mut self, reason: &str) {
        let error = || {
            let message = "the model broke off; it is loaded anew for the next request";
            Error::new(ErrorKind::Internal, message).with_code("model_failed").because(reason).about(self.name)
        };
        self.slots.iter_mut().for_each(|slot| slot.fail(error()));
    }
}

/// What `work` gives; a panic is an error.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Error::new(ErrorKind::Internal, "the model broke off; try again")
            .with_code("model_failed")
            .because(text_of(&*panic)))
    })
}

#[cfg(test)]
mod tests;
