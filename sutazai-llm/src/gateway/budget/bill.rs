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
    Result,
    clock::Clock,
    model::{ChatEvent, ChatStream, Usage},
    store::Amounts,
};

use super::{
    config::Price,
    ledger::Hold,
    need::{Need, count, millis},
};
use crate::gateway::{admission::estimate::Mean, fit::spoken};

/// What a call has taken. Dropped before the call has ended, what was seen of it counts.
pub(super) struct Bill {
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
    pub(super) fn new(hold: Hold, need: Need, price: Price, clock: &Arc<dyn Clock>, pace: &Arc<Mutex<Mean>>) -> Self {
        let (began, clock) = (clock.elapsed(), Arc::clone(clock));
        Self { hold: Some(hold), need, price, clock, began, pace: Arc::clone(pace), seen: None }
    }

    /// Counts a piece of the answer.
    fn see(&mut self, event: &ChatEvent) {
        let bytes = match event {
            ChatEvent::Text(piece) | ChatEvent::Thinking(piece) => piece.len(),
            ChatEvent::ToolCall(call) => call.name.len() + call.arguments.to_string().len(),
            ChatEvent::Finish(_) => 0,
        };
        self.seen = Some(self.seen.unwrap_or_default().saturating_add(bytes));
    }

    /// The answer has ended, and this is what the backend says that it took.
    fn finish(mut self, usage: Usage) {
        let took = self.took();
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).add(took.as_secs_f64());
        let (prompt, completion) = match usage {
            // Some backends do not say.
            Usage { prompt_tokens: 0, completion_tokens: 0 } => {
                self.seen = self.seen.or(Some(0));
                self.tokens_seen()
            }
            Usage { prompt_tokens, completion_tokens } => (prompt_tokens.into(), completion_tokens.into()),
        };
        self.settle(prompt, completion);
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
            (Some(Err(_)) | None, bill) => drop(bill.take()),
        }
        Poll::Ready(event)
    }
}
