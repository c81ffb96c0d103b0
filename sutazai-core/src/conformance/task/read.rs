//! What loads, lists and pages of events guarantee.

use std::time::Duration;

use super::{Life, START, claim_of, request, store_all};
use crate::{
    engine::Command,
    error::{ErrorKind, Result},
    payload::Payload,
    store::{Delivery, KeptAnswer, Posted, TaskQuery, TaskStore},
    task::{TaskId, TaskState},
};

/// One answer for each id in the order asked, also for unknown and repeated ones.
pub async fn loads_answer_in_order(store: &dyn TaskStore) -> Result<()> {
    let (mut first, mut second, unknown) = (Life::new(), Life::new(), Life::new());
    store_all(store, [&mut first, &mut second]).await?;
    let found = store.load(&[second.id(), unknown.id(), first.id(), second.id()]).await?;
    let (first, second) = (first.task().clone(), second.task().clone());
    assert_eq!(found, [Some(second.clone()), None, Some(first), Some(second)]);
    Ok(())
}

/// Lists are ordered by id, newest first, whatever order the tasks were stored in.
pub async fn lists_are_newest_first(store: &dyn TaskStore) -> Result<()> {
    let mut lives: Vec<_> = (0..10).map(|_| Life::new()).collect();
    store_all(store, lives.iter_mut().rev()).await?;
    let page = store.list(&TaskQuery { limit: 100, ..TaskQuery::default() }).await?;
    let newest_first: Vec<_> = lives.iter().rev().map(|life| life.task().clone()).collect();
    assert!(page.items == newest_first && !page.more);
    let none = store.list(&TaskQuery::default()).await?;
    assert!(none.items.is_empty(), "a limit of 0 gives an empty page");
    Ok(())
}

/// Reads a list to its end in pages of `size`.
async fn all_pages(store: &dyn TaskStore, query: &TaskQuery, size: usize) -> Result<Vec<TaskId>> {
    let (mut query, mut found) = (TaskQuery { limit: size, ..query.clone() }, Vec::new());
    loop {
        let page = store.list(&query).await?;
        assert!(
            page.items.len() <= size && (!page.more || page.items.len() == size),
            "a page with more after it is full"
        );
        found.extend(page.items.iter().map(|task| task.id));
        query.before = found.last().copied();
        if !page.more {
            return Ok(found);
        }
        assert!(found.len() < 1_000, "a list ends");
    }
}

/// Pages of any size give each task once, also while newer ones arrive.
pub async fn lists_page_without_gaps_or_repeats(store: &dyn TaskStore) -> Result<()> {
    let mut lives: Vec<_> = (0..23).map(|_| Life::new()).collect();
    store_all(store, &mut lives).await?;
    let expected: Vec<_> = lives.iter().rev().map(Life::id).collect();
    for size in [1, 5, 22, 23, 24] {
        assert_eq!(all_pages(store, &TaskQuery::default(), size).await?, expected, "pages of {size}");
    }
    let first = store.list(&TaskQuery { limit: 10, ..TaskQuery::default() }).await?;
    assert!(first.more);
    store_all(store, [&mut Life::new()]).await?;
    let rest = TaskQuery { limit: 50, before: first.items.last().map(|task| task.id), ..TaskQuery::default() };
    let rest = store.list(&rest).await?;
    assert_eq!(rest.items.iter().map(|task| task.id).collect::<Vec<_>>(), expected[10..]);
    Ok(())
}

/// Every condition of a query must hold, alone and together, in any state.
pub async fn filters_all_hold(store: &dyn TaskStore) -> Result<()> {
    let parent = Life::new().id();
    let mut lives = Vec::new();
    for n in 0..48_u32 {
        let mut asked = request().label("n", (n % 3).to_string());
        if n % 2 == 0 {
            asked = asked.label("even", "yes");
        }
        asked.tenant = if n % 4 == 0 { "acme" } else { "default" }.into();
        asked.parent_id = (n % 5 == 0).then_some(parent);
        let mut life = Life::of_agent(if n % 3 == 0 { "echo" } else { "sleep" }, asked);
        match n % 6 {
            0 => {}
            1 => drop(life.claimed()),
            2 => drop(life.then(crate::engine::Command::Cancel, START)),
            3 => drop(life.then(crate::engine::Command::Expire, START)),
            _ => drop(life.claimed().completed()),
        }
        lives.push(life);
    }
    store_all(store, &mut lives).await?;
    let states = TaskState::ALL.map(Some);
    let agents = [None, Some("echo"), Some("sleep"), Some("nobody")];
    let tenants = [None, Some("acme"), Some("default")];
    let labels = [None, Some(("even", "yes")), Some(("n", "1")), Some(("n", "yes")), Some(("even", ""))];
    for state in [None].into_iter().chain(states) {
        for agent in agents {
            for tenant in tenants {
                for label in labels {
                    for parent in [None, Some(parent)] {
                        let query = TaskQuery {
                            state,
                            agent: agent.map(str::to_owned),
                            tenant: tenant.map(str::to_owned),
                            label: label.map(|(key, value)| (key.to_owned(), value.to_owned())),
                            parent,
                            ..TaskQuery::default()
                        };
                        let fits = |life: &&Life| {
                            let task = life.task();
                            state.is_none_or(|state| task.state == state)
                                && agent.is_none_or(|agent| &*task.agent == agent)
                                && tenant.is_none_or(|tenant| &*task.tenant == tenant)
                                && label
                                    .is_none_or(|(key, value)| task.labels.get(key).is_some_and(|found| found == value))
                                && parent.is_none_or(|parent| task.parent_id == Some(parent))
                        };
                        let expected: Vec<_> = lives.iter().rev().filter(fits).map(Life::id).collect();
                        assert_eq!(all_pages(store, &query, 7).await?, expected, "{query:?}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// Dead letters are what failed and was not discarded; live is what has not ended.
pub async fn dead_letters_and_live_tasks_are_listed(store: &dyn TaskStore) -> Result<()> {
    let mut lives: Vec<_> = (0..28).map(|_| Life::new()).collect();
    for (n, life) in lives.iter_mut().enumerate() {
        match n % 7 {
            0 => {}
            1 => drop(life.claimed()),
            2 => drop(life.then(Command::Cancel, START)),
            3 => drop(life.then(Command::Expire, START)),
            4 => drop(life.then(Command::Expire, START).then(Command::Discard, START)),
            5 => drop(life.claimed().completed()),
            _ => {
                life.then(Command::Expire, START);
                life.then(Command::Requeue { input: None, deadline: None }, START);
            }
        }
    }
    store_all(store, &mut lives).await?;
    for dead_letters in [false, true] {
        for live in [false, true] {
            for state in [None, Some(TaskState::Failed), Some(TaskState::Created)] {
                let query = TaskQuery { dead_letters, live, state, ..TaskQuery::default() };
                let fits = |life: &&Life| {
                    let task = life.task();
                    (!dead_letters || (task.state == TaskState::Failed && !task.discarded))
                        && (!live || task.finished_at.is_none())
                        && state.is_none_or(|state| task.state == state)
                };
                let expected: Vec<_> = lives.iter().rev().filter(fits).map(Life::id).collect();
                assert_eq!(all_pages(store, &query, 3).await?, expected, "{query:?}");
            }
        }
    }
    Ok(())
}

/// Events come in order, after a number, as many as asked; none for a task that does not exist.
pub async fn events_are_read_in_pages(store: &dyn TaskStore) -> Result<()> {
    let mut life = Life::new();
    store_all(store, [&mut life]).await?;
    store_all(store, [life.claimed()]).await?;
    for _ in 0..3 {
        life.then(crate::engine::Command::Recover { journal: 0 }, START).claimed();
    }
    life.completed();
    store_all(store, [&mut life]).await?;
    let all = life.events.clone();
    for after in 0..=all.len() + 1 {
        for limit in [0, 1, 2, 5, all.len(), usize::MAX] {
            let found = store.events(life.id(), after as u64, limit).await?;
            let expected: Vec<_> = all.iter().skip(after).take(limit).cloned().collect();
            assert_eq!(found, expected, "after {after}, limit {limit}");
        }
    }
    assert_eq!(store.events(Life::new().id(), 0, 10).await?, []);
    assert_eq!(store.events(life.id(), u64::MAX, 10).await?, []);
    Ok(())
}

/// After `close` every call fails as unavailable, and closing again is no fault.
pub async fn a_closed_store_is_unavailable(store: &dyn TaskStore) -> Result<()> {
    let mut life = Life::new();
    store_all(store, [&mut life]).await?;
    store.close().await?;
    let (node, record) = (super::node(), super::record("a", "a/1"));
    let (schedule, key, id) = (super::scheduled("s", None), super::key("k", 1), life.id());
    let (hold, nothing) = (Duration::ZERO, Payload::null());
    let kept = KeptAnswer { key: key.clone(), answer: nothing.clone(), at: START };
    let taken = Delivery { task: id, url: "".into(), posted: 0, failures: 0, due_at: Some(START), given_up: None };
    let errors = [
        store.write(&[Life::new().write()]).await.err(),
        store.claim(&claim_of(1, START)).await.err(),
        store.load(&[id]).await.err(),
        store.list(&TaskQuery { limit: 1, ..TaskQuery::default() }).await.err(),
        store.held_by(&node, 1).await.err(),
        store.overdue(START, 1).await.err(),
        store.next_due(START).await.err(),
        store.queue_depths().await.err(),
        store.queued().await.err(),
        store.events(id, 0, 1).await.err(),
        store.feed(0, 1).await.err(),
        store.journal(id, 0, 0, 1).await.err(),
        store.signals(id, "s", 0, 1).await.err(),
        store.join(&record, hold).await.err(),
        store.renew(&node, 0, hold).await.err(),
        store.lapsed().await.err(),
        store.part(&node).await.err(),
        store.nodes().await.err(),
        store.put_schedule(&schedule, None, None).await.err(),
        store.put_schedule(&schedule, None, Some(&kept)).await.err(),
        store.schedule("s").await.err(),
        store.schedules(None, 1).await.err(),
        store.due_schedules(START, 1).await.err(),
        store.drop_schedule("s").await.err(),
        store.deliveries(START, 1, hold).await.err(),
        store.posted(&taken, &Posted::UpTo(1), START).await.err(),
        store.revive(id, false, START).await.err(),
        store.undelivered(None, 1).await.err(),
        store.recall(&key).await.err(),
        store.remember(&key, &nothing, START).await.err(),
        store.ended(None, START, 1).await.err(),
        store.nth_newest(TaskState::Failed, 0).await.err(),
        store.purge(&[id], START).await.err(),
        store.ended_parents(1).await.err(),
        store.ping().await.err(),
    ];
    for error in errors {
        assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Unavailable));
    }
    store.close().await
}
