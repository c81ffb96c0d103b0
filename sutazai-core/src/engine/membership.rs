//! This process among those that share the store: its lease, and what becomes of others' tasks when theirs lapses.
//!
//! A process holds one lease for all its tasks and renews it three times in its length. When it cannot, it stops what it executes before the lease is over by
//! its own clock, which counts suspended time; when it was declared dead, it joins again as another node, unless one of its own name has joined meanwhile
//! and lives: of two processes with one name only the later works.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    control::Stop,
    inner::{Inner, backoff},
    transition::{Command, apply},
    writer::Announcer,
};
use crate::{
    clock::Clock,
    error::Result,
    store::{NodeRecord, TaskStore, TaskWrite, WriteOutcome},
    task::NodeId,
};

/// How long a node may be silent unless told otherwise.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(5);

/// Tasks taken over in one commit.
const TAKE_OVER: usize = 500;

/// The lease of this process.
pub(crate) struct Membership {
    record: Mutex<NodeRecord>,
    lease: Duration,
    /// Until when the lease certainly holds, in milliseconds of [`Clock::elapsed`].
    until: AtomicU64,
    clock: Arc<dyn Clock>,
    /// Only what other processes can see needs to be kept alive.
    shared: bool,
    /// Another process has this one's name.
    replaced: AtomicBool,
}

impl Membership {
    /// Joins the processes that share `store`.
    pub(crate) async fn join(
        store: &dyn TaskStore,
        mut record: NodeRecord,
        lease: Duration,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        record.id = life(&record.name, &*clock);
        record.started_at = clock.now();
        let asked = clock.elapsed();
        store.join(&record, lease).await?;
        let shared = store.info().shared;
        let (record, until, replaced) = (Mutex::new(record), AtomicU64::new(u64::MAX), AtomicBool::new(false));
        let membership = Self { record, lease, until, clock, shared, replaced };
        membership.renewed(asked);
        Ok(membership)
    }

    /// The id of this life.
    pub(crate) fn node(&self) -> NodeId {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).id.clone()
    }

    /// Whether the lease holds: nobody else can have taken over what this process executes.
    pub(crate) fn holds(&self) -> bool {
        millis(self.clock.elapsed()) < self.until.load(Ordering::SeqCst)
    }

    /// Whether another process that lives has joined under this one's name.
    pub(crate) fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::SeqCst)
    }

    fn renewed(&self, asked: Duration) {
        let until = if self.shared { millis(asked + self.lease) } else { u64::MAX };
        self.until.store(until, Ordering::SeqCst);
    }

    fn record(&self) -> NodeRecord {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The id of a life that begins now.
fn life(name: &str, clock: &dyn Clock) -> NodeId {
    NodeId::new(format!("{name}/{:08x}", clock.random() >> 32))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Renews the lease, until aborted. Nothing else is done here: what takes long must not cost the lease.
pub(crate) async fn keep_lease(engine: Arc<Inner>) {
    let membership = &engine.membership;
    let mut failures = 0;
    loop {
        let pause = if failures == 0 { membership.lease / 3 } else { backoff(failures).min(membership.lease / 6) };
        tokio::time::sleep(pause).await;
        let asked = membership.clock.elapsed();
        let running = engine.executions.len() as u64;
        let left = Duration::from_millis(membership.until.load(Ordering::SeqCst).saturating_sub(millis(asked)));
        // An answer that comes after the lease is over says nothing about now.
        let (node, patience) = (membership.node(), left.clamp(membership.lease / 3, membership.lease));
        let answer = tokio::time::timeout(patience, engine.store.renew(&node, running, membership.lease));
        match answer.await {
            Ok(Ok(true)) => {
                if !membership.holds() {
                    tracing::info!("the lease is renewed");
                    engine.doubt(); // what was stopped meanwhile is still this node's
                }
                membership.renewed(asked);
                failures = 0;
            }
            Ok(Ok(false)) => {
                if !membership.is_replaced() {
                    tracing::warn!(node = %membership.node(), "this node was declared dead; what it executes goes on elsewhere");
                }
                membership.until.store(0, Ordering::SeqCst);
                engine.executions.stop_all(Stop::Void);
                failures = if join_again(&engine).await { 0 } else { failures + 1 };
            }
            Ok(Err(error)) => {
                failures += 1;
                tracing::warn!(error = %error.report(), "the lease cannot be renewed");
            }
            Err(_) => {
                failures += 1;
                tracing::warn!("the store does not answer in time to renew the lease");
            }
        }
        if !membership.holds() && engine.executions.len() > 0 {
            tracing::warn!(
                tasks = engine.executions.len(),
                "the lease is over; what runs is stopped, for others may have taken it over"
            );
            engine.executions.stop_all(Stop::Void);
        }
    }
}

/// Takes over what nodes hold that do not live, now and again, until aborted.
pub(crate) async fn look_after_others(engine: Arc<Inner>) {
    let membership = &engine.membership;
    if !membership.shared {
        return;
    }
    loop {
        if membership.holds() {
            match take_over(&*engine.store, &*engine.clock, &engine.announcer(), &engine.node()).await {
                Ok(0) => {}
                Ok(_) => {
                    engine.queued_one();
                    engine.bereaved.notify_one(); // some may have been given up
                }
                Err(error) => {
                    tracing::warn!(error = %error.report(), "tasks of lapsed nodes cannot be taken over");
                }
            }
        }
        tokio::time::sleep(membership.lease / 3).await;
    }
}

/// Joins as another node, unless another process has its name; whether it could.
async fn join_again(engine: &Inner) -> bool {
    let membership = &engine.membership;
    let mut record = membership.record();
    let join = async {
        if let Some(other) = namesake(&*engine.store, &record).await? {
            if !membership.replaced.swap(true, Ordering::SeqCst) {
                let code = "node_in_use";
                tracing::error!(code, name = %record.name, %other, "another process that runs has this one's name and works on its tasks; this one waits for its end");
            }
            return Ok(None);
        }
        record.id = life(&record.name, &*membership.clock);
        let asked = membership.clock.elapsed();
        engine.store.join(&record, membership.lease).await.map(|()| Some(asked))
    };
    match join.await {
        Ok(Some(asked)) => {
            *membership.record.lock().unwrap_or_else(PoisonError::into_inner) = record;
            membership.replaced.store(false, Ordering::SeqCst);
            membership.renewed(asked);
            engine.queued_one();
            true
        }
        Ok(None) => false,
        Err(error) => {
            tracing::warn!(error = %error.report(), "this node cannot join again yet");
            false
        }
    }
}

/// Another life under the name of `record` that has not ended.
async fn namesake(store: &dyn TaskStore, record: &NodeRecord) -> Result<Option<NodeId>> {
    store.lapsed().await?; // declares dead who is
    let nodes = store.nodes().await?.into_iter();
    Ok(nodes.filter(|node| node.name == record.name && node.id != record.id && !node.dead).map(|node| node.id).next())
}

/// Gives the tasks of nodes that do not live back to the queue; how many there were.
pub(crate) async fn take_over(
    store: &dyn TaskStore,
    clock: &dyn Clock,
    announcer: &Announcer,
    node: &NodeId,
) -> Result<usize> {
    let mut count = 0;
    for lapsed in store.lapsed().await? {
        if lapsed == *node {
            continue; // the next renewal says so
        }
        loop {
            let held = store.held_by(&lapsed, TAKE_OVER).await?;
            if held.is_empty() {
                store.part(&lapsed).await?;
                break;
            }
            let (before, now) = (count, clock.now());
            let writes: Vec<TaskWrite> = held
                .iter()
                .filter_map(|held| {
                    let step = apply(&held.task, Command::Recover { journal: held.journal }, now).ok()?;
                    let (task, expected) = (Arc::new(step.task), held.task.revision);
                    Some(TaskWrite::Update { task, expected, events: step.events, entries: Vec::new(), key: None })
                })
                .collect();
            // Stale: somebody else was faster, or its holder has ended it after all.
            for (write, outcome) in writes.iter().zip(store.write(&writes).await?) {
                if let (WriteOutcome::Applied, Some(task)) = (outcome, write.image()) {
                    announcer.changed(task, write.events());
                    count += 1;
                }
            }
            if count == before {
                break; // others are at it; the next look sees what they leave
            }
        }
    }
    if count > 0 {
        tracing::info!(tasks = count, "took over the tasks of nodes that have ended");
    }
    Ok(count)
}
