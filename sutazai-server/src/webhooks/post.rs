//! One task's turn: its events are posted one after the other, and what became of them is noted.

use std::{sync::Arc, time::Duration};

use sutazai_core::{
    Payload, Result,
    clock::{Clock, SystemClock},
    store::{Delivery, Posted, TaskStore},
    task::{Event, EventKind},
};
use tokio_util::sync::CancellationToken;

use super::{Outcome, Sender, TIMEOUT, backoff};
use crate::metrics::Metrics;

/// How long a delivery is this process's own.
pub(super) const HOLD: Duration = Duration::from_secs(30);

/// A turn begins no event after so long, so that others of the same host have theirs.
const TURN: Duration = Duration::from_secs(1);

/// No event is begun so long after the delivery was taken: its attempt and the note still fall into [`HOLD`].
const LAST_BEGIN: Duration = HOLD.saturating_sub(TIMEOUT).saturating_sub(Duration::from_secs(10));

/// Events of a task that are read at once.
const PAGE: usize = 100;

/// A delivery that is this process's own.
pub(super) struct Taken {
    pub(super) delivery: Delivery,
    /// Since when, by the clock that counts suspended time.
    pub(super) at: Duration,
}

/// What posting takes.
pub(crate) struct Post {
    store: Arc<dyn TaskStore>,
    sender: Sender,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// Cancelled when attempts under way are given back.
    cut: CancellationToken,
}

impl Post {
    /// What posts the events in `store`.
    pub(crate) fn new(store: Arc<dyn TaskStore>, sender: Sender, metrics: Arc<Metrics>) -> Self {
        Self { store, sender, metrics, clock: Arc::new(SystemClock), cut: CancellationToken::new() }
    }

    /// The same by another clock.
    #[cfg(test)]
    pub(super) fn by(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    pub(super) fn store(&self) -> &dyn TaskStore {
        &*self.store
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Gives attempts under way back.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    /// Gives a delivery back as it was, due again after `rest`.
    pub(super) async fn put_off(&self, taken: &Taken, rest: Duration) {
        let what = self.later(&taken.delivery, rest);
        self.note(&taken.delivery, &what).await;
    }

    fn later(&self, delivery: &Delivery, rest: Duration) -> Posted {
        let Delivery { posted, failures, .. } = *delivery;
        Posted::Later { posted, failures, due_at: self.clock.now().plus(rest) }
    }

    /// Posts a task's events and notes what became of them; how long the longest attempt took, if there was one. What cannot be noted is done again once
    /// the hold is over.
    pub(super) async fn deliver(&self, taken: Taken) -> Option<Duration> {
        let mut longest = None;
        match self.turn(&taken, &mut longest).await {
            Ok(what) => self.note(&taken.delivery, &what).await,
            Err(error) => {
                tracing::warn!(task = %taken.delivery.task, error = %error.report(), "the delivery of a webhook waits for the store");
            }
        }
        longest
    }

    async fn note(&self, delivery: &Delivery, what: &Posted) {
        let task = delivery.task;
        match self.store.posted(delivery, what, self.clock.now()).await {
            Ok(true) => {
                if let Posted::GivenUp { why, .. } = what {
                    self.metrics.webhook_dead_letter("given_up");
                    tracing::warn!(%task, why, "the webhook of a task is given up: nothing more of it is delivered until `webhooks dead requeue` or `discard`");
                }
            }
            Ok(false) => {
                tracing::warn!(%task, "what became of a webhook's delivery is not noted: it took longer than its hold and somebody else has it, or its task is gone");
            }
            Err(error) => {
                tracing::warn!(%task, error = %error.report(), "the delivery of a webhook waits for the store");
            }
        }
    }

    /// Posts what is new, and says what to note.
    async fn turn(&self, taken: &Taken, longest: &mut Option<Duration>) -> Result<Posted> {
        let Taken { delivery, at } = taken;
        let began = self.clock.elapsed();
        // Frozen since it was taken, or kept waiting: somebody else may have it.
        if began.saturating_sub(*at) >= LAST_BEGIN {
            return Ok(self.later(delivery, Duration::ZERO));
        }
        let mut done = delivery.posted;
        loop {
            let events = self.store.events(delivery.task, done, PAGE).await?;
            if events.is_empty() {
                return Ok(Posted::UpTo(done));
            }
            for event in events {
                if matches!(event.kind, EventKind::Progress(_)) {
                    done = event.seq;
                    continue;
                }
                let (failures, now) =
                    (if done == delivery.posted { delivery.failures } else { 0 }, self.clock.elapsed());
                let over = now.saturating_sub(began) >= TURN || now.saturating_sub(*at) >= LAST_BEGIN;
                let outcome = if over { None } else { self.attempt(&delivery.url, &event).await? };
                let Some(outcome) = outcome else {
                    return Ok(Posted::Later { posted: done, failures, due_at: self.clock.now() });
                };
                let took = self.clock.elapsed().saturating_sub(now);
                *longest = (*longest).max(Some(took));
                match self.judge(outcome, failures) {
                    None => done = event.seq,
                    Some((why, wait)) => {
                        let failures = failures.saturating_add(1);
                        tracing::debug!(task = %delivery.task, seq = event.seq, failures, why, "an event could not be delivered");
                        return Ok(match wait {
                            Some(wait) => Posted::Later { posted: done, failures, due_at: self.clock.now().plus(wait) },
                            None => Posted::GivenUp { posted: done, failures, why },
                        });
                    }
                }
            }
        }
    }

    /// One attempt; nothing if it was cut short.
    async fn attempt(&self, url: &str, event: &Event) -> Result<Option<Outcome>> {
        let body = Payload::of(event)?;
        let id = format!("{}.{}", event.task_id, event.seq);
        let now = u64::try_from(self.clock.now().as_millis() / 1_000).unwrap_or_default();
        tokio::select! {
            outcome = self.sender.send(url, &id, body.as_str().as_bytes(), now) => Ok(Some(outcome)),
            () = self.cut.cancelled() => Ok(None),
        }
    }

    /// After so many failures: nothing if it is delivered now, else why not, and how long to wait before the next attempt unless there is none.
    fn judge(&self, outcome: Outcome, failures: u32) -> Option<(String, Option<Duration>)> {
        let failures = failures.saturating_add(1);
        let (name, failed) = match outcome {
            Outcome::Delivered { .. } => ("delivered", None),
            Outcome::Refused { why } => ("refused", Some((why, None))),
            Outcome::Retry { why, after } => match backoff::next(failures, after, fraction(self.clock.random())) {
                Some(wait) => ("failed", Some((why, Some(wait)))),
                None => ("failed", Some((format!("{failures} attempts failed, the last one so: {why}"), None))),
            },
        };
        self.metrics.webhook_attempt(name);
        failed
    }
}

/// Random bits as a number from 0 to 1.
fn fraction(bits: u64) -> f64 {
    f64::from(u32::try_from(bits >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}
