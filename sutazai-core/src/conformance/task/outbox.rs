//! What deliveries guarantee: every event of a task with a webhook is posted until somebody gives up.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;

use super::{Life, START, at, request, store_all};
use crate::{
    engine::Command,
    error::Result,
    store::{Delivery, Posted, TaskStore},
};

const URL: &str = "http://127.0.0.1:9/hooks?a=b";

fn hooked() -> Life {
    Life::of(request().webhook(URL))
}

fn delivery(life: &Life, posted: u64, failures: u32) -> Delivery {
    Delivery { task: life.id(), url: URL.into(), posted, failures, given_up: None }
}

/// Takes what is due and gives it back at once.
async fn due(store: &dyn TaskStore, millis: i64) -> Result<Vec<Delivery>> {
    store.deliveries(at(millis), 100, Duration::ZERO).await
}

/// A task with a webhook has something to post from its first event on; others never.
pub async fn news_are_due_to_be_posted(store: &dyn TaskStore) -> Result<()> {
    let (mut plain, mut hooked_one) = (Life::new(), hooked());
    store_all(store, [&mut plain, &mut hooked_one]).await?;
    assert_eq!(due(store, -1).await?, []);
    assert_eq!(due(store, 0).await?, [delivery(&hooked_one, 0, 0)]);
    // Newer ones do not put it off.
    store_all(store, [hooked_one.then(Command::Cancel, at(50)), plain.then(Command::Cancel, at(50))]).await?;
    assert_eq!(due(store, 0).await?, [delivery(&hooked_one, 0, 0)]);
    Ok(())
}

/// What is taken is nobody else's while it is held; then it is due again.
pub async fn what_is_taken_is_held(store: &dyn TaskStore) -> Result<()> {
    let mut lives: Vec<_> = (0..30).map(|_| hooked()).collect();
    store_all(store, &mut lives).await?;
    let hold = Duration::from_millis(500);
    let taken = join_all((0..5).map(|_| store.deliveries(START, 4, hold))).await;
    let taken: Vec<_> = taken.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    let once: BTreeSet<_> = taken.iter().map(|delivery| delivery.task).collect();
    assert_eq!((taken.len(), once.len()), (20, 20), "each is given once");
    let rest: BTreeSet<_> = store.deliveries(at(499), 100, hold).await?.iter().map(|found| found.task).collect();
    assert_eq!((rest.len(), rest.is_disjoint(&once)), (10, true));
    store_all(store, lives.iter_mut().map(Life::claimed)).await?;
    let again: BTreeSet<_> = store.deliveries(at(500), 100, hold).await?.iter().map(|found| found.task).collect();
    assert_eq!(again, once, "news do not end a hold");
    Ok(())
}

/// What is posted is due again as soon as there are newer events, those that came meanwhile included.
pub async fn what_is_posted_waits_for_news(store: &dyn TaskStore) -> Result<()> {
    let mut life = hooked();
    store_all(store, [&mut life]).await?;
    store.posted(life.id(), &Posted::Failed { retry_at: at(1) }, START).await?;
    store.posted(life.id(), &Posted::UpTo(1), at(1)).await?;
    assert_eq!(due(store, 90_000).await?, []);
    store_all(store, [life.then(Command::Claim { node: super::node() }, at(5))]).await?;
    assert_eq!(due(store, 4).await?, []);
    assert_eq!(due(store, 5).await?, [delivery(&life, 1, 0)], "failures count anew");
    store_all(store, [life.then(Command::Complete { output: crate::payload::Payload::null() }, at(6))]).await?;
    store.posted(life.id(), &Posted::UpTo(3), at(7)).await?;
    assert_eq!(due(store, 6).await?, []);
    assert_eq!(due(store, 7).await?, [delivery(&life, 3, 0)], "the end is still to be posted");
    store.posted(life.id(), &Posted::UpTo(4), at(8)).await?;
    assert_eq!(due(store, 90_000).await?, []);
    store.posted(Life::new().id(), &Posted::UpTo(1), at(9)).await // of a task that is gone: no fault
}

/// What failed is tried again at its moment, not before, whatever is new; the failures are counted.
pub async fn what_failed_is_tried_later(store: &dyn TaskStore) -> Result<()> {
    let mut life = hooked();
    store_all(store, [&mut life]).await?;
    for failures in 1..4 {
        let retry_at = at(i64::from(failures) * 100);
        store.posted(life.id(), &Posted::Failed { retry_at }, at(1)).await?;
        if failures == 2 {
            store_all(store, [life.claimed()]).await?;
        }
        assert_eq!(due(store, i64::from(failures) * 100 - 1).await?, []);
        assert_eq!(due(store, i64::from(failures) * 100).await?, [delivery(&life, 0, failures)]);
    }
    Ok(())
}

/// What was given up is due no more, whatever is new, and listed newest first, until it is revived where it stood.
pub async fn what_was_given_up_is_listed_and_revived(store: &dyn TaskStore) -> Result<()> {
    let mut lives: Vec<_> = (0..5).map(|_| hooked()).collect();
    store_all(store, &mut lives).await?;
    assert!(store.undelivered(None, 10).await?.items.is_empty());
    store.posted(lives[3].id(), &Posted::UpTo(1), START).await?;
    for life in &lives[1..] {
        store.posted(life.id(), &Posted::Failed { retry_at: START }, START).await?;
        store.posted(life.id(), &Posted::GivenUp { why: "404: gone \u{1f980}".to_owned() }, START).await?;
    }
    store_all(store, lives.iter_mut().map(Life::claimed)).await?;
    assert_eq!(due(store, 90_000).await?, [delivery(&lives[0], 0, 0)]);
    let mut listed = Vec::new();
    loop {
        let page = store.undelivered(listed.last().map(|last: &Delivery| last.task), 2).await?;
        assert!(!page.more || page.items.len() == 2, "a page with more after it is full");
        listed.extend(page.items);
        if !page.more {
            break;
        }
    }
    let newest_first: Vec<_> = lives[1..].iter().rev().map(Life::id).collect();
    assert_eq!(listed.iter().map(|found| found.task).collect::<Vec<_>>(), newest_first);
    assert!(listed.iter().all(|found| found.given_up.as_deref() == Some("404: gone \u{1f980}")));
    assert_eq!((listed[1].posted, &*listed[1].url), (1, URL));

    store.posted(lives[3].id(), &Posted::Revived, at(7)).await?;
    assert_eq!(store.undelivered(None, 10).await?.items.len(), 3);
    store.posted(lives[0].id(), &Posted::UpTo(3), at(7)).await?;
    assert_eq!(due(store, 6).await?, []);
    let found = due(store, 7).await?;
    let place: Vec<_> = found.iter().map(|found| (found.task, found.posted, found.given_up.is_none())).collect();
    assert_eq!(place, [(lives[3].id(), 1, true)]);
    Ok(())
}
