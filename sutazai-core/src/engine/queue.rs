//! The loops behind the queue: one fetches runnable tasks into free slots, one watches the clock, some look for what other processes do.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    execution::Execution,
    inner::{Inner, SLOW_POLL, backoff, sleep_until},
    places::OTHERS_PLACES,
    transition::{Command, Refused, apply},
};
use crate::{
    clock::Timestamp,
    error::Result,
    store::{Claim, Granted, Held},
};

/// Tasks claimed in one commit at most.
const CLAIM: usize = 256;

/// Fetches runnable tasks from the store whenever there are free slots, until shutdown.
pub(crate) async fn dispatch(engine: Arc<Inner>) {
    if !engine.executes {
        return;
    }
    let mut failures = 0;
    // When limits may let something through, whatever else happens.
    let mut again: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = engine.runnable.notified() => {}
            () = sleep_until(again) => {}
        }
        again = None;
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
            let (wanted, freed) = (permits.len(), engine.places.freed());
            match claim(&engine, permits).await {
                Ok(Claimed { count, held_back, until }) => {
                    failures = 0;
                    engine.backlog.store(count == wanted, Ordering::SeqCst);
                    let missed = held_back && !engine.places.wait(freed);
                    if count < wanted && !missed {
                        let others = (held_back && engine.store.info().shared).then_some(OTHERS_PLACES);
                        again = until.into_iter().chain(others).min().map(|pause| Instant::now() + pause);
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
    // Half of what is free, so that newcomers need not queue while nothing is found; all of it while they queue anyway.
    let free = engine.slots.available_permits();
    let most = CLAIM.min(1 + if engine.backlog.load(Ordering::SeqCst) { free } else { free / 2 });
    while permits.len() < most {
        match Arc::clone(&engine.slots).try_acquire_owned() {
            Ok(permit) => permits.push(permit),
            Err(_) => break,
        }
    }
    Some(permits)
}

/// What a claim came to.
#[derive(Default)]
struct Claimed {
    count: usize,
    /// Something waits for another task of its agent or tenant to end.
    held_back: bool,
    /// How long a rate holds something back.
    until: Option<Duration>,
}

async fn claim(engine: &Arc<Inner>, permits: Vec<OwnedSemaphorePermit>) -> Result<Claimed> {
    if !engine.membership.holds() {
        return Ok(Claimed::default()); // the renewal of the lease wakes the dispatcher
    }
    let policy = engine.policy().clone();
    let claim = Claim { node: engine.node(), policy, now: engine.clock.now(), limit: permits.len() };
    let Granted { tasks, from_created, again_at, held_back } = engine.store.claim(&claim).await?;
    engine.queued.fetch_sub(i64::try_from(from_created).unwrap_or(0), Ordering::SeqCst);
    let (count, until) = (tasks.len(), again_at.map(|at| engine.clock.now().until(at)));
    for (task, permit) in tasks.into_iter().zip(permits) {
        engine.policy().granted(&task.tenant);
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
    for (id, epoch) in engine.take_missed() {
        engine.executions.void(id, epoch);
    }
    Ok(Claimed { count, held_back, until })
}

/// Looks in the store for what other processes did: to tasks that somebody here waits for, and to those that are executed here. Until aborted.
pub(crate) async fn watch_others(engine: Arc<Inner>) {
    /// How often.
    const LOOK: Duration = Duration::from_millis(100);
    /// How many looks for waiters come to one for executions, which begin to be looked at after as long.
    const ROUNDS: u32 = 5;
    if !engine.store.info().shared {
        return;
    }
    for round in (0..ROUNDS).cycle() {
        tokio::time::sleep(LOOK).await;
        let mut looked = look_for_waiters(&engine).await;
        if round == 0 && looked.is_ok() {
            looked = look_for_executions(&engine, LOOK * ROUNDS).await;
        }
        if let Err(error) = looked {
            tracing::debug!(error = %error.report(), "tasks of others cannot be read");
        }
    }
}

/// Tasks read at once by those who look for others.
const OTHERS: usize = 500;

async fn look_for_waiters(engine: &Inner) -> Result<()> {
    let ids: Vec<_> = engine.hub.waited_for().into_iter().filter(|id| !engine.executions.contains(*id)).collect();
    for ids in ids.chunks(OTHERS) {
        let tasks = engine.store.load(ids).await?;
        tasks.into_iter().flatten().for_each(|task| engine.hub.publish(&Arc::new(task)));
    }
    Ok(())
}

/// Stops executions whose task was cancelled or taken over, and lets those look again whose task was told something.
async fn look_for_executions(engine: &Inner, age: Duration) -> Result<()> {
    for ids in engine.executions.older_than(age).chunks(OTHERS) {
        for task in engine.store.load(ids).await?.into_iter().flatten() {
            engine.executions.void(task.id, task.revision.epoch);
            engine.executions.woken(task.id, task.wakes);
        }
    }
    Ok(())
}

/// Counts what is queued now and then, for other processes change it too, until aborted.
pub(crate) async fn count_queue(engine: Arc<Inner>) {
    /// How much longer than a count the pause after it is.
    const SHARE: u32 = 200;
    let mut pause = Duration::from_secs(1);
    loop {
        tokio::time::sleep(pause).await;
        let (began, known) = (Instant::now(), engine.queued.load(Ordering::SeqCst));
        match engine.store.queued().await {
            // What came and went meanwhile is in neither count for sure; the next one is as near.
            Ok(count) => {
                let counted = i64::try_from(count).unwrap_or(i64::MAX);
                engine.queued.fetch_add(counted - known, Ordering::SeqCst);
            }
            Err(error) => tracing::debug!(error = %error.report(), "queued tasks cannot be counted"),
        }
        pause = (began.elapsed() * SHARE).clamp(Duration::from_secs(1), Duration::from_secs(60));
    }
}

/// Takes back what the store has granted to this node although the answer was lost. Nothing is under way: only the dispatcher claims, and an execution that
/// begins with its insert is entered before.
async fn regain(engine: &Inner) -> Result<()> {
    let here = engine.executions.len();
    let held = engine.store.held_by(&engine.node(), here + CLAIM).await?;
    let full = held.len() == here + CLAIM;
    for Held { task, journal } in held.into_iter().filter(|held| !engine.executions.contains(held.task.id)) {
        // Refused: it has ended meanwhile, or somebody else has it.
        let recovered = engine.change_with(task.id, None, |found| {
            let same = found.revision.epoch == task.revision.epoch;
            let command = Command::Recover { journal };
            let step = if same { apply(found, command, engine.clock.now()) } else { Err(Refused::NotNow) };
            std::future::ready(Ok(step.map(|step| (step, Vec::new()))))
        });
        if recovered.await?.is_ok() {
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
    let (mut looked, mut failures) = (Instant::now(), 0);
    loop {
        let now = engine.clock.now();
        if looked.elapsed() >= SLOW_POLL {
            looked = Instant::now();
            engine.doubt(); // nothing should be held that is not executed; a look now and then makes sure
        }
        let next = match tick(&engine, now).await {
            Ok(next) => {
                failures = 0;
                next
            }
            Err(error) => {
                tracing::warn!(error = %error.report(), "due tasks cannot be read");
                failures += 1;
                Some(engine.clock.now().plus(backoff(failures)))
            }
        };
        if engine.store.info().shared {
            engine.runnable.notify_one(); // what others have queued, if the word of it got lost
        }
        let pause = next.map_or(SLOW_POLL, |at| engine.clock.now().until(at).min(SLOW_POLL));
        tokio::select! {
            biased;
            () = engine.earlier.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Ends what is overdue; the next moment at which something is due.
async fn tick(engine: &Arc<Inner>, now: Timestamp) -> Result<Option<Timestamp>> {
    engine.next_due.store(i64::MAX, Ordering::SeqCst);
    loop {
        let overdue = engine.store.overdue(now, CLAIM).await?;
        let mut expired_any = false;
        for task in &overdue {
            // Refused: it ended by itself meanwhile, or even was requeued without that deadline.
            let expired = engine.change_with(task.id, None, |task| {
                let now = engine.clock.now();
                let overdue = task.deadline.is_some_and(|at| at <= now);
                let step = if overdue { apply(task, Command::Expire, now) } else { Err(Refused::NotNow) };
                std::future::ready(Ok(step.map(|step| (step, Vec::new()))))
            });
            if expired.await?.is_ok() {
                expired_any = true;
                engine.bereaved.notify_one();
            }
        }
        // A page of which none could be ended, for the clock was set back meanwhile, would come again and again.
        if overdue.len() < CLAIM || !expired_any {
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
