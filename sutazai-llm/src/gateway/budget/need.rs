//! What a call may take, before it is made.

use std::time::Duration;

use sutazai_core::{model::ChatRequest, store::Amounts};

use super::config::Price;
use crate::gateway::fit::{Prompt, tokens};

/// The tokens of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// Of its prompt.
    pub(super) prompt: u64,
    /// Of its answer at most.
    pub(super) answer: u64,
    /// Whether the backend counts its prompt as we do.
    pub(super) exact: bool,
}

impl Need {
    /// Of a request to a model of this context, which is 0 if it is not known.
    pub(super) fn of(prompt: Prompt, request: &ChatRequest, context: usize, answer_tokens: u32) -> Self {
        let wanted = tokens(request.max_tokens.unwrap_or(answer_tokens));
        let room = if context == 0 { usize::MAX } else { context.saturating_sub(prompt.least) };
        Self { prompt: count(prompt.likely), answer: count(wanted.min(room)), exact: prompt.exact }
    }

    /// Of a call for which nothing is reserved.
    pub(super) const NONE: Self = Self { prompt: 0, answer: 0, exact: false };

    /// The longest answer for which enough is reserved, as a request says it.
    pub(super) fn max_tokens(&self) -> u32 {
        u32::try_from(self.answer).unwrap_or(u32::MAX).max(1)
    }

    /// All that is reserved for it.
    pub(super) fn amounts(&self, price: Price, time: Duration) -> Amounts {
        Amounts {
            tokens: self.prompt.saturating_add(self.answer),
            calls: 1,
            millis: millis(time),
            micros: price.of(self.prompt, self.answer),
        }
    }
}

/// A number as budgets have it.
pub(super) fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// A time as budgets have it.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_what_it_asks_for_or_what_is_left() {
        let prompt = Prompt { likely: 12, least: 10, exact: false };
        let request = |max_tokens| ChatRequest { max_tokens, ..ChatRequest::ask("x") };
        let answer = |max_tokens, context| Need::of(prompt, &request(max_tokens), context, 50).answer;
        assert_eq!((answer(Some(7), 100), answer(Some(700), 100), answer(Some(700), 0)), (7, 90, 700));
        assert_eq!((answer(None, 100), answer(None, 30), answer(None, 5), answer(None, 0)), (50, 20, 0, 50));
        let need = Need::of(prompt, &request(Some(8)), 100, 50);
        let amounts = need.amounts(Price::per_million(1.0, 2.0).unwrap(), Duration::from_micros(1_999));
        assert_eq!(amounts, Amounts { tokens: 20, calls: 1, millis: 1, micros: 28 });
        assert!(!need.exact);
        let most = |answer| Need { answer, ..need }.max_tokens();
        assert_eq!((most(8), most(0), most(u64::MAX)), (8, 1, u32::MAX));
    }
}
