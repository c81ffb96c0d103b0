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

/// One that was taken at this moment, for no time.
fn delivery(life: &Life, posted: u64, failures: u32, millis: i64) -> Delivery {
    Delivery { task: life.id(), url: URL.into(), posted, failures, due_at: Some(at(millis)), given_up: None }
}

/// Takes the one that is due, and notes what became of it; whether it was noted.
async fn post(store: &dyn TaskStore, millis: i64, what: Posted) -> Result<bool> {
    let taken = due(store, millis).await?;
    assert_eq!(taken.len(), 1, "{taken:?}");
    store.posted(&taken[0], &what, at(millis)).await
}

fn later(posted: u64, failures: u32, millis: i64) -> Posted {
    Posted::Later { posted, failures, due_at: at(millis) }
}

fn given_up(posted: u64, failures: u32) -> Posted {
    Posted::GivenUp { posted, failures, why: "404: gone \u{1f980}".to_owned() }
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
    assert_eq!(due(store, 0).await?, [delivery(&hooked_one, 0, 0, 0)]);
    // Newer ones do not put it off.
    store_all(store, [hooked_one.then(Command::Cancel, at(50)), plain.then(Command::Cancel, at(50))]).await?;
    assert_eq!(due(store, 0).await?, [delivery(&hooked_one, 0, 0, 0)]);
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
    assert!(post(store, 0, later(0, 3, 1)).await?);
    assert!(post(store, 1, Posted::UpTo(1)).await?);
    assert_eq!(due(store, 90_000).await?, []);
    store_all(store, [life.then(Command::Claim { node: super::node() }, at(5))]).await?;
    assert_eq!(due(store, 4).await?, []);
    assert_eq!(due(store, 5).await?, [delivery(&life, 1, 0, 5)], "failures count anew");
    store_all(store, [life.then(Command::Complete { output: crate::payload::Payload::null() }, at(6))]).await?;
    assert!(post(store, 7, Posted::UpTo(3)).await?);
    assert_eq!(due(store, 6).await?, []);
    assert_eq!(due(store, 7).await?, [delivery(&life, 3, 0, 7)], "the end is still to be posted");
    assert!(post(store, 8, Posted::UpTo(4)).await?);
    assert_eq!(due(store, 90_000).await?, []);
    assert!(!store.posted(&delivery(&Life::new(), 0, 0, 8), &Posted::UpTo(1), at(9)).await?, "the task is gone");
    Ok(())
}

/// What failed is tried again at its moment, not before, whatever is new, from where it stands.
pub async fn what_failed_is_tried_later(store: &dyn TaskStore) -> Result<()> {
    let mut life = hooked();
    store_all(store, [&mut life]).await?;
    for failures in 1..4 {
        let (posted, now) = (u64::from(failures / 3), i64::from(failures) * 100);
        assert!(post(store, now - 100, later(posted, failures, now)).await?);
        if failures == 2 {
            store_all(store, [life.claimed()]).await?;
        }
        assert_eq!(due(store, now - 1).await?, []);
        assert_eq!(due(store, now).await?, [delivery(&life, posted, failures, now)]);
    }
    Ok(())
}

/// Who was frozen until its hold had passed and another had taken the delivery notes nothing any more: it neither moves what the other one is posting, nor
/// gives it up, nor ends its hold.
pub async fn a_late_note_changes_nothing(store: &dyn TaskStore) -> Result<()> {
    let mut life = hooked();
    store_all(store, [&mut life]).await?;
    let hold = Duration::from_millis(100);
    let frozen = store.deliveries(START, 1, hold).await?;
    let notes = [Posted::UpTo(1), later(0, 1, 1), given_up(0, 1)];
    let other = store.deliveries(at(100), 1, hold).await?;
    for note in &notes {
        assert!(!store.posted(&frozen[0], note, at(101)).await?, "{note:?}");
    }
    assert_eq!(due(store, 199).await?, [], "the other one's hold stands");
    assert!(store.posted(&other[0], &later(0, 1, 150), at(110)).await?);
    for note in &notes {
        assert!(!store.posted(&frozen[0], note, at(111)).await?, "{note:?}");
        assert!(!store.posted(&other[0], note, at(111)).await?, "a second note: {note:?}");
    }
    assert_eq!(due(store, 150).await?, [delivery(&life, 0, 1, 150)]);
    // Nobody has taken it since: the note counts, late as it is.
    let slow = store.deliveries(at(150), 1, hold).await?;
    assert!(store.posted(&slow[0], &Posted::UpTo(1), at(900)).await?);
    assert_eq!(due(store, 90_000).await?, []);
    Ok(())
}

/// What was given up is due no more, whatever is new, and listed newest first, until it is revived: where it stood, or after the newest event.
pub async fn what_was_given_up_is_listed_and_revived(store: &dyn TaskStore) -> Result<()> {
    let mut lives: Vec<_> = (0..6).map(|_| hooked()).collect();
    store_all(store, &mut lives).await?;
    assert!(store.undelivered(None, 10).await?.items.is_empty());
    for life in &lives[1..] {
        let posted = u64::from(life.id() == lives[3].id());
        let taken = due(store, 0).await?;
        let taken = taken.iter().find(|taken| taken.task == life.id()).expect("it is due");
        assert!(store.posted(taken, &given_up(posted, 2), START).await?);
    }
    store_all(store, lives.iter_mut().map(Life::claimed)).await?;
    assert_eq!(due(store, 90_000).await?, [delivery(&lives[0], 0, 0, 90_000)]);
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
    assert_eq!((listed[2].posted, listed[2].failures, listed[2].due_at, &*listed[2].url), (1, 2, None, URL));

    assert!(post(store, 90_000, Posted::UpTo(3)).await?);
    assert!(!store.revive(lives[0].id(), false, at(7)).await?, "it was not given up");
    assert!(store.revive(lives[3].id(), false, at(7)).await?);
    assert!(store.revive(lives[4].id(), true, at(7)).await?);
    assert!(!store.revive(lives[3].id(), true, at(8)).await?, "it is revived already");
    assert_eq!(store.undelivered(None, 10).await?.items.len(), 3);
    assert_eq!(due(store, 6).await?, []);
    assert_eq!(due(store, 7).await?, [delivery(&lives[3], 1, 0, 7)]);
    assert!(post(store, 7, Posted::UpTo(3)).await?);
    store_all(store, [lives[4].then(Command::Cancel, at(20))]).await?;
    assert_eq!(due(store, 30).await?, [delivery(&lives[4], 3, 0, 30)], "what is newer is posted");
    Ok(())
}

/// Who requeues a task has its events posted again, from where they were given up.
pub async fn a_requeue_revives_what_was_given_up(store: &dyn TaskStore) -> Result<()> {
    let mut lives = [hooked(), hooked()];
    store_all(store, &mut lives).await?;
    store_all(store, lives.iter_mut().map(|life| life.then(Command::Expire, at(1)))).await?;
    for life in &lives {
        let taken = due(store, 2).await?;
        let taken = taken.iter().find(|taken| taken.task == life.id()).expect("it is due");
        let what = if life.id() == lives[0].id() { given_up(1, 12) } else { later(1, 5, 100) };
        assert!(store.posted(taken, &what, at(2)).await?);
    }
    let requeue = || Command::Requeue { input: None, deadline: None };
    store_all(store, lives.iter_mut().map(|life| life.then(requeue(), at(3)))).await?;
    assert!(store.undelivered(None, 10).await?.items.is_empty());
    assert_eq!(due(store, 3).await?, [delivery(&lives[0], 1, 0, 3)]);
    assert!(post(store, 3, Posted::UpTo(9)).await?);
    assert_eq!(due(store, 100).await?, [delivery(&lives[1], 1, 5, 100)], "one that was not given up keeps its moment");
    Ok(())
}
