//! Who has how much to do, and who is spared: the choice of a backend, pure.

use std::time::Duration;

use tokio::time::Instant;

/// What is known of the backends, by their index.
#[derive(Debug)]
pub(super) struct Table {
    backends: Vec<Backend>,
    cool_down: Duration,
    /// Whose turn it is among equals.
    turn: usize,
}

#[derive(Clone, Debug, Default)]
struct Backend {
    /// Calls and answers under way.
    under_way: usize,
    /// Since when it is ill, if that is the last that was heard of it.
    ill_since: Option<Instant>,
}

impl Table {
    pub(super) fn new(count: usize, cool_down: Duration) -> Self {
        Self { backends: vec![Backend::default(); count], cool_down, turn: 0 }
    }

    /// Takes a place at the backend that has least to do, of those not `tried`; of those that are not spared, if there is any.
    pub(super) fn take(&mut self, tried: &[bool], now: Instant) -> Option<usize> {
        let count = self.backends.len();
        let in_turn = (0..count).map(|offset| (self.turn + offset) % count).filter(|index| !tried[*index]);
        let spared = |index: &usize| self.backends[*index].is_spared(now, self.cool_down);
        let index = in_turn.min_by_key(|index| (spared(index), self.backends[*index].under_way))?;
        self.backends[index].under_way += 1;
        self.turn = index + 1;
        Some(index)
    }

    /// Gives a place back.
    pub(super) fn leave(&mut self, index: usize) {
        self.backends[index].under_way -= 1;
    }

    /// The backend answers.
    pub(super) fn well(&mut self, index: usize) {
        self.backends[index].ill_since = None;
    }

    /// The backend is unavailable.
    pub(super) fn ill(&mut self, index: usize, now: Instant) {
        self.backends[index].ill_since = Some(now);
    }

    /// Calls and answers under way, by backend.
    #[cfg(test)]
    pub(super) fn under_way(&self) -> Vec<usize> {
        self.backends.iter().map(|backend| backend.under_way).collect()
    }
}

impl Backend {
    fn is_spared(&self, now: Instant, cool_down: Duration) -> bool {
        self.ill_since.is_some_and(|since| now.saturating_duration_since(since) < cool_down)
    }
}
