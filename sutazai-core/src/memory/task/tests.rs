//! What this store does beyond the suite of all.

use super::*;
use crate::{
    engine::{self, Command},
    store::Recalled,
    task::TaskRequest,
};

/// A clock that is set by hand.
struct Hands(Mutex<i64>);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(*self.0.lock().unwrap())
    }

    fn random(&self) -> u64 {
        4
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey { tenant: "default".into(), key: name.into(), fingerprint: [1; 32] }
}

fn insert(number: u8, commands: &[Command]) -> TaskWrite {
    let (id, now) = (TaskId::from_bytes([number; 16]), Timestamp::from_millis(1_000));
    let request = TaskRequest::new("echo", Payload::null()).webhook("http://127.0.0.1:9/");
    let mut step = engine::create(id, "echo".into(), "1.0.0".into(), request, now);
    commands.iter().for_each(|command| step.apply(command.clone(), now).unwrap());
    let key = Some(key(&number.to_string()));
    TaskWrite::Insert { task: Arc::new(step.task), events: step.events, key, journal: None }
}

#[tokio::test]
async fn the_newest_ends_are_kept_and_every_live_task() {
    let store = MemoryTaskStore::keeping(2);
    let batch: Vec<_> = (1..=5).map(|number| insert(number, &[Command::Cancel])).collect();
    store.write(&[insert(9, &[])]).await.unwrap();
    assert_eq!(store.write(&batch).await.unwrap(), vec![WriteOutcome::Applied; 5]);
    let query = TaskQuery { limit: 10, ..TaskQuery::default() };
    let kept: Vec<_> = store.list(&query).await.unwrap().items.iter().map(|task| task.id).collect();
    assert_eq!(kept, [9, 5, 4].map(|number| TaskId::from_bytes([number; 16])));
    assert_eq!(store.feed(0, 100).await.unwrap().len(), 1 + 2 * 2, "events go with their tasks");
    let due = store.deliveries(Timestamp::from_millis(1_000), 100, Duration::ZERO).await.unwrap();
    assert_eq!(due.len(), 3, "and deliveries");
    assert_eq!(store.write(&batch[..1]).await.unwrap(), [WriteOutcome::Applied], "and keys");
}

#[tokio::test]
async fn a_task_that_starts_again_is_no_end_any_more() {
    let store = MemoryTaskStore::keeping(1);
    let failed = insert(1, &[Command::Expire]);
    store.write(std::slice::from_ref(&failed)).await.unwrap();
    let before = failed.image().unwrap();
    let command = Command::Requeue { input: None, deadline: None };
    let step = engine::apply(before, command, Timestamp::from_millis(2_000)).unwrap();
    let (task, events) = (Arc::new(step.task), step.events);
    let requeued = TaskWrite::Update { task, expected: before.revision, events, entries: Vec::new(), key: None };
    assert_eq!(store.write(&[requeued]).await.unwrap(), [WriteOutcome::Applied]);
    store.write(&[insert(2, &[Command::Cancel]), insert(3, &[Command::Cancel])]).await.unwrap();
    let ids = [1, 2, 3].map(|number| TaskId::from_bytes([number; 16]));
    let kept: Vec<_> = store.load(&ids).await.unwrap().iter().map(Option::is_some).collect();
    assert_eq!(kept, [true, false, true]);
}

#[tokio::test]
async fn leases_and_answers_age_by_the_clock_that_is_given() {
    let clock = Arc::new(Hands(Mutex::new(0)));
    let store = MemoryTaskStore::with_clock(Arc::clone(&clock) as Arc<dyn Clock>).shared();
    assert!(store.info().shared);
    let node = NodeRecord {
        id: NodeId::new("a/1"),
        name: "a".into(),
        role: "all".into(),
        version: "1".into(),
        address: None,
        started_at: Timestamp::from_millis(0),
        seen_at: Timestamp::NEVER,
        lease_until: Timestamp::NEVER,
        running: 0,
        dead: true,
    };
    store.join(&node, Duration::from_millis(100)).await.unwrap();
    store.remember(&key("k"), &Payload::null(), clock.now()).await.unwrap();
    *clock.0.lock().unwrap() = 100;
    assert!(store.lapsed().await.unwrap().is_empty());
    assert_eq!(store.recall(&key("k")).await.unwrap(), Recalled::Answered(Payload::null()));
    *clock.0.lock().unwrap() = 101;
    assert_eq!(store.lapsed().await.unwrap(), [NodeId::new("a/1")]);
    *clock.0.lock().unwrap() = 24 * 3_600_000;
    assert_eq!(store.recall(&key("k")).await.unwrap(), Recalled::New);
}

#[tokio::test]
async fn engines_that_share_it_hear_of_each_other_s_tasks() {
    let (alone, shared) = (MemoryTaskStore::new(), MemoryTaskStore::new().shared());
    for (store, heard) in [(alone, false), (shared, true)] {
        let runnable = Arc::new(tokio::sync::Notify::new());
        let told = Arc::clone(&runnable);
        let wake_up: crate::store::WakeUp = Arc::new(move || told.notify_one());
        store.watch(Arc::clone(&wake_up));
        store.write(&[insert(1, &[])]).await.unwrap();
        let notified = futures_util::FutureExt::now_or_never(runnable.notified());
        assert_eq!(notified.is_some(), heard);
        drop(wake_up);
        store.write(&[insert(2, &[])]).await.unwrap();
        assert!(store.watchers.lock().unwrap().is_empty(), "who is gone is forgotten");
    }
}
