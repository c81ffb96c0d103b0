//! What `write` guarantees: order, one by one, revisions, idempotency, bytes, durability.

use std::{ops::AsyncFn, time::Duration};

use futures_util::future::join_all;

use super::{Life, START, at, holds, key, load_one, request, store_all};
use crate::{
    engine::Command,
    error::Result,
    payload::Payload,
    store::{Held, Recalled, TaskQuery, TaskStore, TaskWrite, WriteOutcome},
    task::{Priority, Progress, RetryPolicy, Revision, TaskError, TaskRequest},
};

/// An empty batch does nothing and succeeds.
pub async fn an_empty_batch_does_nothing(store: &dyn TaskStore) -> Result<()> {
    assert_eq!(store.write(&[]).await?, []);
    assert_eq!(store.load(&[]).await?, []);
    let page = store.list(&TaskQuery { limit: 10, ..TaskQuery::default() }).await?;
    assert!(page.items.is_empty() && !page.more);
    store.ping().await
}

/// Every field of a task and of its events is kept.
pub async fn tasks_come_back_as_they_were(store: &dyn TaskStore) -> Result<()> {
    let parent = Life::new();
    let mut plain = Life::new();
    let mut asked = request()
        .label("team", "söz")
        .label("quote'\"", "a\nb\\")
        .priority(Priority::MAX)
        .deadline(at(60_000))
        .retry(RetryPolicy { max_attempts: u32::MAX, initial_ms: u64::MAX, max_ms: u64::MAX });
    asked.tenant = "acme".into();
    asked.parent_id = Some(parent.id());
    let mut full = Life::of(asked);
    store_all(store, [&mut plain, &mut full]).await?;
    holds(store, &plain).await?;
    holds(store, &full).await?;

    full.then(Command::Claim { node: super::node() }, at(5));
    full.then(Command::Report(Progress { fraction: Some(0.1 + 0.2), message: "half 🦀".into() }), at(6));
    full.then(Command::Report(Progress { fraction: None, message: String::new() }), at(7));
    store_all(store, [&mut full]).await?;
    holds(store, &full).await?;

    let error = TaskError::new("model_timeout", "it's late: \u{0}\t\"quoted\"");
    full.then(Command::Fail { error, retry: Some(Duration::from_millis(40)), random: 0 }, at(8));
    store_all(store, [&mut full]).await?;
    holds(store, &full).await?;

    full.then(Command::Expire, at(60_000));
    store_all(store, [&mut full]).await?;
    holds(store, &full).await
}

/// Payloads keep their spaces, escapes and precision, large ones too.
pub async fn payloads_come_back_byte_for_byte(store: &dyn TaskStore) -> Result<()> {
    let texts = [
        "null".to_owned(),
        " { \"b\" : 1.0e+5,\n\t\"a\":0.1000, \"b\":2 } ".to_owned(),
        "\"Köln 東京 🦀 \\ud83e\\udd80 \\u0000 \\/ '; drop table tasks; --\"".to_owned(),
        "123456789012345678901234567890.10".to_owned(),
        format!("\"{}\"", "ß".repeat(512 * 1024)),
    ];
    for text in texts {
        let mut life = Life::of(request());
        life.step.task.input = Payload::from_text(text.clone())?;
        store_all(store, [&mut life]).await?;
        life.claimed().then(Command::Complete { output: Payload::from_text(text.clone())? }, START);
        store_all(store, [&mut life]).await?;
        let found = load_one(store, life.id()).await?;
        let output = found.as_ref().and_then(|task| task.output.as_ref());
        assert!(found.as_ref().is_some_and(|task| task.input.as_str() == life.task().input.as_str()), "{text:.80}");
        assert!(output.map(Payload::as_str) == life.task().output.as_ref().map(Payload::as_str), "{text:.80}");
    }
    Ok(())
}

/// Outcomes stand in the order of the batch; a refused member harms no other and leaves nothing behind.
pub async fn members_answer_in_order_and_fail_one_by_one(store: &dyn TaskStore) -> Result<()> {
    let (mut first, mut second, mut unknown) = (Life::new(), Life::new(), Life::new());
    let insert = first.write();
    let _never_stored = unknown.write();
    unknown.claimed();
    let batch = [insert.clone(), unknown.write(), insert, second.write()];
    let outcomes = store.write(&batch).await?;
    assert_eq!(outcomes, [WriteOutcome::Applied, WriteOutcome::Stale, WriteOutcome::Stale, WriteOutcome::Applied]);
    holds(store, &first).await?;
    holds(store, &second).await?;
    assert_eq!(load_one(store, unknown.id()).await?, None);
    assert_eq!(store.events(unknown.id(), 0, 10).await?, []);
    Ok(())
}

/// Several writes of one task in one batch take effect in order, from its insert or from where it stands.
pub async fn one_batch_may_hold_a_whole_life(store: &dyn TaskStore) -> Result<()> {
    let (mut whole, mut other) = (Life::of(request().label("a", "b")), Life::new());
    let mut batch = vec![whole.write(), other.write()];
    batch.push(whole.claimed().write());
    batch.push(whole.then(Command::Report(Progress { fraction: Some(0.5), message: "on".into() }), at(1)).write());
    batch.push(other.claimed().write());
    batch.push(whole.completed().write());
    assert_eq!(store.write(&batch).await?, vec![WriteOutcome::Applied; batch.len()]);
    holds(store, &whole).await?;
    holds(store, &other).await?;

    let batch = [
        other.then(Command::Recover { journal: 0 }, at(2)).write(),
        other.then(Command::Claim { node: super::node() }, at(3)).write(),
        other.completed().write(),
    ];
    assert_eq!(store.write(&batch).await?, vec![WriteOutcome::Applied; batch.len()]);
    holds(store, &other).await?;

    let mut finished = Life::new();
    finished.claimed().completed();
    store_all(store, [&mut finished]).await?;
    holds(store, &finished).await
}

/// A stale write between good ones of the same task changes nothing for them.
pub async fn a_batch_goes_on_past_a_stale_member(store: &dyn TaskStore) -> Result<()> {
    let mut life = Life::new();
    let insert = life.write();
    let claim = life.claimed().write();
    let complete = life.completed().write();
    let batch = [insert.clone(), complete.clone(), claim.clone(), claim, insert, complete];
    let outcomes = store.write(&batch).await?;
    let applied: Vec<_> = outcomes.iter().map(|outcome| *outcome == WriteOutcome::Applied).collect();
    assert_eq!(applied, [true, false, true, false, false, true], "{outcomes:?}");
    holds(store, &life).await
}

/// Only a write that states the current revision is stored, and a task that exists is not inserted again.
pub async fn stale_revisions_are_refused(store: &dyn TaskStore) -> Result<()> {
    let mut life = Life::new();
    let insert = life.write();
    store.write(std::slice::from_ref(&insert)).await?;
    let current = life.task().revision;
    life.claimed();
    let next = life.write();
    for wrong in [
        Revision { epoch: current.epoch + 1, ..current },
        Revision { seq: current.seq + 1, ..current },
        Revision { seq: current.seq - 1, ..current },
        life.task().revision,
    ] {
        let TaskWrite::Update { task, events, entries, key, .. } = next.clone() else { continue };
        let stale = TaskWrite::Update { task, expected: wrong, events, entries, key };
        assert_eq!(store.write(&[stale]).await?, [WriteOutcome::Stale], "{wrong:?}");
        assert_eq!(store.events(life.id(), 0, 10).await?.len(), 1, "a refused write leaves no event");
    }
    assert_eq!(store.write(std::slice::from_ref(&next)).await?, [WriteOutcome::Applied]);
    // Again, as after an answer that got lost: neither is stored twice.
    assert_eq!(store.write(&[insert, next]).await?, [WriteOutcome::Stale, WriteOutcome::Stale]);
    holds(store, &life).await
}

/// A used key with the same fingerprint answers with the first task as it now is, in the same batch and later.
pub async fn a_key_replays_its_first_task(store: &dyn TaskStore) -> Result<()> {
    let mut first = Life::of(request().label("a", "b")).with_key(key("order-1", 1));
    let mut again = Life::new().with_key(key("order-1", 1));
    let other = Life::new();
    let outcomes = store.write(&[first.write(), again.write()]).await?;
    assert_eq!(outcomes, [WriteOutcome::Applied, WriteOutcome::Replayed(Box::new(first.task().clone()))]);

    first.claimed().completed();
    store_all(store, [&mut first]).await?;
    let mut late = Life::new().with_key(key("order-1", 1));
    let mut fresh = Life::new().with_key(key("order-2", 1));
    let outcomes = store.write(&[late.write(), fresh.write()]).await?;
    assert_eq!(outcomes, [WriteOutcome::Replayed(Box::new(first.task().clone())), WriteOutcome::Applied]);
    // The very same insert again, as after an answer that got lost.
    let mut repeated = Life::new().with_key(key("order-1", 1));
    repeated.step.task.id = first.id();
    let outcomes = store.write(&[repeated.write()]).await?;
    assert_eq!(outcomes, [WriteOutcome::Replayed(Box::new(first.task().clone()))]);
    for id in [again.id(), late.id(), other.id()] {
        assert_eq!(load_one(store, id).await?, None, "nothing is stored for a replay");
        assert_eq!(store.events(id, 0, 10).await?, []);
    }
    holds(store, &first).await?;
    holds(store, &fresh).await
}

/// A used key with another fingerprint is refused, in the same batch and later, and nothing is stored.
pub async fn a_key_with_another_request_is_a_conflict(store: &dyn TaskStore) -> Result<()> {
    let mut first = Life::new().with_key(key("order-1", 1));
    let (mut other, mut late) = (Life::new().with_key(key("order-1", 2)), Life::new().with_key(key("order-1", 3)));
    let outcomes = store.write(&[first.write(), other.write()]).await?;
    assert_eq!(outcomes, [WriteOutcome::Applied, WriteOutcome::KeyConflict]);
    assert_eq!(store.write(&[late.write()]).await?, [WriteOutcome::KeyConflict]);
    assert_eq!(store.load(&[other.id(), late.id()]).await?, [None, None]);
    holds(store, &first).await
}

/// The same key of two tenants is two keys.
pub async fn keys_belong_to_tenants(store: &dyn TaskStore) -> Result<()> {
    let mut ours = Life::new().with_key(key("order-1", 1));
    let mut asked = request();
    asked.tenant = "acme".into();
    let mut theirs = key("order-1", 2);
    theirs.tenant = "acme".into();
    let mut theirs = Life::of(asked).with_key(theirs);
    store_all(store, [&mut ours, &mut theirs]).await?;
    holds(store, &ours).await?;
    holds(store, &theirs).await
}

/// An insert that is refused because its id exists does not use up its key.
pub async fn a_refused_insert_leaves_its_key_free(store: &dyn TaskStore) -> Result<()> {
    let mut first = Life::new();
    store_all(store, [&mut first]).await?;
    let mut twin = Life::new().with_key(key("order-1", 1));
    twin.step.task.id = first.id();
    assert_eq!(store.write(&[twin.write()]).await?, [WriteOutcome::Stale]);
    let mut next = Life::new().with_key(key("order-1", 2));
    store_all(store, [&mut next]).await?;
    holds(store, &next).await
}

/// Of a hundred batches that race with one key exactly one stores its task, and all others answer with it.
pub async fn of_racing_inserts_with_one_key_one_is_stored(store: &dyn TaskStore) -> Result<()> {
    let batches: Vec<_> =
        (0..100).map(|_| [Life::new().write(), Life::new().with_key(key("order-1", 1)).write()]).collect();
    let answers = join_all(batches.iter().map(|batch| store.write(batch))).await;
    let (mut winners, mut replayed) = (Vec::new(), Vec::new());
    for (batch, answer) in batches.iter().zip(answers) {
        match answer?.as_slice() {
            [WriteOutcome::Applied, WriteOutcome::Applied] => winners.push(batch[1].id()),
            [WriteOutcome::Applied, WriteOutcome::Replayed(first)] => replayed.push(first.id),
            other => assert!(other.is_empty(), "{other:?}"),
        }
    }
    assert_eq!((winners.len(), replayed.len()), (1, 99));
    assert!(replayed.iter().all(|id| *id == winners[0]));
    Ok(())
}

/// Of many updates that race from one revision exactly one is stored.
pub async fn of_racing_updates_one_is_stored(store: &dyn TaskStore) -> Result<()> {
    let mut life = Life::new();
    store_all(store, [&mut life]).await?;
    let update = [life.claimed().write()];
    let answers = join_all((0..50).map(|_| store.write(&update))).await;
    let answers: Vec<_> = answers.into_iter().collect::<Result<_>>()?;
    let applied = answers.iter().filter(|outcomes| **outcomes == [WriteOutcome::Applied]).count();
    let stale = answers.iter().filter(|outcomes| **outcomes == [WriteOutcome::Stale]).count();
    assert_eq!((applied, stale), (1, 49));
    holds(store, &life).await
}

/// A batch of thousands, of every size on the way there, is stored like a small one.
pub async fn batches_may_be_large(store: &dyn TaskStore) -> Result<()> {
    for size in [1, 2, 7, 9, 63, 65, 300, 2_500] {
        let mut lives: Vec<_> = (0..size).map(|_| Life::of(request().label("size", size.to_string()))).collect();
        for life in lives.iter_mut().step_by(3) {
            life.claimed().completed();
        }
        store_all(store, &mut lives).await?;
        let halves = lives.iter_mut().skip(1).step_by(3).map(Life::claimed);
        store_all(store, halves).await?;
        let ids: Vec<_> = lives.iter().map(Life::id).collect();
        let found = store.load(&ids).await?;
        assert!(found.iter().zip(&lives).all(|(found, life)| found.as_ref() == Some(life.task())), "batch of {size}");
        for life in lives.iter().rev().take(4) {
            holds(store, life).await?;
        }
    }
    Ok(())
}

/// An update changes the input where its events say so, and nowhere else.
pub async fn the_input_changes_only_with_an_event_that_says_so(store: &dyn TaskStore) -> Result<()> {
    let mut life = Life::of(TaskRequest::new("echo", Payload::of(&1)?));
    store_all(store, [&mut life]).await?;
    life.claimed().step.task.input = Payload::of(&2)?;
    store_all(store, [&mut life]).await?;
    life.step.task.input = Payload::of(&1)?;
    holds(store, &life).await?;
    store_all(store, [life.then(Command::Continue { input: Payload::of(&3)? }, at(1))]).await?;
    holds(store, &life).await?;
    store_all(store, [life.then(Command::Expire, at(2))]).await?;
    store_all(store, [life.then(Command::Requeue { input: Some(Payload::of(&4)?), deadline: None }, at(3))]).await?;
    holds(store, &life).await?;
    store_all(store, [life.then(Command::Expire, at(4))]).await?;
    life.then(Command::Requeue { input: None, deadline: Some(at(9)) }, at(5)).step.task.input = Payload::of(&5)?;
    store_all(store, [&mut life]).await?;
    life.step.task.input = Payload::of(&4)?;
    holds(store, &life).await?;
    // The next input in one write with what came before it.
    life.then(Command::Claim { node: super::node() }, at(6)).then(Command::Continue { input: Payload::of(&6)? }, at(6));
    store_all(store, [life.then(Command::Claim { node: super::node() }, at(7))]).await?;
    holds(store, &life).await
}

/// What was acknowledged is there when the store is opened again: tasks, events, keys and the order of work. For durable stores; `open` opens the same data each time.
pub async fn acknowledged_writes_survive<S: TaskStore>(open: impl AsyncFn() -> S) -> Result<()> {
    let mut done = Life::of(request().label("a", "b")).with_key(key("order-1", 1));
    let (mut held, mut free) = (Life::new(), Life::of(request().deadline(at(9_000)).webhook("http://127.0.0.1:9/")));
    let store = open().await;
    assert!(store.info().durable);
    store_all(&store, [&mut done, &mut held, &mut free]).await?;
    store_all(&store, [done.claimed().completed(), held.claimed()]).await?;
    let (task, epoch) = (held.id(), held.task().revision.epoch);
    let append = TaskWrite::Append { task, epoch, era: 0, entries: super::entries(0..2), children: Vec::new() };
    let signal = TaskWrite::Signal { task, signal: super::signal("go", 1), key: None };
    assert_eq!(store.write(&[append, signal]).await?, [WriteOutcome::Applied, WriteOutcome::Applied]);
    held.step.task.wakes = 1;
    assert!(store.put_schedule(&super::scheduled("daily", Some(START)), None, None).await?);
    store.remember(&key("answer", 1), &Payload::of(&7)?, super::wall()).await?;
    let feed = store.feed(0, 100).await?;
    store.close().await?;
    drop(store);

    let store = open().await;
    for life in [&done, &held, &free] {
        holds(&store, life).await?;
    }
    let mut again = Life::new().with_key(key("order-1", 1));
    assert_eq!(store.write(&[again.write()]).await?, [WriteOutcome::Replayed(Box::new(done.task().clone()))]);
    let found = Held { task: held.task().clone(), journal: 2 };
    assert_eq!(store.held_by(&super::node(), 10).await?, [found]);
    assert_eq!(store.journal(held.id(), 0, 0, 10).await?, super::entries(0..2));
    assert_eq!(store.signals(held.id(), "go", 0, 10).await?, [super::signal("go", 1)]);
    assert_eq!(store.schedule("daily").await?, Some(super::scheduled("daily", Some(START))));
    assert_eq!(store.recall(&key("answer", 1)).await?, Recalled::Answered(Payload::of(&7)?));
    assert_eq!(store.deliveries(START, 10, Duration::ZERO).await?.len(), 1);
    assert_eq!(store.feed(0, 100).await?, feed);
    assert_eq!(store.overdue(at(9_000), 10).await?, [free.task().clone()]);
    let claimed = store.claim(&super::claim_of(10, START)).await?;
    assert_eq!(claimed.tasks.iter().map(|task| task.id).collect::<Vec<_>>(), [free.id()]);
    store.close().await
}
