//! What a call has taken so far, and the answer that is counted as it comes.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use futures_util::StreamExt;
use sutazai_core::{
    Error, ErrorKind, Result,
    clock::Clock,
    model::{ChatEvent, ChatStream, Usage},
    store::Amounts,
};

use super::{
    config::Price,
    ledger::Hold,
    need::{Need, count, millis},
};
use crate::{
    gateway::{admission::estimate::Mean, fit::spoken},
    spent,
};

/// What a call has taken. Dropped before the call has ended, what was seen of it counts.
pub(super) struct Bill {
    /// What is reserved for it; nothing where nothing is limited, and then its time is measured and all else is nobody's concern.
    hold: Option<Hold>,
    need: Need,
    price: Price,
    clock: Arc<dyn Clock>,
    began: Duration,
    /// How long the calls of this model take.
    pace: Arc<Mutex<Mean>>,
    /// Bytes of answer that have come; none before its first piece.
    seen: Option<usize>,
}

impl Bill {
    pub(super) fn new(
        hold: Option<Hold>,
        need: Need,
        price: Price,
        clock: &Arc<dyn Clock>,
        pace: &Arc<Mutex<Mean>>,
    ) -> Self {
        let (began, clock) = (clock.elapsed(), Arc::clone(clock));
        Self { hold, need, price, clock, began, pace: Arc::clone(pace), seen: None }
    }

    /// Counts a piece of the answer.
    fn see(&mut self, event: &ChatEvent) {
        if self.hold.is_none() {
            return;
        }
        let bytes = match event {
            ChatEvent::Text(piece) | ChatEvent::Thinking(piece) => piece.len(),
            ChatEvent::ToolCall(call) => call.name.len() + call.arguments.to_string().len(),
            ChatEvent::Finish(_) => 0,
        };
        self.seen = Some(self.seen.unwrap_or_default().saturating_add(bytes));
    }

    /// The answer has ended, and this is what the backend says that it took. Where it says nothing of one part, that part is estimated.
    fn finish(mut self, usage: Usage) {
        let took = self.took();
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).add(took.as_secs_f64());
        let or = |said: u32, estimate: u64| if said == 0 { estimate } else { said.into() };
        let prompt = or(usage.prompt_tokens, self.need.prompt);
        let completion = or(usage.completion_tokens, count(spoken(self.seen.unwrap_or_default())));
        self.settle(prompt, completion);
    }

    /// The answer has ended in an error, or never began. Where the backend had said what it took, that counts, else what was seen of it; a call that no
    /// model has taken was never made, and costs nothing.
    pub(super) fn failed(mut self, error: &Error) {
        if let Some(usage) = spent::of(error) {
            self.finish(usage);
        } else if self.seen.is_none() && was_not_made(error) {
            drop(self.hold.take());
        }
    }

    fn took(&self) -> Duration {
        self.clock.elapsed().saturating_sub(self.began)
    }

    /// The prompt was read if anything was answered.
    fn tokens_seen(&self) -> (u64, u64) {
        self.seen.map_or((0, 0), |bytes| (self.need.prompt, count(spoken(bytes))))
    }

    fn settle(&mut self, prompt: u64, completion: u64) {
        let Some(hold) = self.hold.take() else { return };
        hold.settle(Amounts {
            tokens: prompt.saturating_add(completion),
            calls: 1,
            millis: millis(self.took()),
            micros: self.price.of(prompt, completion),
        });
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        let (prompt, completion) = self.tokens_seen();
        self.settle(prompt, completion);
    }
}

/// Whether a call that failed so before its answer began was refused, by whoever stands before the model or by the model itself. Whoever ran out of time or
/// broke down may have been at work on it.
fn was_not_made(error: &Error) -> bool {
    use ErrorKind::{Full, Invalid, NotFound, Unavailable, Unsupported};
    matches!(error.kind(), Full | Invalid | NotFound | Unavailable | Unsupported) || error.code() == "out_of_memory"
}

/// An answer that is on a bill until it ends.
pub(super) struct Billed {
    events: ChatStream,
    bill: Option<Bill>,
}

impl Billed {
    pub(super) fn new(events: ChatStream, bill: Bill) -> Self {
        Self { events, bill: Some(bill) }
    }
}

impl Stream for Billed {
    type Item = Result<ChatEvent>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let event = ready!(this.events.poll_next_unpin(cx));
        match (&event, &mut this.bill) {
            (Some(Ok(ChatEvent::Finish(finish))), bill) => {
                if let Some(bill) = bill.take() {
                    bill.finish(finish.usage);
                }
            }
            (Some(Ok(piece)), Some(bill)) => bill.see(piece),
            (Some(Ok(_)), None) => {}
            (Some(Err(error)), bill) => {
                if let Some(bill) = bill.take() {
                    bill.failed(error);
                }
            }
            (None, bill) => drop(bill.take()),
        }
        Poll::Ready(event)
    }
}
