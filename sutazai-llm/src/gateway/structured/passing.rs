//! An answer that is given on while it comes: its thoughts at once, its text too unless that has to be checked first, its calls when all of them are right.

use std::collections::VecDeque;

use futures_util::{StreamExt, stream};
use sutazai_core::{
    Result,
    model::{ChatEvent, ChatStream},
};

use super::{answer::Answer, exchange::Exchange};
use crate::gateway::first::broke_off;

/// The answer `begun`, checked at its end; its text is given on as it comes unless `holds_text`.
pub(super) fn passed_on(exchange: Exchange, begun: ChatStream, holds_text: bool) -> ChatStream {
    begun.map_events(|events| {
        let answer = Some(Answer::new(events.served().clone()));
        let passing = Passing { exchange, events, answer, holds_text, rest: VecDeque::new() };
        stream::unfold(passing, |mut passing| async move { Some((passing.next().await?, passing)) }).fuse()
    })
}

struct Passing {
    exchange: Exchange,
    events: ChatStream,
    /// What has come; nothing after the end.
    answer: Option<Answer>,
    /// Whether the text is given on at the end alone.
    holds_text: bool,
    /// What is given on at the end.
    rest: VecDeque<ChatEvent>,
}

impl Passing {
    async fn next(&mut self) -> Option<Result<ChatEvent>> {
        while let Some(answer) = &mut self.answer {
            let event = self.events.next().await.unwrap_or_else(|| Err(broke_off(self.exchange.model())));
            let told = match &event {
                Ok(told @ ChatEvent::Thinking(_)) => Some(told.clone()),
                Ok(told @ ChatEvent::Text(_)) if !self.holds_text => Some(told.clone()),
                _ => None,
            };
            match answer.take(event) {
                Ok(false) => {}
                Ok(true) => return self.end().await,
                Err(error) => {
                    self.answer = None;
                    return Some(Err(error));
                }
            }
            if told.is_some() {
                return told.map(Ok);
            }
        }
        self.rest.pop_front().map(Ok)
    }

    async fn end(&mut self) -> Option<Result<ChatEvent>> {
        let answer = self.answer.take()?;
        let said = !self.holds_text && !answer.text.is_empty();
        match self.exchange.settle(answer, said).await {
            Ok(checked) => self.rest.extend(checked.into_rest(said)),
            Err(error) => return Some(Err(error)),
        }
        self.rest.pop_front().map(Ok)
    }
}
