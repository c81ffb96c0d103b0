//! What idempotency keys of changes and of other requests guarantee.

use std::time::Duration;

use super::{Life, at, holds, key, store_all, wake::signal, wall, write_one};
use crate::{
    engine::Command,
    error::Result,
    payload::Payload,
    store::{Recalled, TaskStore, TaskWrite, WriteOutcome},
    task::{IdempotencyKey, Revision},
};

use WriteOutcome::{Applied, KeyConflict, Replayed, Stale};

fn keyed(write: TaskWrite, with: IdempotencyKey) -> TaskWrite {
    match write {
        TaskWrite::Update { task, expected, events, entries, .. } => {
            TaskWrite::Update { task, expected, events, entries, key: Some(with) }
        }
        other => other,
    }
}

/// A change that is sent again returns the task as it then is, whatever revision it states; a stale one uses no key.
pub async fn an_update_with_a_key_is_applied_once(store: &dyn TaskStore) -> Result<()> {
    let mut life = Life::new();
    store_all(store, [&mut life]).await?;
    life.then(Command::Cancel, at(1));
    let cancel = keyed(life.write(), key("k", 1));
    let now = || Replayed(Box::new(life.task().clone()));
    let mut nowhere = cancel.clone();
    if let TaskWrite::Update { expected, .. } = &mut nowhere {
        *expected = Revision { epoch: u64::MAX >> 1, seq: u64::MAX >> 1 };
    }
    assert_eq!(write_one(store, nowhere.clone()).await?, Stale);
    assert_eq!(store.write(&[cancel.clone(), cancel.clone()]).await?, [Applied, now()]);
    assert_eq!(write_one(store, nowhere).await?, now());
    assert_eq!(write_one(store, keyed(cancel, key("k", 2))).await?, KeyConflict);
    holds(store, &life).await?;
    // One key space: what was used for a change is no key of a new task any more.
    let mut other = Life::new().with_key(key("k", 3));
    assert_eq!(write_one(store, other.write()).await?, KeyConflict);
    Ok(())
}

/// The first answer to a request is kept, and given for the same request alone.
pub async fn answers_of_other_requests_are_kept(store: &dyn TaskStore) -> Result<()> {
    let (first, second) = (Payload::from_text(" {\"a\" : 1} ")?, Payload::null());
    let mut elsewhere = key("k", 9);
    elsewhere.tenant = "acme".into();
    assert_eq!(store.recall(&key("k", 1)).await?, Recalled::New);
    store.remember(&key("k", 1), &first, wall()).await?;
    for fingerprint in [1, 2] {
        store.remember(&key("k", fingerprint), &second, wall()).await?;
    }
    assert_eq!(store.recall(&key("k", 1)).await?, Recalled::Answered(first));
    assert_eq!(store.recall(&key("k", 2)).await?, Recalled::Conflict);
    assert_eq!(store.recall(&elsewhere).await?, Recalled::New);
    Ok(())
}

/// A key of a task is known to requests, and the other way round.
pub async fn a_key_is_known_to_tasks_and_requests(store: &dyn TaskStore) -> Result<()> {
    let mut life = Life::new().with_key(key("task", 1));
    store_all(store, [&mut life]).await?;
    assert_eq!(store.recall(&key("task", 2)).await?, Recalled::Conflict);
    store.remember(&key("task", 2), &Payload::null(), wall()).await?;
    let mut again = Life::new().with_key(key("task", 1));
    assert_eq!(write_one(store, again.write()).await?, Replayed(Box::new(life.task().clone())));

    store.remember(&key("answer", 1), &Payload::null(), wall()).await?;
    let mut other = Life::new().with_key(key("answer", 2));
    let told = TaskWrite::Signal { task: life.id(), signal: signal("go", 1), key: Some(key("answer", 2)) };
    assert_eq!(store.write(&[other.write(), told]).await?, [KeyConflict, KeyConflict]);
    assert_eq!(store.load(&[other.id()]).await?, [None]);
    assert_eq!(store.signals(life.id(), "go", 0, 1).await?, []);
    Ok(())
}

/// An answer is forgotten a day after it was given; its key is free then.
pub async fn answers_are_kept_for_a_day(store: &dyn TaskStore) -> Result<()> {
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    store.remember(&key("old", 1), &Payload::null(), wall().minus(hours(25))).await?;
    store.remember(&key("new", 1), &Payload::null(), wall().minus(hours(23))).await?;
    assert_eq!(store.recall(&key("new", 1)).await?, Recalled::Answered(Payload::null()));
    assert_eq!(store.recall(&key("old", 1)).await?, Recalled::New);
    let mut life = Life::new().with_key(key("old", 2));
    store_all(store, [&mut life]).await?;
    store.remember(&key("older", 1), &Payload::null(), wall().minus(hours(48))).await?;
    store.remember(&key("older", 2), &Payload::of(&2)?, wall()).await?;
    assert_eq!(store.recall(&key("older", 2)).await?, Recalled::Answered(Payload::of(&2)?));
    let mut again = Life::new().with_key(key("old", 2));
    assert_eq!(write_one(store, again.write()).await?, Replayed(Box::new(life.task().clone())));
    Ok(())
}
