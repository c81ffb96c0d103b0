//! What listing and removing tasks that have ended guarantees.

use std::time::Duration;

use super::{Life, START, at, entries, holds, key, request, store_all, wake::signal};
use crate::{
    engine::Command,
    error::Result,
    store::{Ended, KEY_LIFE, POST_LIFE, Posted, Recalled, TaskQuery, TaskStore, TaskWrite, WriteOutcome},
    task::{TaskId, TaskState},
};

/// Ten lives of which every other has ended, one way or another.
async fn mixed(store: &dyn TaskStore) -> Result<Vec<Life>> {
    let mut lives: Vec<_> = (0..10).map(|_| Life::new()).collect();
    for (n, life) in lives.iter_mut().enumerate() {
        match n {
            1 | 7 => drop(life.then(Command::Cancel, at(7))),
            3 => drop(life.then(Command::Expire, at(5))),
            5 => drop(life.then(Command::Expire, at(5)).then(Command::Discard, at(6))),
            9 => drop(life.claimed().completed()),
            4 => drop(life.claimed()),
            _ => {}
        }
    }
    store_all(store, lives.iter_mut().rev()).await?;
    Ok(lives)
}

/// What has ended is listed by id, page by page, with its end; what was created later is not.
pub async fn the_ended_are_listed_by_id(store: &dyn TaskStore) -> Result<()> {
    let mut lives = mixed(store).await?;
    let mut late = Life::new();
    late.step.task.created_at = at(1);
    store_all(store, [late.then(Command::Cancel, at(9))]).await?;
    let expected: Vec<_> = lives
        .iter()
        .filter_map(|life| {
            let finished_at = life.task().finished_at?;
            Some(Ended { id: life.id(), state: life.task().state, finished_at })
        })
        .collect();
    assert_eq!(expected.len(), 5);
    for size in [1, 2, 5, 9] {
        let mut found: Vec<Ended> = Vec::new();
        loop {
            let page = store.ended(found.last().map(|last| last.id), at(1), size).await?;
            if page.is_empty() {
                break;
            }
            assert!(page.len() <= size);
            found.extend(page);
        }
        assert_eq!(found, expected, "pages of {size}");
    }
    assert_eq!(store.ended(None, START, 10).await?, [], "created before, not at");
    assert_eq!(store.ended(None, at(2), 10).await?.len(), 6);
    let requeue = Command::Requeue { input: None, deadline: None };
    store_all(store, [lives[3].then(requeue, at(8))]).await?;
    assert_eq!(store.ended(None, at(1), 10).await?.len(), 4, "what starts again has not ended");
    Ok(())
}

/// The tasks of a state are counted from the newest, by id.
pub async fn nth_newest_counts_from_the_newest(store: &dyn TaskStore) -> Result<()> {
    let lives = mixed(store).await?;
    for state in TaskState::ALL {
        let of_state: Vec<_> = lives.iter().rev().filter(|life| life.task().state == state).map(Life::id).collect();
        for n in 0..of_state.len() + 2 {
            assert_eq!(store.nth_newest(state, n as u64).await?, of_state.get(n).copied(), "{state} {n}");
        }
    }
    assert_eq!(store.nth_newest(TaskState::Cancelled, u64::MAX >> 1).await?, None);
    Ok(())
}

/// A task that is purged goes with its events, journal, signals, delivery and every key; others keep theirs.
pub async fn what_is_purged_leaves_nothing_behind(store: &dyn TaskStore) -> Result<()> {
    let make = |name: &str| {
        let asked = request().webhook("http://127.0.0.1:9/").label("a", "b").deadline(at(9_000));
        Life::of(asked).with_key(key(&format!("{name} insert"), 1))
    };
    let (mut gone, mut stays) = (make("gone"), make("stays"));
    for (life, name) in [(&mut gone, "gone"), (&mut stays, "stays")] {
        let mut batch = vec![life.claimed().write()];
        let (task, epoch) = (life.id(), life.task().revision.epoch);
        batch.push(TaskWrite::Append { task, epoch, era: 0, entries: entries(0..3), children: Vec::new() });
        let told = Some(key(&format!("{name} signal"), 1));
        batch.push(TaskWrite::Signal { task, signal: signal("go", 1), key: told });
        life.step.task.wakes = 1;
        if let TaskWrite::Update { task, expected, events, entries, .. } = life.then(Command::Cancel, at(2)).write() {
            let key = Some(key(&format!("{name} update"), 1));
            batch.push(TaskWrite::Update { task, expected, events, entries, key });
        }
        assert_eq!(store.write(&batch).await?, vec![WriteOutcome::Applied; 4]);
    }
    let (unknown, later) = (Life::new().id(), START.plus(POST_LIFE).plus(KEY_LIFE));
    assert_eq!(store.purge(&[], later).await?, 0);
    assert_eq!(store.purge(&[gone.id(), unknown, gone.id()], later).await?, 1);
    assert_eq!(store.purge(&[gone.id()], later).await?, 0);

    let id = gone.id();
    assert_eq!(store.load(&[id]).await?, [None]);
    assert_eq!(store.events(id, 0, 10).await?, []);
    assert_eq!(store.journal(id, 0, 0, 10).await?, []);
    assert_eq!(store.signals(id, "go", 0, 10).await?, []);
    assert!(store.feed(0, 100).await?.iter().all(|found| found.event.task_id != id));
    for name in ["insert", "signal", "update"] {
        assert_eq!(store.recall(&key(&format!("gone {name}"), 2)).await?, Recalled::New, "{name}");
        assert_eq!(store.recall(&key(&format!("stays {name}"), 2)).await?, Recalled::Conflict, "{name}");
    }
    let due = store.deliveries(at(9_000), 10, Duration::ZERO).await?;
    assert_eq!(due.iter().map(|found| found.task).collect::<Vec<TaskId>>(), [stays.id()]);
    let label = Some(("a".to_owned(), "b".to_owned()));
    let listed = store.list(&TaskQuery { label, limit: 10, ..TaskQuery::default() }).await?.items;
    assert_eq!(listed, [stays.task().clone()]);
    holds(store, &stays).await?;
    assert_eq!(store.journal(stays.id(), 0, 0, 10).await?, entries(0..3));
    assert_eq!(store.signals(stays.id(), "go", 0, 10).await?.len(), 1);
    Ok(())
}

/// Whoever has not ended is left alone, as are parents and children of what goes.
pub async fn what_has_not_ended_is_not_purged(store: &dyn TaskStore) -> Result<()> {
    let mut parent = Life::new();
    let mut asked = request();
    asked.parent_id = Some(parent.id());
    let mut child = Life::of(asked);
    store_all(store, [parent.then(Command::Cancel, at(1)), child.claimed()]).await?;
    let lives = mixed(store).await?;
    let all: Vec<_> = lives.iter().map(Life::id).collect();
    assert_eq!(store.purge(&all, at(9)).await?, 5);
    for life in &lives {
        let found = super::load_one(store, life.id()).await?;
        assert_eq!(found.as_ref(), (!life.task().state.is_terminal()).then_some(life.task()));
    }
    assert_eq!(store.purge(&[parent.id(), child.id()], at(9)).await?, 1);
    holds(store, &child).await?;
    store_all(store, [child.completed()]).await?;
    holds(store, &child).await?;
    let query = TaskQuery { parent: Some(parent.id()), limit: 10, ..TaskQuery::default() };
    assert_eq!(store.list(&query).await?.items.len(), 1, "a child says whose it was");
    Ok(())
}

/// A key keeps its task for a day after the end, and a day after it was used for a task that was there.
pub async fn a_key_keeps_its_task_for_a_day(store: &dyn TaskStore) -> Result<()> {
    let day = |millis| at(millis).plus(KEY_LIFE);
    let mut born = Life::new().with_key(key("insert", 1));
    let mut told = Life::new();
    let again = TaskWrite::Insert {
        task: born.step.task.clone().into(),
        events: Vec::new(),
        key: Some(key("insert", 1)),
        journal: None,
    };
    store_all(store, [born.claimed(), &mut told]).await?;
    let signal = TaskWrite::Signal { task: told.id(), signal: signal("go", 50), key: Some(key("signal", 1)) };
    told.step.task.wakes = 1;
    assert_eq!(store.write(&[signal]).await?, [WriteOutcome::Applied]);
    store_all(store, [born.then(Command::Cancel, at(20)), told.then(Command::Cancel, at(60))]).await?;
    assert_eq!(store.purge(&[born.id(), told.id()], day(19)).await?, 0);
    let replayed = store.write(&[again]).await?;
    assert_eq!(replayed, [WriteOutcome::Replayed(Box::new(born.task().clone()))]);
    assert_eq!(store.purge(&[born.id(), told.id()], day(20)).await?, 1);
    assert_eq!(store.purge(&[born.id(), told.id()], day(59)).await?, 0);
    assert_eq!(store.purge(&[born.id(), told.id()], day(60)).await?, 1);
    Ok(())
}

/// A task with news to be posted stays until they are posted or given up, but not for ever.
pub async fn news_to_be_posted_keep_their_task(store: &dyn TaskStore) -> Result<()> {
    let mut lives: Vec<_> = (0..4).map(|_| Life::of(request().webhook("http://127.0.0.1:9/"))).collect();
    store_all(store, &mut lives).await?;
    store_all(store, lives.iter_mut().map(|life| life.then(Command::Cancel, at(5)))).await?;
    let ids: Vec<_> = lives.iter().map(Life::id).collect();
    let mut taken = store.deliveries(at(6), 10, Duration::from_secs(60)).await?;
    taken.sort_by_key(|delivery| delivery.task);
    assert_eq!(taken.iter().map(|delivery| delivery.task).collect::<Vec<_>>(), ids);
    assert_eq!(store.purge(&ids, at(7)).await?, 0);
    let whats = [
        Posted::UpTo(lives[0].task().revision.seq),
        Posted::GivenUp { posted: 0, failures: 1, why: "gone".into() },
        Posted::Later { posted: 0, failures: 1, due_at: at(90_000) },
    ];
    for (taken, what) in taken.iter().zip(&whats) {
        assert!(store.posted(taken, what, at(8)).await?);
    }
    assert_eq!(store.purge(&ids, at(9)).await?, 2);
    assert_eq!(store.purge(&ids, at(4).plus(POST_LIFE)).await?, 0);
    assert_eq!(store.purge(&ids, at(5).plus(POST_LIFE)).await?, 2, "nobody is there who posts");
    Ok(())
}
