//! An answer that is given on while it comes: its text and thoughts at once, its calls when all of them are right.

use std::collections::VecDeque;

use futures_util::{StreamExt, stream};
use sutazai_core::{
    Result,
    model::{ChatEvent, ChatStream},
};

use super::{answer::Answer, exchange::Exchange};

/// The answer `begun`, checked at its end.
pub(super) fn passed_on(exchange: Exchange, begun: ChatStream) -> ChatStream {
    begun.map_events(|events| {
        let answer = Some(Answer::new(events.served().clone()));
        let passing = Passing { exchange, events, answer, rest: VecDeque::new() };
        stream::unfold(passing, |mut passing| async move { Some((passing.next().await?, passing)) }).fuse()
    })
}

struct Passing {
    exchange: Exchange,
    events: ChatStream,
    /// What has come; nothing after the end.
    answer: Option<Answer>,
    /// What is given on at the end.
    rest: VecDeque<ChatEvent>,
}

impl Passing {
    /// The next event. One that broke off breaks off here as well.
    async fn next(&mut self) -> Option<Result<ChatEvent>> {
        while let Some(answer) = &mut self.answer {
            let event = self.events.next().await?;
            let told = match &event {
                Ok(told @ (ChatEvent::Text(_) | ChatEvent::Thinking(_))) => Some(told.clone()),
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
        let said = !answer.text.is_empty();
        match self.exchange.settle(answer).await {
            Ok(checked) => self.rest.extend(checked.into_rest(said)),
            Err(error) => return Some(Err(error)),
        }
        self.rest.pop_front().map(Ok)
    }
}
