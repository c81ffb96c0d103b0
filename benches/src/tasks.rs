//! Tasks that a bench writes to a store itself, past the engine.

use std::sync::Arc;

use sutazai_core::{
    Error, Result,
    clock::{Clock, SystemClock, Timestamp},
    engine::{Command, Transition, create},
    prelude::*,
    store::{TaskStore, TaskWrite, WriteOutcome},
    task::{NodeId, TaskId},
};

/// Tasks of a batch.
pub const BATCH: usize = 2_000;

/// A JSON object of 200 bytes.
#[must_use]
pub fn input() -> String {
    format!("{{\"text\":\"{}\"}}", "x".repeat(200 - "{\"text\":\"\"}".len()))
}

/// This moment.
#[must_use]
pub fn now() -> Timestamp {
    SystemClock.now()
}

/// Makes tasks of one agent with growing ids.
#[derive(Debug)]
pub struct Maker {
    agent: Arc<str>,
    version: Arc<str>,
    input: Payload,
    /// The last id's: milliseconds, then 12 bits that count.
    ticks: u64,
}

impl Maker {
    /// Tasks of version `version` of `agent`, with 200 bytes of input.
    pub fn new(agent: &str, version: &str) -> Result<Self> {
        Ok(Self { agent: agent.into(), version: version.into(), input: Payload::from_text(input())?, ticks: 0 })
    }

    /// A new task, submitted at `at` for `tenant`.
    pub fn created(&mut self, tenant: &str, at: Timestamp) -> Transition {
        let id = self.id(at);
        let request = TaskRequest::new(&*self.agent, self.input.clone()).tenant(tenant);
        create(id, Arc::clone(&self.agent), Arc::clone(&self.version), request, at)
    }

    /// One that has done its work at once.
    pub fn finished(&mut self, tenant: &str, at: Timestamp) -> Result<Transition> {
        let mut step = self.created(tenant, at);
        let output = self.input.clone();
        for command in [Command::Claim { node: NodeId::new("history/0") }, Command::Complete { output }] {
            step.apply(command, at).map_err(|refused| unexpected(format!("a command was refused: {refused:?}")))?;
        }
        Ok(step)
    }

    /// A UUIDv7 of that moment, beyond all before.
    fn id(&mut self, at: Timestamp) -> TaskId {
        self.ticks = (u64::try_from(at.as_millis()).unwrap_or(0) << 12).max(self.ticks + 1);
        let high = ((self.ticks >> 12) << 16) | 0x7000 | (self.ticks & 0x0fff);
        let low = (fastrand::u64(..) >> 2) | (1 << 63);
        TaskId::from_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes())
    }
}

/// The write that stores a new task.
#[must_use]
pub fn insert(step: Transition) -> TaskWrite {
    TaskWrite::Insert { task: Arc::new(step.task), events: step.events, key: None, journal: None }
}

/// Writes a batch of which every member must be applied.
pub async fn apply_all(store: &dyn TaskStore, batch: &[TaskWrite]) -> Result<()> {
    let outcomes = store.write(batch).await?;
    match outcomes.iter().find(|outcome| !matches!(outcome, WriteOutcome::Applied)) {
        Some(other) => Err(unexpected(format!("a write was not applied: {other:?}"))),
        None => Ok(()),
    }
}

/// What a bench does not expect and cannot go on with.
#[must_use]
pub fn unexpected(what: String) -> Error {
    Error::new(ErrorKind::Internal, what)
}
