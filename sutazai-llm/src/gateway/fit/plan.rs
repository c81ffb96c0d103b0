//! What to do with a request: computed, not done.

use std::sync::Arc;

use sutazai_core::model::ChatRequest;

use super::{
    Fit, TokenCounter,
    count::{Prompt, tokens},
    turns::parts,
};

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Send,
    /// Send it without the messages of these numbers, in order, and with a summary in their place if there is room for one.
    LeaveOut {
        messages: Vec<usize>,
        summarise: bool,
    },
    Refuse(Refusal),
}

/// Why a request cannot be sent: the tokens of its prompt, at least or exactly, and those of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) prompt: usize,
    pub(super) answer: usize,
    pub(super) exact: bool,
}

/// What requests are measured with.
#[derive(Clone)]
pub(super) struct Ruler {
    pub(super) counter: Option<Arc<dyn TokenCounter>>,
    /// Tokens that the model takes; 0 where it does not know.
    pub(super) context: usize,
    pub(super) policy: Fit,
    /// Tokens of an answer at least.
    pub(super) answer_room: usize,
    /// Tokens of a summary at most.
    pub(super) summary_room: usize,
}

impl Ruler {
    pub(super) fn plan(&self, request: &ChatRequest) -> Plan {
        let prompt = self.prompt(request);
        if self.context == 0 || self.takes(prompt, request, 0) {
            return Plan::Send;
        }
        let parts = if self.policy == Fit::Refuse { Vec::new() } else { parts(&request.messages) };
        let mut rest = request.clone();
        let mut without = |count: usize| {
            let numbers = in_order(parts.iter().take(count));
            let stays = |at: &usize| numbers.binary_search(at).is_err();
            let kept = request.messages.iter().enumerate().filter(|(at, _)| stays(at));
            rest.messages = kept.map(|(_, message)| message.clone()).collect();
            self.prompt(&rest)
        };
        let leave_out = |count, summarise| Plan::LeaveOut { messages: in_order(parts.iter().take(count)), summarise };
        if self.policy == Fit::Summarise
            && let Some(count) = fewest(parts.len(), |count| self.takes(without(count), request, self.summary_room))
        {
            return leave_out(count, true);
        }
        if let Some(count) = fewest(parts.len(), |count| self.takes(without(count), request, 0)) {
            return leave_out(count, false);
        }
        let prompt = if parts.is_empty() { prompt } else { without(parts.len()) };
        match self.refusal(prompt, request) {
            Some(refusal) => Plan::Refuse(refusal),
            None if parts.is_empty() => Plan::Send,
            None => leave_out(parts.len(), false),
        }
    }

    /// Whether the request fits as it is, as far as that can be known.
    pub(super) fn fits(&self, request: &ChatRequest) -> bool {
        self.context == 0 || self.takes(self.prompt(request), request, 0)
    }

    /// Whether it is known not to fit as it is.
    pub(super) fn is_too_long(&self, request: &ChatRequest) -> bool {
        self.context != 0 && self.refusal(self.prompt(request), request).is_some()
    }

    fn prompt(&self, request: &ChatRequest) -> Prompt {
        Prompt::of(request, self.counter.as_deref())
    }

    /// Tokens that are wanted for the answer.
    fn answer(&self, request: &ChatRequest) -> usize {
        request.max_tokens.map_or(0, tokens).max(self.answer_room)
    }

    fn takes(&self, prompt: Prompt, request: &ChatRequest, reserve: usize) -> bool {
        prompt.likely.saturating_add(self.answer(request)).saturating_add(reserve) <= self.context
    }

    /// Why this prompt cannot be sent, if that is known: an estimate leaves it to the backend how long an answer it can give.
    fn refusal(&self, prompt: Prompt, request: &ChatRequest) -> Option<Refusal> {
        let answer = if prompt.exact { self.answer(request) } else { self.answer_room };
        let refused = prompt.least.saturating_add(answer) > self.context;
        refused.then_some(Refusal { prompt: prompt.least, answer, exact: prompt.exact })
    }
}

fn in_order<'a>(parts: impl Iterator<Item = &'a Vec<usize>>) -> Vec<usize> {
    let mut numbers: Vec<usize> = parts.flatten().copied().collect();
    numbers.sort_unstable();
    numbers
}

/// The least count from 1 to `most` for which it `fits`, if it fits for `most` and does for every count after the first.
fn fewest(most: usize, mut fits: impl FnMut(usize) -> bool) -> Option<usize> {
    if most == 0 || !fits(most) {
        return None;
    }
    let (mut low, mut high) = (1, most);
    while low < high {
        let middle = low.midpoint(high);
        if fits(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_are_found() {
        for most in 0..20 {
            for least in 1..22 {
                assert_eq!(fewest(most, |count| count >= least), (least <= most).then_some(least), "{least} of {most}");
            }
        }
    }
}
