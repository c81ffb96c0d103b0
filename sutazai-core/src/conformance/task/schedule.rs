//! What schedules guarantee.

use std::time::Duration;

use futures_util::future::join_all;

use super::{Life, START, at, key, request, store_all, wall};
use crate::{
    clock::Timestamp,
    error::Result,
    payload::Payload,
    schedule::{Schedule, TaskTemplate, Timing},
    store::{KEY_LIFE, KeptAnswer, Recalled, ScheduleRecord, TaskStore},
};

/// A schedule that fires next at this moment.
pub(super) fn scheduled(name: &str, next: Option<Timestamp>) -> ScheduleRecord {
    let task = TaskTemplate::new("echo", Payload::null());
    let schedule = Schedule::new(name, Timing::Every { every_ms: 60_000 }, task);
    ScheduleRecord { schedule, created_at: START, paused: next.is_none(), last: None, next, revision: 1 }
}

/// What is put is what is read, by name, also over an earlier one and until it is dropped.
pub async fn schedules_are_kept_as_they_were(store: &dyn TaskStore) -> Result<()> {
    assert_eq!(store.schedule("a").await?, None);
    let mut record = scheduled("a", None);
    record.schedule.task.input = Payload::from_text(" {\"n\" : 1.50} ")?;
    record.schedule.timing = Timing::Cron { expression: "*/5 * * * MON-FRI".to_owned() };
    record.schedule.time_zone = "Europe/Berlin".to_owned();
    assert!(store.put_schedule(&record, None, None).await?);
    assert_eq!(store.schedule("a").await?, Some(record.clone()));
    let next = ScheduleRecord { last: Some(at(-3)), next: Some(at(5)), paused: false, revision: 2, ..record };
    assert!(store.put_schedule(&next, Some(1), None).await?);
    assert_eq!(store.schedule("a").await?, Some(next));
    for name in ["c", "B", "b"] {
        assert!(store.put_schedule(&scheduled(name, None), None, None).await?);
    }
    let mut names = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.schedules(after.as_deref(), 3).await?;
        names.extend(page.items.iter().map(|record| record.schedule.name.clone()));
        after = names.last().cloned();
        if !page.more {
            break;
        }
        assert_eq!(page.items.len(), 3, "a page with more after it is full");
    }
    assert_eq!(names, ["B", "a", "b", "c"], "in the order of bytes");
    let page = store.schedules(Some("b"), 1).await?;
    assert_eq!((page.items, page.more), (vec![scheduled("c", None)], false));
    assert!(store.drop_schedule("a").await?);
    assert!(!store.drop_schedule("a").await?);
    assert_eq!(store.schedule("a").await?, None);
    assert!(store.put_schedule(&scheduled("a", None), None, None).await?, "the name is free again");
    Ok(())
}

/// A new one needs a free name, a change the revision it was made from; of changes that race one is stored.
pub async fn schedules_change_at_their_revision(store: &dyn TaskStore) -> Result<()> {
    let first = scheduled("a", Some(START));
    assert!(!store.put_schedule(&first, Some(1), None).await?, "there is none at any revision");
    assert!(store.put_schedule(&first, None, None).await?);
    let next = ScheduleRecord { revision: 2, next: None, ..first.clone() };
    for wrong in [None, Some(0), Some(2)] {
        assert!(!store.put_schedule(&next, wrong, None).await?, "{wrong:?}");
    }
    assert_eq!(store.schedule("a").await?, Some(first));
    let racing = join_all((0..10).map(|_| store.put_schedule(&next, Some(1), None))).await;
    let stored = racing.into_iter().collect::<Result<Vec<_>>>()?;
    assert_eq!(stored.iter().filter(|stored| **stored).count(), 1);
    assert_eq!(store.schedule("a").await?, Some(next));
    Ok(())
}

/// A change and the answer to the request that asked for it are stored together: no answer without the change, no change under a key that was used.
pub async fn a_schedule_and_its_answer_are_stored_together(store: &dyn TaskStore) -> Result<()> {
    let answer = |name: &str, n: u8| -> Result<KeptAnswer> {
        Ok(KeptAnswer { key: key(name, n), answer: Payload::of(&n)?, at: wall() })
    };
    let first = scheduled("a", Some(START));
    assert!(!store.put_schedule(&first, Some(1), Some(&answer("k", 1)?)).await?, "there is none at any revision");
    assert_eq!(store.recall(&key("k", 1)).await?, Recalled::New);
    assert!(store.put_schedule(&first, None, Some(&answer("k", 1)?)).await?);
    assert_eq!(store.recall(&key("k", 1)).await?, Recalled::Answered(Payload::of(&1)?));

    let next = ScheduleRecord { revision: 2, next: None, ..first.clone() };
    for n in [1, 2] {
        assert!(!store.put_schedule(&next, Some(1), Some(&answer("k", n)?)).await?, "the key was used");
        assert!(!store.put_schedule(&scheduled("b", None), None, Some(&answer("k", n)?)).await?);
    }
    assert!(!store.put_schedule(&next, Some(0), Some(&answer("other", 3)?)).await?);
    assert_eq!(store.recall(&key("other", 3)).await?, Recalled::New);
    assert_eq!((store.schedule("a").await?, store.schedule("b").await?), (Some(first), None));
    let (changed, answer) = (&next, &answer);
    let race = |n| async move { store.put_schedule(changed, Some(1), Some(&answer("other", n)?)).await };
    let racing = join_all((3..9).map(race));
    let stored = racing.await.into_iter().collect::<Result<Vec<_>>>()?;
    assert_eq!(stored.iter().filter(|stored| **stored).count(), 1);
    assert_eq!(store.schedule("a").await?.as_ref(), Some(changed));
    assert_eq!(store.recall(&key("k", 1)).await?, Recalled::Answered(Payload::of(&1)?), "the first answer stays");

    // An answer that has had its day leaves its key free, here as well.
    let old = KeptAnswer { at: wall().minus(KEY_LIFE).minus(Duration::from_secs(3_600)), ..answer("old", 1)? };
    assert!(store.put_schedule(&scheduled("b", None), None, Some(&old)).await?);
    assert_eq!(store.recall(&old.key).await?, Recalled::New);
    assert!(store.put_schedule(&scheduled("c", None), None, Some(&answer("old", 2)?)).await?);
    assert_eq!(store.recall(&key("old", 2)).await?, Recalled::Answered(Payload::of(&2)?));
    Ok(())
}

/// What fires next at or before a moment is due then, the earliest first; what has no next moment never is.
pub async fn schedules_come_due(store: &dyn TaskStore) -> Result<()> {
    for (name, next) in [("a", Some(at(10))), ("b", Some(at(20))), ("c", None), ("d", Some(at(20)))] {
        assert!(store.put_schedule(&scheduled(name, next), None, None).await?);
    }
    let due = async |millis, limit| -> Result<Vec<String>> {
        let mut due: Vec<_> =
            store.due_schedules(at(millis), limit).await?.into_iter().map(|record| record.schedule.name).collect();
        due.sort_unstable();
        Ok(due)
    };
    assert_eq!(due(9, 10).await?, [""; 0]);
    assert_eq!(due(10, 10).await?, ["a"]);
    assert_eq!(due(90_000, 10).await?, ["a", "b", "d"]);
    assert_eq!(due(90_000, 2).await?.len(), 2);
    assert_eq!(due(90_000, 1).await?, ["a"]);
    let fired = ScheduleRecord { next: Some(at(30)), revision: 2, ..scheduled("a", None) };
    assert!(store.put_schedule(&fired, Some(1), None).await?);
    assert!(store.drop_schedule("b").await?);
    assert_eq!(due(29, 10).await?, ["d"]);
    assert_eq!(due(30, 10).await?, ["a", "d"]);
    Ok(())
}

/// The next moment at which there is something to do may be a schedule's.
pub async fn next_due_counts_schedules(store: &dyn TaskStore) -> Result<()> {
    for (name, next) in [("a", Some(at(10))), ("b", None), ("c", Some(at(30))), ("d", Some(Timestamp::NEVER))] {
        assert!(store.put_schedule(&scheduled(name, next), None, None).await?);
    }
    store_all(store, [&mut Life::of(request().deadline(at(20)))]).await?;
    for (after, next) in [(9, Some(at(10))), (10, Some(at(20))), (20, Some(at(30))), (30, None)] {
        assert_eq!(store.next_due(at(after)).await?, next, "after {after}");
    }
    Ok(())
}
