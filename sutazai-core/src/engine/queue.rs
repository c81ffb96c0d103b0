//! The two loops behind the queue: one fetches runnable tasks into free slots, one watches the clock.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    control::Stop,
    execution::Execution,
    inner::{Inner, SLOW_POLL, backoff},
    transition::Command,
};
use crate::{clock::Timestamp, error::Result, store::Claim};

/// Tasks claimed in one commit at most.
const CLAIM: usize = 256;

/// Fetches runnable tasks from the store whenever there are free slots, until shutdown.
pub(crate) async fn dispatch(engine: Arc<Inner>) {
    let mut failures = 0;
    loop {
        engine.runnable.notified().await;
        if engine.doubt.swap(false, Ordering::SeqCst)
            && let Err(error) = regain(&engine).await
        {
            tracing::warn!(error = %error.report(), "what this node holds cannot be read");
            tokio::time::sleep(backoff(failures)).await;
            failures += 1;
            engine.doubt();
            continue;
        }
        loop {
            let Some(permits) = free_slots(&engine).await else { return };
            let wanted = permits.len();
            match claim(&engine, permits).await {
                Ok(granted) => {
                    failures = 0;
                    engine.backlog.store(granted == wanted, Ordering::SeqCst);
                    if granted < wanted {
                        break;
                    }
                }
                Err(error) => {
                    engine.doubt(); // the grant may have been committed all the same
                    tracing::warn!(error = %error.report(), "tasks cannot be claimed");
                    tokio::time::sleep(backoff(failures)).await;
                    failures += 1;
                    break; // and look first
                }
            }
        }
    }
}

/// At least one slot, and what else is free right now; `None` at shutdown.
async fn free_slots(engine: &Inner) -> Option<Vec<OwnedSemaphorePermit>> {
    let first = Arc::clone(&engine.slots).acquire_owned().await.ok()?;
    if engine.is_closing() {
        return None;
    }
    let mut permits = vec![first];
    // Half of what is free, so that newcomers need not queue while nothing is found.
    let most = CLAIM.min(1 + engine.slots.available_permits() / 2);
    while permits.len() < most {
        match Arc::clone(&engine.slots).try_acquire_owned() {
            Ok(permit) => permits.push(permit),
            Err(_) => break,
        }
    }
    Some(permits)
}

async fn claim(engine: &Arc<Inner>, permits: Vec<OwnedSemaphorePermit>) -> Result<usize> {
    let claim = Claim {
        node: engine.node.clone(),
        agents: engine.catalogue.names(),
        now: engine.clock.now(),
        limit: permits.len(),
    };
    let tasks = engine.store.claim(&claim).await?;
    let granted = tasks.len();
    for (task, permit) in tasks.into_iter().zip(permits) {
        let Some(registered) = engine.catalogue.get(&task.agent) else {
            tracing::error!(task = %task.id, agent = %task.agent, "the store granted a task of an agent that is not here");
            continue;
        };
        let execution = Box::new(Execution::claimed(engine, registered, task, permit));
        let entered = execution.enter();
        execution.announce_claim();
        tokio::spawn(execution.run(entered));
    }
    // Ends that were committed between the grant and the entry found nobody to tell.
    for id in engine.take_missed() {
        engine.executions.stop(id, Stop::Void);
    }
    Ok(granted)
}

/// Takes back what the store has granted to this node although the answer was lost. Nothing is under way: only the dispatcher claims, and an execution that
/// begins with its insert is entered before.
async fn regain(engine: &Inner) -> Result<()> {
    let here = engine.executions.len();
    let held = engine.store.held_by(&engine.node, here + CLAIM).await?;
    let full = held.len() == here + CLAIM;
    for task in held.into_iter().filter(|task| !engine.executions.contains(task.id)) {
        // Refused: it has ended meanwhile.
        if engine.change(task.id, Command::Recover).await?.is_ok() {
            tracing::warn!(task = %task.id, "it was granted and the answer was lost; it runs again");
        }
    }
    if full {
        engine.doubt();
    }
    Ok(())
}

/// Ends tasks past their deadline and wakes the dispatcher when a retry is due, until aborted.
pub(crate) async fn keep_time(engine: Arc<Inner>) {
    loop {
        let now = engine.clock.now();
        let next = match tick(&engine, now).await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(error = %error.report(), "due tasks cannot be read");
                None
            }
        };
        let pause = next.map_or(SLOW_POLL, |at| engine.clock.now().until(at).min(SLOW_POLL));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = engine.earlier.notified() => {}
        }
    }
}

/// Ends what is overdue; the next moment at which something is due.
async fn tick(engine: &Inner, now: Timestamp) -> Result<Option<Timestamp>> {
    engine.next_due.store(i64::MAX, Ordering::SeqCst);
    loop {
        let overdue = engine.store.overdue(now, CLAIM).await?;
        for task in &overdue {
            // Refused: it ended by itself meanwhile.
            if engine.change(task.id, Command::Expire).await?.is_ok() {
                engine.cancel_children(task.id).await?;
            }
        }
        if overdue.len() < CLAIM {
            break;
        }
    }
    let first = engine.store.next_due(Timestamp::from_millis(i64::MIN)).await?;
    let next = match first {
        Some(at) if at <= now => {
            engine.runnable.notify_one();
            engine.store.next_due(now).await?
        }
        later => later,
    };
    if let Some(at) = next {
        engine.next_due.fetch_min(at.as_millis(), Ordering::SeqCst);
    }
    Ok(next)
}
