//! What the feed of all events guarantees.

use std::collections::BTreeMap;

use futures_util::future::{join_all, try_join};

use super::{Life, START, at, claim_of, entry, eventually, request, store_all, write_one};
use crate::{
    engine::Command,
    error::Result,
    store::{Child, TaskStore, TaskWrite, WriteOutcome},
    task::{Event, NumberedEvent, Progress, TaskId},
};

/// A reader that goes on from the last number it was given.
#[derive(Default)]
struct Reader {
    last: u64,
    seen: BTreeMap<TaskId, Vec<Event>>,
    count: usize,
}

impl Reader {
    async fn read(&mut self, store: &dyn TaskStore, limit: usize) -> Result<usize> {
        let page = store.feed(self.last, limit).await?;
        assert!(page.len() <= limit);
        for NumberedEvent { number, event } in &page {
            assert!(*number > self.last, "numbers grow: {number} after {}", self.last);
            assert!(*number <= 1 << 53, "every JSON reader can hold {number}");
            self.last = *number;
            self.seen.entry(event.task_id).or_default().push(event.clone());
        }
        self.count += page.len();
        Ok(page.len())
    }
}

/// Events of tasks, claims and children are shown in one order, a task's own in theirs; pages of any size agree.
pub async fn the_feed_shows_every_event_in_one_order(store: &dyn TaskStore) -> Result<()> {
    assert_eq!(store.feed(0, 10).await?, []);
    let mut lives = [Life::new(), Life::new(), Life::new()];
    store_all(store, &mut lives).await?;
    assert_eq!(store.claim(&claim_of(2, START)).await?.tasks.len(), 2);
    lives[0].claimed();
    lives[1].claimed();
    let mut asked = request();
    asked.parent_id = Some(lives[0].id());
    let mut child = Life::of(asked);
    let born = Child { task: child.task().clone().into(), events: std::mem::take(&mut child.step.events) };
    let (task, epoch) = (lives[0].id(), lives[0].task().revision.epoch);
    let append = TaskWrite::Append { task, epoch, era: 0, entries: vec![entry(0)], children: vec![born] };
    assert_eq!(write_one(store, append).await?, WriteOutcome::Applied);
    store_all(store, [lives[2].then(Command::Cancel, at(1))]).await?;
    let expected: usize = lives.iter().chain([&child]).map(|life| life.events.len()).sum();
    let mut all = Reader::default();
    eventually("every event is shown", async || Ok(store.feed(0, 100).await?.len() == expected)).await?;
    all.read(store, 100).await?;
    for life in lives.iter().chain([&child]) {
        assert_eq!(all.seen.get(&life.id()), Some(&life.events));
    }
    for size in [1, 2, 3, 7] {
        let mut reader = Reader::default();
        while reader.read(store, size).await? > 0 {}
        assert_eq!((reader.seen == all.seen, reader.last), (true, all.last), "pages of {size}");
    }
    assert_eq!(store.feed(all.last, 10).await?, []);
    assert_eq!(store.feed(0, 0).await?, []);
    Ok(())
}

/// While many write at once, a reader with a cursor is shown each event exactly once; a large batch like a small one.
pub async fn readers_of_the_feed_miss_nothing_among_many_writers(store: &dyn TaskStore) -> Result<()> {
    const WRITERS: usize = 12;
    const ROUNDS: usize = 12;
    let write = async |number: usize| -> Result<Vec<(TaskId, Vec<Event>)>> {
        let mut written = Vec::new();
        for round in 0..ROUNDS {
            let mut lives: Vec<_> = (0..=(number + round) % 5).map(|_| Life::new()).collect();
            store_all(store, &mut lives).await?;
            for life in &mut lives {
                life.claimed();
                for n in 0..if (number, round) == (0, 0) { 1_500 } else { 2 } {
                    life.then(Command::Report(Progress { fraction: None, message: n.to_string() }), START);
                }
            }
            store_all(store, &mut lives).await?;
            store_all(store, lives.iter_mut().map(Life::completed)).await?;
            written.extend(lives.into_iter().map(|life| (life.id(), life.events)));
        }
        Ok(written)
    };
    let writers = async {
        let written: Result<Vec<_>> = join_all((0..WRITERS).map(write)).await.into_iter().collect();
        Ok(written?.into_iter().flatten().collect::<BTreeMap<_, _>>())
    };
    let mut readers = [Reader::default(), Reader::default()];
    let done = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::SeqCst;
    let read = async {
        while !done.load(order) {
            for (reader, size) in readers.iter_mut().zip([7, 1_000]) {
                reader.read(store, size).await?;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        Ok(())
    };
    let writers = async {
        let written = writers.await;
        done.store(true, order);
        written
    };
    let (written, ()) = try_join(writers, read).await?;
    let expected: usize = written.values().map(Vec::len).sum();
    for mut reader in readers {
        eventually("every event is shown", async || {
            while reader.read(store, 1_000).await? > 0 {}
            Ok(reader.count >= expected)
        })
        .await?;
        assert_eq!(reader.count, expected, "each once");
        assert!(reader.seen == written, "in the order of each task");
    }
    Ok(())
}
