//! Waiting that outlives the process: timers and signals.

use std::{future::Future, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Context;
use crate::{
    agent::AgentError,
    clock::Timestamp,
    engine::{
        inner::backoff,
        journal::{Begun, Draft, Journal, Receipt},
    },
    error::Result,
    payload::Payload,
    task::{EntryKind, Outcome, WaitReason},
};

/// What a timer or a wait with a limit began with.
#[derive(Serialize, Deserialize)]
struct Until {
    until: Option<Timestamp>,
}

impl Context {
    /// Waits for `duration`, durably: the task holds no thread and no slot meanwhile, and a restart changes nothing.
    pub async fn sleep(&self, duration: Duration) {
        let journal = self.journal();
        let (id, begun) = journal.begin(self.path(), EntryKind::Timer, "sleep").await;
        let until = match begun {
            Begun::Recorded(_) => {
                journal.outcome(&id).await;
                return;
            }
            Begun::Open(_, payload) => payload.read().ok().and_then(|Until { until }| until).unwrap_or_default(),
            Begun::New => {
                let until = self.time().plus(duration);
                let open = Outcome::Open(payload(&Until { until: Some(until) }));
                self.begin(Draft {
                    id: id.clone(),
                    kind: EntryKind::Timer,
                    outcome: open,
                    at: self.time(),
                    child: None,
                })
                .await;
                until
            }
        };
        if self.time() < until {
            let slot = self.control().wait();
            let waits = journal.wait(self.path(), WaitReason::Timer, Some(until));
            self.until(until).await;
            drop(waits);
            let _live = journal.live(self.path());
            slot.over().await;
        }
        self.record(Draft {
            id,
            kind: EntryKind::Timer,
            outcome: Outcome::Done(Payload::null()),
            at: self.time(),
            child: None,
        })
        .await;
    }

    /// Waits for the next signal called `name`, durably; `None` if it does not come within `limit`.
    ///
    /// A signal that came before is kept and received at once. Several signals of one name are received in the order in which they came. One whose payload is no
    /// `T` is received all the same, and an error; so is the waiting for people: an approval is a signal.
    pub async fn wait_for<T: DeserializeOwned>(
        &self,
        name: &str,
        limit: Option<Duration>,
    ) -> Result<Option<T>, AgentError> {
        let journal = self.journal();
        let (id, begun) = journal.begin(self.path(), EntryKind::Signal, name).await;
        let until = match begun {
            Begun::Recorded(_) => return read(self.recorded(EntryKind::Signal, &id).await?),
            Begun::Open(_, payload) => payload.read().ok().and_then(|Until { until }| until),
            Begun::New => {
                let until = limit.map(|limit| self.time().plus(limit));
                let open = Outcome::Open(payload(&Until { until }));
                self.begin(Draft {
                    id: id.clone(),
                    kind: EntryKind::Signal,
                    outcome: open,
                    at: self.time(),
                    child: None,
                })
                .await;
                until
            }
        };
        let mut taken = Taken { journal, name, number: Some(journal.take_signal_number(name)) };
        let receipt = self.receive(&mut taken, until).await?;
        let outcome = Outcome::Done(payload(&receipt));
        let stored = journal.send(Draft { id, kind: EntryKind::Signal, outcome, at: self.time(), child: None });
        if !receipt.timed_out {
            taken.number = None; // whose receipt is on its way
        }
        drop(taken);
        self.seen(stored).await;
        read(receipt)
    }

    async fn receive(&self, taken: &mut Taken<'_>, until: Option<Timestamp>) -> Result<Receipt, AgentError> {
        let name = taken.name;
        let mut slot = None;
        let receipt = loop {
            let (poked, freed) = (self.control().poked(), self.journal().freed());
            tokio::pin!(poked, freed);
            // Before the look, so that a signal right after it is not missed.
            poked.as_mut().enable();
            freed.as_mut().enable();
            let number = taken.least();
            let mut found = {
                let _live = self.journal().live(self.path()); // nobody knows yet whether this is a wait
                answered(|| self.0.engine.store.signals(self.id(), name, number, 1)).await?
            };
            if let Some(signal) = found.pop() {
                break Receipt {
                    signal: Some(signal.payload),
                    number: Some(number),
                    task_id: Some(self.id()),
                    timed_out: false,
                };
            }
            if until.is_some_and(|until| until <= self.time()) {
                break Receipt { signal: None, number: None, task_id: None, timed_out: true };
            }
            slot.get_or_insert_with(|| self.control().wait());
            let _waits = self.journal().wait(self.path(), WaitReason::Signal, until);
            tokio::select! {
                biased;
                () = poked => {}
                () = freed => {}
                () = async { match until { Some(until) => self.until(until).await, None => std::future::pending().await } } => {}
            }
        };
        let _live = self.journal().live(self.path());
        if let Some(slot) = slot {
            slot.over().await;
        }
        Ok(receipt)
    }

    /// Returns at `until` by the engine's clock, which may jump: it is asked again now and then.
    async fn until(&self, until: Timestamp) {
        const LOOK: Duration = Duration::from_secs(60);
        loop {
            let left = self.time().until(until);
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }
}

/// A signal's number, given back unless its receipt is recorded: a branch that was dropped has received nothing.
struct Taken<'j> {
    journal: &'j Journal,
    name: &'j str,
    number: Option<u64>,
}

impl Taken<'_> {
    /// The least number that nobody else has taken: one may have been given back.
    fn least(&mut self) -> u64 {
        if let Some(number) = self.number {
            self.journal.give_signal_number_back(self.name, number);
        }
        *self.number.insert(self.journal.take_signal_number(self.name))
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.journal.give_signal_number_back(self.name, number);
            self.journal.free();
        }
    }
}

/// The store's answer; that it cannot be reached for a while is no fault of the agent.
pub(super) async fn answered<T, Fut: Future<Output = Result<T>>>(ask: impl Fn() -> Fut) -> Result<T> {
    let mut round = 0;
    loop {
        match ask().await {
            Err(error) if error.is_temporary() => {
                tracing::debug!(error = %error.report(), "the store cannot answer an agent yet");
                tokio::time::sleep(backoff(round)).await;
                round += 1;
            }
            answer => return answer,
        }
    }
}

fn read<T: DeserializeOwned>(receipt: Receipt) -> Result<Option<T>, AgentError> {
    if receipt.timed_out {
        return Ok(None);
    }
    // JSON's null reads back as no payload at all.
    Ok(Some(receipt.signal.unwrap_or_else(Payload::null).read()?))
}

/// Plain data of this file: JSON holds it.
fn payload(value: &impl Serialize) -> Payload {
    Payload::of(value).unwrap_or_else(|_| Payload::null())
}
