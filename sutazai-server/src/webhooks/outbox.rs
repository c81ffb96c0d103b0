//! The outbox: takes what is to be delivered from the store and has it sent, in order for each task.
//!
//! Several processes may do this on one store: a delivery that one has taken is nobody else's until it is noted what became of it, or until [`HOLD`] has passed.
//! An event is delivered at least once: whoever dies between an answer and its note leaves it to be delivered again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sutazai_core::{
    Payload, Result,
    clock::{Clock, SystemClock},
    store::{Delivery, Posted, TaskStore},
    task::{Event, EventKind},
};
use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{Outcome, Sender, TIMEOUT, backoff};

/// Tasks whose events are delivered at once, by one process.
const AT_ONCE: usize = 16;

/// How long a delivery is this process's own.
const HOLD: Duration = Duration::from_secs(30);

/// After so long no further event of a task is begun: its attempt and the note still fall into [`HOLD`].
const LAST_BEGIN: Duration = HOLD.saturating_sub(TIMEOUT).saturating_sub(Duration::from_secs(10));

/// Events of a task that are read at once.
const PAGE: usize = 100;

/// Retries fall due, and other processes write: nobody says so.
const POLL: Duration = Duration::from_secs(1);

/// How long attempts under way may take once this process ends.
const GRACE: Duration = Duration::from_secs(2);

/// The deliveries of this process, until they are stopped.
pub(crate) struct Outbox {
    end: CancellationToken,
    working: JoinHandle<()>,
}

impl Outbox {
    /// Begins to deliver; `changed` says that there may be something new.
    pub(crate) fn start(store: Arc<dyn TaskStore>, sender: Sender, changed: Arc<Notify>) -> Self {
        let (end, cut) = (CancellationToken::new(), CancellationToken::new());
        let post = Arc::new(Post { store, sender, cut, clock: SystemClock });
        Self { working: tokio::spawn(deliver(post, changed, end.clone())), end }
    }

    /// Takes nothing more and waits for the attempts under way, [`GRACE`] and the time of a few writes at most.
    pub(crate) async fn stop(self) {
        self.end.cancel();
        if let Err(error) = self.working.await {
            tracing::error!(%error, "the deliveries of webhooks broke off");
        }
    }
}

/// Takes deliveries and has them posted until `end`.
async fn deliver(post: Arc<Post>, changed: Arc<Notify>, end: CancellationToken) {
    let mut posting = JoinSet::new();
    while !end.is_cancelled() {
        let room = AT_ONCE - posting.len();
        if room > 0 {
            match post.store.deliveries(post.clock.now(), room, HOLD).await {
                Ok(taken) => taken.into_iter().for_each(|delivery| {
                    posting.spawn(Arc::clone(&post).deliver(delivery));
                }),
                Err(error) => tracing::warn!(error = %error.report(), "the deliveries of webhooks cannot be read"),
            }
        }
        tokio::select! {
            () = end.cancelled() => {}
            Some(ended) = posting.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "a delivery broke off; it is made again later");
            },
            () = changed.notified(), if posting.len() < AT_ONCE => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
    let _ = tokio::time::timeout(GRACE, async { while posting.join_next().await.is_some() {} }).await;
    post.cut.cancel();
    while posting.join_next().await.is_some() {}
}

/// What posting takes.
struct Post {
    store: Arc<dyn TaskStore>,
    sender: Sender,
    /// Cancelled when attempts under way are given back.
    cut: CancellationToken,
    clock: SystemClock,
}

impl Post {
    /// Posts a task's events and notes what became of them. What cannot be noted is done again once the hold is over.
    async fn deliver(self: Arc<Self>, delivery: Delivery) {
        let task = delivery.task;
        let noted = async {
            let Some(what) = self.post(&delivery).await? else { return Ok(()) };
            if let Posted::GivenUp { why } = &what {
                tracing::warn!(%task, why, "the webhook of a task is given up: its events are not delivered any more");
            }
            self.store.posted(task, &what, self.clock.now()).await
        };
        if let Err(error) = noted.await {
            tracing::warn!(%task, error = %error.report(), "the delivery of a webhook waits for the store");
        }
    }

    /// Posts what is new, and says what to note; nothing if an attempt that was not the first was cut short.
    async fn post(&self, delivery: &Delivery) -> Result<Option<Posted>> {
        let (began, mut done) = (Instant::now(), delivery.posted);
        while began.elapsed() < LAST_BEGIN {
            let events = self.store.events(delivery.task, done, PAGE).await?;
            if events.is_empty() {
                break;
            }
            for event in events {
                if matches!(event.kind, EventKind::Progress(_)) {
                    done = event.seq;
                    continue;
                }
                if began.elapsed() >= LAST_BEGIN {
                    break;
                }
                match self.attempt(&delivery.url, &event).await? {
                    Some(Outcome::Delivered { .. }) => done = event.seq,
                    // What was delivered is noted first: that makes the next one due at once, and its failures count from 1.
                    _ if done > delivery.posted => return Ok(Some(Posted::UpTo(done))),
                    None => return Ok((delivery.failures == 0).then_some(Posted::UpTo(done))),
                    Some(Outcome::Refused { why }) => return Ok(Some(Posted::GivenUp { why })),
                    Some(Outcome::Retry { why, after }) => return Ok(Some(self.failed(delivery, &event, why, after))),
                }
            }
        }
        Ok(Some(Posted::UpTo(done)))
    }

    /// One attempt; nothing if it was cut short.
    async fn attempt(&self, url: &str, event: &Event) -> Result<Option<Outcome>> {
        let body = Payload::of(event)?;
        let now = u64::try_from(self.clock.now().as_millis() / 1_000).unwrap_or_default();
        tokio::select! {
            outcome = self.sender.send(url, body.as_str().as_bytes(), now) => Ok(Some(outcome)),
            () = self.cut.cancelled() => Ok(None),
        }
    }

    fn failed(&self, delivery: &Delivery, event: &Event, why: String, after: Option<Duration>) -> Posted {
        let failures = delivery.failures.saturating_add(1);
        tracing::debug!(task = %delivery.task, seq = event.seq, failures, why, "an event could not be delivered");
        match backoff::next(failures, after, fraction(self.clock.random())) {
            Some(wait) => Posted::Failed { retry_at: self.clock.now().plus(wait) },
            None => Posted::GivenUp { why: format!("{failures} attempts failed, the last one so: {why}") },
        }
    }
}

/// Random bits as a number from 0 to 1.
fn fraction(bits: u64) -> f64 {
    f64::from(u32::try_from(bits >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
