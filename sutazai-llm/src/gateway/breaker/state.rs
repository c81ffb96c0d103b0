//! The rules of a breaker, pure: it is told what time it is and how calls ended, and says whether the next may be made.

use std::time::Duration;

use tokio::time::Instant;

use super::{BreakerConfig, BreakerState};

/// When to ask again at the latest while a call tries the backend: nobody knows how long that takes.
const TRYING: Duration = Duration::from_secs(1);

/// The right to one call, to be given back with what came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    /// The phase under which it was given: what comes of the call counts only while that lasts.
    phase: u64,
    /// When it was given.
    at: Instant,
}

/// Whether a call may be made.
#[derive(Debug)]
pub(super) enum Decision {
    /// It may.
    Call(Ticket),
    /// Not for so long.
    Refuse(Duration),
}

/// Whether calls are made, and why.
#[derive(Debug)]
pub(super) struct State {
    config: BreakerConfig,
    phase: Phase,
    /// The number of the phase.
    number: u64,
}

#[derive(Debug)]
enum Phase {
    /// So many calls in a row have failed.
    Closed {
        failures: u32,
    },
    Open {
        since: Instant,
        pause: Duration,
    },
    /// After a pause of this length. `tried` is since when the last call tries the backend, if it is under way.
    HalfOpen {
        pause: Duration,
        tried: Option<Instant>,
    },
}

impl State {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self { config, phase: Phase::Closed { failures: 0 }, number: 0 }
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// What is left of the pause, if it is open and anything is.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        let Phase::Open { since, pause } = self.phase else { return None };
        Some(pause.saturating_sub(now.saturating_duration_since(since))).filter(|rest| !rest.is_zero())
    }

    /// Asks for a call.
    pub(super) fn call(&mut self, now: Instant) -> Decision {
        if let Some(rest) = self.rest(now) {
            return Decision::Refuse(rest);
        }
        let tried = Some(now);
        match &mut self.phase {
            Phase::Closed { .. } => {}
            Phase::HalfOpen { pause, tried: Some(since) } if *since + *pause > now => {
                return Decision::Refuse((*since + *pause - now).min(TRYING));
            }
            Phase::HalfOpen { tried: last, .. } => *last = tried,
            Phase::Open { pause, .. } => {
                let pause = *pause;
                self.enter(Phase::HalfOpen { pause, tried });
            }
        }
        Decision::Call(Ticket { phase: self.number, at: now })
    }

    /// The call brought a whole answer.
    pub(super) fn success(&mut self, ticket: Ticket, _now: Instant) {
        if !self.counts(ticket) {
            return;
        }
        match &mut self.phase {
            Phase::Closed { failures } => *failures = 0,
            Phase::HalfOpen { .. } => self.enter(Phase::Closed { failures: 0 }),
            Phase::Open { .. } => {}
        }
    }

    /// The call failed, and in a way that says that the backend is ill.
    pub(super) fn failure(&mut self, ticket: Ticket, now: Instant) {
        if !self.counts(ticket) {
            return;
        }
        let pause = match &mut self.phase {
            Phase::Closed { failures } => {
                *failures = failures.saturating_add(1);
                if *failures < self.config.failures {
                    return;
                }
                self.config.pause
            }
            Phase::HalfOpen { pause, .. } => pause.saturating_mul(2).min(self.config.max_pause),
            Phase::Open { .. } => return,
        };
        self.enter(Phase::Open { since: now, pause });
    }

    /// The call was given up, or ended in a way that says nothing about the backend.
    pub(super) fn nothing(&mut self, ticket: Ticket, _now: Instant) {
        if self.counts(ticket)
            && let Phase::HalfOpen { tried, .. } = &mut self.phase
            && *tried == Some(ticket.at)
        {
            *tried = None;
        }
    }

    fn counts(&self, ticket: Ticket) -> bool {
        ticket.phase == self.number
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.number += 1;
    }
}

#[cfg(test)]
mod tests;
