//! What signals and wakes guarantee: none is lost, and none makes a task run that waits for something else.

use std::{collections::BTreeSet, time::Duration};

use super::{Life, START, at, claim::ids, claim_of, entry, holds, key, load_one, request, store_all, write_one};
use crate::{
    clock::Timestamp,
    engine::Command,
    error::Result,
    payload::Payload,
    store::{Child, TaskStore, TaskWrite, WriteOutcome},
    task::{RetryPolicy, Signal, TaskError, TaskId, WaitReason},
};

use WriteOutcome::{Applied, KeyConflict, Replayed, Stale};

/// A signal that came `millis` after the beginning, and says so.
pub(super) fn signal(name: &str, millis: i64) -> Signal {
    let payload = Payload::of(&millis).unwrap_or_else(|_| Payload::null());
    Signal { name: name.to_owned(), payload, at: at(millis) }
}

fn tell(task: TaskId, name: &str, millis: i64) -> TaskWrite {
    TaskWrite::Signal { task, signal: signal(name, millis), key: None }
}

/// Suspends a life that runs.
fn suspend(life: &mut Life, until: Option<Timestamp>, millis: i64) -> &mut Life {
    life.then(Command::Suspend { reason: WaitReason::Signal, until }, at(millis))
}

/// What the store makes of a task that is woken at `millis`.
fn woken(life: &mut Life, millis: i64) {
    life.step.task.wakes += 1;
    life.step.task.due_at = life.step.task.due_at.min(at(millis));
}

/// Signals of a name are read in the order they were stored, from a number on, as many as asked; names do not mix.
pub async fn signals_come_in_the_order_they_were_stored(store: &dyn TaskStore) -> Result<()> {
    let (mut life, mut other) = (Life::new(), Life::new());
    store_all(store, [&mut life, &mut other]).await?;
    let odd = "a b'; -- ß";
    let mut batch: Vec<_> = (0..7).map(|n| tell(life.id(), "go", 50 - n)).collect();
    batch.insert(3, tell(life.id(), odd, 1));
    batch.insert(5, tell(other.id(), "go", 2));
    assert_eq!(store.write(&batch[..4]).await?, vec![Applied; 4]);
    assert_eq!(store.write(&batch[4..]).await?, vec![Applied; 5]);
    for from in 0..9 {
        for limit in [0, 1, 3, 100] {
            let found = store.signals(life.id(), "go", from, limit).await?;
            let expected: Vec<_> = (0..7).map(|n| signal("go", 50 - n)).skip(from as usize).take(limit).collect();
            assert_eq!(found, expected, "from {from}, limit {limit}");
        }
    }
    assert_eq!(store.signals(life.id(), odd, 0, 10).await?, [signal(odd, 1)]);
    assert_eq!(store.signals(other.id(), "go", 0, 10).await?, [signal("go", 2)]);
    assert_eq!(store.signals(life.id(), "Go", 0, 10).await?, []);
    Ok(())
}

/// What has ended or does not exist is told nothing.
pub async fn a_signal_is_refused_after_the_end(store: &dyn TaskStore) -> Result<()> {
    let (mut life, unknown) = (Life::new(), Life::new());
    store_all(store, [life.claimed().completed()]).await?;
    let keyed = TaskWrite::Signal { task: life.id(), signal: signal("go", 1), key: Some(key("k", 1)) };
    let batch = [tell(life.id(), "go", 1), tell(unknown.id(), "go", 1), keyed];
    assert_eq!(store.write(&batch).await?, [Stale, Stale, Stale]);
    assert_eq!(store.signals(life.id(), "go", 0, 10).await?, []);
    holds(store, &life).await?;
    let mut free = Life::new().with_key(key("k", 2));
    store_all(store, [&mut free]).await // a refused signal does not use its key
}

/// A key makes a signal that is sent again tell nothing, also in one batch and after the end.
pub async fn a_signal_with_a_key_is_told_once(store: &dyn TaskStore) -> Result<()> {
    let mut life = Life::new();
    store_all(store, [&mut life]).await?;
    let keyed =
        |fingerprint| TaskWrite::Signal { task: life.id(), signal: signal("go", 1), key: Some(key("k", fingerprint)) };
    let (same, other) = (keyed(1), keyed(2));
    life.step.task.wakes = 1;
    let now = || Replayed(Box::new(life.task().clone()));
    assert_eq!(store.write(&[same.clone(), same.clone(), other.clone()]).await?, [Applied, now(), KeyConflict]);
    assert_eq!(write_one(store, same.clone()).await?, now());
    holds(store, &life).await?;
    store_all(store, [life.claimed().completed()]).await?;
    let outcomes = store.write(&[same, other]).await?;
    assert_eq!(outcomes, [Replayed(Box::new(life.task().clone())), KeyConflict]);
    assert_eq!(store.signals(life.id(), "go", 0, 10).await?.len(), 1);
    Ok(())
}

/// A signal makes a task that waits for an event due at its moment; the revision stays, and there is no event of it.
pub async fn a_signal_wakes_who_waits(store: &dyn TaskStore) -> Result<()> {
    let (mut forever, mut timed) = (Life::new(), Life::new());
    suspend(forever.claimed(), None, 1);
    suspend(timed.claimed(), Some(at(60_000)), 1);
    store_all(store, [&mut forever, &mut timed]).await?;
    assert_eq!(store.claim(&claim_of(10, at(59_999))).await?.tasks, []);
    assert_eq!(store.next_due(at(2)).await?, Some(at(60_000)), "what waits without a timer has no moment");
    let signals = [tell(forever.id(), "go", 30), tell(timed.id(), "go", 20)];
    assert_eq!(store.write(&signals).await?, [Applied, Applied]);
    woken(&mut forever, 30);
    woken(&mut timed, 20);
    holds(store, &forever).await?;
    holds(store, &timed).await?;
    assert_eq!(store.next_due(at(2)).await?, Some(at(20)));
    assert_eq!(store.claim(&claim_of(10, at(19))).await?.tasks, []);
    assert_eq!(ids(&store.claim(&claim_of(10, at(30))).await?.tasks), [timed.id(), forever.id()]);
    Ok(())
}

/// A signal that comes between the last look and the suspension is not slept over.
pub async fn a_wake_nobody_has_seen_ends_the_next_wait(store: &dyn TaskStore) -> Result<()> {
    let (mut later, mut batched) = (Life::new(), Life::new());
    store_all(store, [later.claimed(), batched.claimed()]).await?;
    assert_eq!(write_one(store, tell(later.id(), "go", 5)).await?, Applied);
    let loaded = load_one(store, later.id()).await?;
    assert_eq!(loaded.map(|task| (task.wakes, task.due_at)), Some((1, START)), "a running task is only told");
    store_all(store, [suspend(&mut later, None, 9)]).await?; // without having seen it
    let batch = [tell(batched.id(), "go", 3), suspend(&mut batched, Some(at(60_000)), 9).write()];
    assert_eq!(store.write(&batch).await?, [Applied, Applied]);
    for life in [&mut later, &mut batched] {
        woken(life, 9);
        holds(store, life).await?;
    }
    assert_eq!(store.claim(&claim_of(10, at(9))).await?.tasks.len(), 2);
    Ok(())
}

/// Who has seen every wake waits on.
pub async fn a_wake_that_was_seen_does_not(store: &dyn TaskStore) -> Result<()> {
    let mut life = Life::new();
    store_all(store, [life.claimed()]).await?;
    assert_eq!(write_one(store, tell(life.id(), "go", 5)).await?, Applied);
    life.step.task.wakes = 1;
    store_all(store, [suspend(&mut life, None, 9)]).await?;
    holds(store, &life).await?;
    assert_eq!(store.claim(&claim_of(10, at(60_000))).await?.tasks, []);
    Ok(())
}

/// Delays between attempts and waits for a decision end when they end, whatever the task is told; it is counted.
pub async fn retries_and_decisions_are_not_woken(store: &dyn TaskStore) -> Result<()> {
    let mut retrying = Life::of(request().retry(RetryPolicy { max_attempts: 3, initial_ms: 0, max_ms: 0 }));
    let (error, mut halted) = (TaskError::new("e", "m"), Life::new());
    let retry = Some(Duration::from_millis(500));
    retrying.claimed().then(Command::Fail { error: error.clone(), retry, random: 0 }, START);
    let mut late = Life::new();
    store_all(store, [&mut retrying, halted.claimed(), late.claimed()]).await?;
    store_all(store, [halted.then(Command::Halt { reason: WaitReason::NonDeterminism, error: error.clone() }, START)])
        .await?;
    let signals = [&retrying, &halted, &late].map(|life| tell(life.id(), "go", 1));
    assert_eq!(store.write(&signals).await?, [Applied, Applied, Applied]);
    store_all(store, [late.then(Command::Halt { reason: WaitReason::EffectUnknown, error }, at(2))]).await?;
    for life in [&mut retrying, &mut halted, &mut late] {
        life.step.task.wakes = 1;
        holds(store, life).await?;
    }
    assert_eq!(store.claim(&claim_of(10, at(499))).await?.tasks, []);
    assert_eq!(ids(&store.claim(&claim_of(10, at(60_000))).await?.tasks), [retrying.id()]);
    Ok(())
}

/// A wake-up after the timer's moment leaves the task due at that.
pub async fn a_wait_is_never_prolonged_by_a_wake(store: &dyn TaskStore) -> Result<()> {
    let (mut asleep, mut unseen) = (Life::new(), Life::new());
    suspend(asleep.claimed(), Some(at(10)), 1);
    store_all(store, [&mut asleep, unseen.claimed()]).await?;
    let signals = [tell(asleep.id(), "go", 50), tell(unseen.id(), "go", 50)];
    assert_eq!(store.write(&signals).await?, [Applied, Applied]);
    store_all(store, [suspend(&mut unseen, Some(at(10)), 60)]).await?;
    for life in [&mut asleep, &mut unseen] {
        life.step.task.wakes = 1;
        assert_eq!(life.task().due_at, at(10));
        holds(store, life).await?;
    }
    Ok(())
}

fn child_of(parent: &Life, detached: bool) -> Life {
    let mut asked = request();
    (asked.parent_id, asked.detached) = (Some(parent.id()), detached);
    Life::of(asked)
}

/// The end of a child wakes its parent in the same commit, and only the end, once.
pub async fn the_end_of_a_child_wakes_its_parent(store: &dyn TaskStore) -> Result<()> {
    let mut parent = Life::new();
    suspend(parent.claimed(), None, 1);
    let mut child = child_of(&parent, false);
    store_all(store, [&mut parent, &mut child]).await?;
    store_all(store, [child.claimed()]).await?;
    store_all(store, [child.then(Command::Recover { journal: 0 }, at(2))]).await?;
    holds(store, &parent).await?;
    store_all(store, [child.then(Command::Expire, at(7))]).await?;
    woken(&mut parent, 7);
    holds(store, &parent).await?;
    store_all(store, [child.then(Command::Discard, at(8))]).await?;
    holds(store, &parent).await?;
    let granted = store.claim(&claim_of(10, at(7))).await?.tasks;
    assert_eq!(granted.iter().map(|task| (task.id, task.wakes)).collect::<Vec<_>>(), [(parent.id(), 1)]);
    Ok(())
}

/// Ends of every kind wake, of detached children too, in a write of any kind; a parent that is gone is no fault.
pub async fn whatever_ends_a_child_wakes_its_parent(store: &dyn TaskStore) -> Result<()> {
    let mut parent = Life::new();
    store_all(store, [parent.claimed()]).await?;
    let mut children = [false, true, false, true].map(|detached| child_of(&parent, detached));
    children[0].then(Command::Cancel, at(2));
    children[1].claimed();
    children[2].claimed();
    children[3].claimed().completed();
    let [first, second, third, fourth] = &mut children;
    let (task, epoch) = (parent.id(), parent.task().revision.epoch);
    let born = Child { task: fourth.task().clone().into(), events: std::mem::take(&mut fourth.step.events) };
    let append = TaskWrite::Append { task, epoch, era: 0, entries: vec![entry(0)], children: vec![born] };
    let mut batch = vec![first.write(), second.write(), append];
    batch.push(second.completed().write());
    batch.push(third.write());
    assert_eq!(store.write(&batch).await?, vec![Applied; 5]);
    parent.step.task.wakes = 3;
    holds(store, &parent).await?;
    let mut orphan = child_of(&Life::new(), false);
    store_all(store, [orphan.then(Command::Cancel, at(3)), third.then(Command::Cancel, at(3))]).await?;
    parent.step.task.wakes = 4;
    holds(store, &parent).await?;
    holds(store, &orphan).await
}

/// An image never changes the count: what is written is what the engine has seen, what is read is the store's.
pub async fn wakes_are_counted_by_the_store(store: &dyn TaskStore) -> Result<()> {
    let mut life = Life::new();
    store_all(store, [life.claimed()]).await?;
    let signals: Vec<_> = (0..5).map(|n| tell(life.id(), "go", n)).collect();
    assert_eq!(store.write(&signals).await?, vec![Applied; 5]);
    life.step.task.wakes = 2;
    store_all(store, [life.then(Command::Release, at(6))]).await?;
    life.step.task.wakes = 5;
    holds(store, &life).await?;
    let granted = store.claim(&claim_of(1, at(6))).await?.tasks;
    assert_eq!(granted.iter().map(|task| task.wakes).collect::<Vec<_>>(), [5]);
    let held = store.held_by(&super::node(), 10).await?;
    assert_eq!(held.iter().map(|held| held.task.wakes).collect::<Vec<_>>(), [5]);
    Ok(())
}

/// A parent that has ended, or is gone, is found as long as a task lives that must end with it.
pub async fn ended_parents_of_living_children_are_found(store: &dyn TaskStore) -> Result<()> {
    let child_of = |parent: TaskId, detached: bool| {
        let mut asked = request();
        (asked.parent_id, asked.detached) = (Some(parent), detached);
        Life::of(asked)
    };
    let (mut lives, mut ends, mut alone, unknown) = (Life::new(), Life::new(), Life::new(), Life::new().id());
    let mut children = [child_of(ends.id(), false), child_of(ends.id(), false)];
    let mut others =
        [child_of(lives.id(), false), child_of(alone.id(), true), child_of(unknown, true), child_of(unknown, false)];
    store_all(store, [&mut lives, &mut ends, &mut alone]).await?;
    store_all(store, children.iter_mut().chain(&mut others)).await?;
    assert_eq!(store.ended_parents(10).await?, [unknown]);
    store_all(store, [ends.then(Command::Cancel, at(1)), alone.then(Command::Expire, at(1))]).await?;
    let found: BTreeSet<_> = store.ended_parents(10).await?.into_iter().collect();
    assert_eq!(found, BTreeSet::from([ends.id(), unknown]));
    assert_eq!((store.ended_parents(1).await?.len(), store.ended_parents(0).await?.len()), (1, 0));
    store_all(store, [others[3].then(Command::Cancel, at(2)), children[0].claimed()]).await?;
    assert_eq!(store.ended_parents(10).await?, [ends.id()], "whatever the child's state");
    let [first, second] = &mut children;
    store_all(store, [first.completed(), second.then(Command::Cancel, at(2))]).await?;
    assert_eq!(store.ended_parents(10).await?, []);
    Ok(())
}
