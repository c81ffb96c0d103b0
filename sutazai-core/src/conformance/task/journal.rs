//! What journals guarantee: fences, eras, copies, and children born with their entries.

use std::sync::Arc;

use futures_util::future::join_all;

use super::{Life, START, at, entries, entry, holds, load_one, node, request, store_all, write_one};
use crate::{
    engine::Command,
    error::Result,
    payload::Payload,
    store::{Child, JournalCopy, TaskStore, TaskWrite, WriteOutcome},
    task::{Entry, EntryId, EntryKind, Failure, Outcome, Task, TaskError, TaskId},
};

use WriteOutcome::{Applied, Stale};

/// More of the journal of a life that is being executed.
fn append(life: &Life, entries: Vec<Entry>, children: Vec<Child>) -> TaskWrite {
    let Task { id, revision, journal, .. } = life.task();
    TaskWrite::Append { task: *id, epoch: revision.epoch, era: journal.era, entries, children }
}

fn child_of(parent: &Life) -> Life {
    let mut asked = request();
    asked.parent_id = Some(parent.id());
    Life::of(asked)
}

fn born(life: &mut Life) -> Child {
    life.written = Some(life.task().revision);
    Child { task: Arc::new(life.task().clone()), events: std::mem::take(&mut life.step.events) }
}

async fn running(store: &dyn TaskStore) -> Result<Life> {
    let mut life = Life::new();
    store_all(store, [life.claimed()]).await?;
    Ok(life)
}

async fn journal(store: &dyn TaskStore, id: TaskId) -> Result<Vec<Entry>> {
    store.journal(id, 0, 0, 1_000).await
}

/// Every field of an entry is kept, whatever its kind and outcome.
pub async fn entries_come_back_as_they_were(store: &dyn TaskStore) -> Result<()> {
    let life = running(store).await?;
    let error = TaskError::new("model_timeout", "it's late: \u{0}\t\"quoted\" 🦀");
    let outcomes = [
        Outcome::Open(Payload::from_text(" { \"a\" : 1.50 } ")?),
        Outcome::Done(Payload::of(&"ß".repeat(300_000))?),
        Outcome::Failed(Failure { error: error.clone(), temporary: true }),
        Outcome::Failed(Failure { error, temporary: false }),
        Outcome::Retracted,
    ];
    let kinds = EntryKind::ALL.into_iter();
    let all: Vec<_> = kinds
        .flat_map(|kind| outcomes.iter().map(move |outcome| (kind, outcome.clone())))
        .zip(0_u32..)
        .map(|((kind, outcome), n)| Entry {
            index: n.into(),
            id: EntryId { path: format!("{n}.2.0"), name: format!("näme '{n}'"), occurrence: u32::MAX - n },
            kind,
            outcome,
            epoch: u64::from(n) + 1,
            at: at(i64::from(n) - 5),
        })
        .collect();
    assert_eq!(write_one(store, append(&life, all.clone(), Vec::new())).await?, Applied);
    assert!(journal(store, life.id()).await? == all);
    Ok(())
}

/// A journal is read from an index on, as much as asked.
pub async fn journals_are_read_in_pages(store: &dyn TaskStore) -> Result<()> {
    let life = running(store).await?;
    for range in [0..1, 1..20, 20..23] {
        assert_eq!(write_one(store, append(&life, entries(range), Vec::new())).await?, Applied);
    }
    for from in [0, 1, 7, 22, 23, 1_000] {
        for limit in [0, 1, 5, 23, 100] {
            let expected = entries(from.min(23)..from.saturating_add(limit).min(23));
            let found = store.journal(life.id(), 0, from, limit as usize).await?;
            assert_eq!(found, expected, "from {from}, limit {limit}");
        }
    }
    assert_eq!(store.journal(life.id(), 1, 0, 10).await?, []);
    assert_eq!(journal(store, Life::new().id()).await?, []);
    Ok(())
}

/// An append changes nothing but the journal.
pub async fn an_append_leaves_the_revision(store: &dyn TaskStore) -> Result<()> {
    let mut life = running(store).await?;
    assert_eq!(write_one(store, append(&life, entries(0..2), Vec::new())).await?, Applied);
    holds(store, &life).await?;
    store_all(store, [life.completed()]).await?;
    holds(store, &life).await
}

/// Only the writer of the task's epoch appends; a refused append leaves nothing behind.
pub async fn appends_of_another_epoch_are_refused(store: &dyn TaskStore) -> Result<()> {
    let mut life = running(store).await?;
    let old = append(&life, entries(0..1), Vec::new());
    life.then(Command::Recover { journal: 0 }, at(1)).claimed();
    store_all(store, [&mut life]).await?;
    let mut early = append(&life, entries(0..1), Vec::new());
    if let TaskWrite::Append { epoch, .. } = &mut early {
        *epoch += 1;
    }
    let nowhere = append(&Life::new(), entries(0..1), Vec::new());
    assert_eq!(store.write(&[old, early, nowhere]).await?, [Stale, Stale, Stale]);
    assert_eq!(journal(store, life.id()).await?, []);
    assert_eq!(write_one(store, append(&life, entries(0..1), Vec::new())).await?, Applied);
    Ok(())
}

/// An index that is taken refuses the whole append, also in one batch; what was there stays.
pub async fn an_index_is_written_once(store: &dyn TaskStore) -> Result<()> {
    let life = running(store).await?;
    let first = append(&life, entries(0..2), Vec::new());
    let (mut other, mut over) = (entry(1), entries(1..4));
    other.outcome = Outcome::Retracted;
    over[0].id.name = "another".to_owned();
    let batch = [first.clone(), append(&life, vec![other], Vec::new()), append(&life, over, Vec::new()), first.clone()];
    assert_eq!(store.write(&batch).await?, [Applied, Stale, Stale, Stale]);
    assert_eq!(write_one(store, first).await?, Stale);
    assert_eq!(journal(store, life.id()).await?, entries(0..2));
    assert_eq!(write_one(store, append(&life, entries(2..4), Vec::new())).await?, Applied);
    assert_eq!(journal(store, life.id()).await?, entries(0..4));
    Ok(())
}

/// What has ended takes no more entries, whatever their epoch.
pub async fn nothing_is_appended_after_the_end(store: &dyn TaskStore) -> Result<()> {
    let mut life = running(store).await?;
    let before = append(&life, entries(0..1), Vec::new());
    store_all(store, [life.completed()]).await?;
    let after = append(&life, entries(0..1), Vec::new());
    assert_eq!(store.write(&[before, after]).await?, [Stale, Stale]);
    assert_eq!(journal(store, life.id()).await?, []);
    Ok(())
}

/// A batch may hold a task, what its execution appends, and its end.
pub async fn an_append_may_follow_its_task_in_one_batch(store: &dyn TaskStore) -> Result<()> {
    let mut life = Life::new();
    let insert = life.claimed().write();
    let (first, second) = (append(&life, entries(0..2), Vec::new()), append(&life, entries(2..3), Vec::new()));
    let end = life.completed().write();
    let late = append(&life, entries(3..4), Vec::new());
    assert_eq!(store.write(&[insert, first, second, end, late]).await?, [Applied, Applied, Applied, Applied, Stale]);
    assert_eq!(journal(store, life.id()).await?, entries(0..3));
    holds(store, &life).await
}

/// An update and its entries are stored together or not at all.
pub async fn updates_carry_entries(store: &dyn TaskStore) -> Result<()> {
    let mut life = running(store).await?;
    assert_eq!(write_one(store, append(&life, entries(0..1), Vec::new())).await?, Applied);
    let before = life.task().clone();
    let error = TaskError::new("effect_unknown", "m");
    life.then(Command::Halt { reason: crate::task::WaitReason::EffectUnknown, error }, at(1));
    let TaskWrite::Update { task, expected, events, key, .. } = life.write() else { return Ok(()) };
    let with = |range| TaskWrite::Update {
        task: task.clone(),
        expected,
        events: events.clone(),
        entries: entries(range),
        key: key.clone(),
    };
    assert_eq!(write_one(store, with(0..2)).await?, Stale, "an index is taken");
    assert_eq!(load_one(store, life.id()).await?, Some(before));
    assert_eq!(store.events(life.id(), 0, 100).await?.len(), life.events.len() - 1);
    assert_eq!(write_one(store, with(1..3)).await?, Applied);
    holds(store, &life).await?;
    assert_eq!(journal(store, life.id()).await?, entries(0..3));
    assert_eq!(write_one(store, with(3..4)).await?, Stale, "the revision is no longer the expected one");
    assert_eq!(journal(store, life.id()).await?, entries(0..3));
    Ok(())
}

/// Another era begins with an empty journal; the ones before stay readable.
pub async fn each_era_has_a_journal_of_its_own(store: &dyn TaskStore) -> Result<()> {
    let mut life = running(store).await?;
    assert_eq!(write_one(store, append(&life, entries(0..3), Vec::new())).await?, Applied);
    life.then(Command::Continue { input: Payload::null() }, START).claimed();
    store_all(store, [&mut life]).await?;
    assert_eq!(life.task().journal.era, 1);
    assert_eq!(write_one(store, append(&life, entries(0..1), Vec::new())).await?, Applied);
    assert_eq!(store.journal(life.id(), 0, 0, 10).await?, entries(0..3));
    assert_eq!(store.journal(life.id(), 1, 0, 10).await?, entries(0..1));
    let held = store.held_by(&node(), 10).await?;
    assert_eq!(held.iter().map(|held| held.journal).collect::<Vec<_>>(), [1], "of the current era");
    Ok(())
}

/// Children come with the entry that calls for them, ended ones too, and are tasks like all others.
pub async fn children_are_born_with_their_entries(store: &dyn TaskStore) -> Result<()> {
    let mut parent = running(store).await?;
    let (mut first, mut second) = (child_of(&parent), child_of(&parent));
    second.then(Command::Cancel, at(4));
    let write = append(&parent, entries(0..2), vec![born(&mut first), born(&mut second)]);
    assert_eq!(write_one(store, write).await?, Applied);
    holds(store, &first).await?;
    holds(store, &second).await?;
    parent.step.task.wakes = 1; // one of them has ended already
    holds(store, &parent).await?;
    let granted = store.claim(&super::claim_of(10, START)).await?;
    assert_eq!(super::claim::ids(&granted.tasks), [first.id()]);
    Ok(())
}

/// A child whose id is taken refuses the append with all its entries and other children; so does a stale epoch.
pub async fn a_child_that_is_there_refuses_the_whole_append(store: &dyn TaskStore) -> Result<()> {
    let parent = running(store).await?;
    let (mut there, mut new) = (child_of(&parent), child_of(&parent));
    store_all(store, [&mut there]).await?;
    let both = vec![born(&mut new), born(&mut there)];
    assert_eq!(write_one(store, append(&parent, entries(0..1), both.clone())).await?, Stale);
    let mut stale = append(&parent, entries(0..1), both[..1].to_vec());
    if let TaskWrite::Append { epoch, .. } = &mut stale {
        *epoch -= 1;
    }
    assert_eq!(write_one(store, stale).await?, Stale);
    assert_eq!((load_one(store, new.id()).await?, journal(store, parent.id()).await?), (None, Vec::new()));
    assert_eq!(store.events(new.id(), 0, 10).await?, []);
    let again = append(&parent, entries(0..1), both[..1].to_vec());
    assert_eq!(store.write(&[again.clone(), again]).await?, [Applied, Stale]);
    holds(store, &new).await
}

/// A new task's journal begins with another's entries before an index, of the era that is named.
pub async fn a_journal_may_begin_as_a_copy(store: &dyn TaskStore) -> Result<()> {
    let mut source = running(store).await?;
    assert_eq!(write_one(store, append(&source, entries(0..5), Vec::new())).await?, Applied);
    source.then(Command::Continue { input: Payload::null() }, START).claimed();
    store_all(store, [&mut source]).await?;
    let other = vec![Entry { at: at(9), epoch: 3, ..entry(0) }];
    assert_eq!(write_one(store, append(&source, other.clone(), Vec::new())).await?, Applied);
    for (era, before, expected) in [(0, 3, entries(0..3)), (1, 1, other), (0, 5, entries(0..5)), (0, 0, Vec::new())] {
        let mut fork = Life::new();
        fork.step.task.journal.length = before;
        let TaskWrite::Insert { task, events, key, .. } = fork.claimed().write() else { return Ok(()) };
        let copy = JournalCopy { from: source.id(), era, before };
        let insert = TaskWrite::Insert { task, events, key, journal: Some(copy) };
        let more = append(&fork, entries(before..before + 1), Vec::new());
        assert_eq!(store.write(&[insert, more]).await?, [Applied, Applied], "it goes on where the copy ends");
        let expected: Vec<_> = expected.into_iter().chain([entry(before)]).collect();
        assert_eq!(journal(store, fork.id()).await?, expected, "era {era} before {before}");
        holds(store, &fork).await?;
    }
    assert_eq!(journal(store, source.id()).await?, entries(0..5), "the source keeps its own");
    Ok(())
}

/// Whoever takes over a node's tasks learns how long their journals are.
pub async fn held_tasks_tell_the_length_of_their_journal(store: &dyn TaskStore) -> Result<()> {
    let lives = [running(store).await?, running(store).await?];
    for range in [0..2, 2..7] {
        assert_eq!(write_one(store, append(&lives[1], entries(range), Vec::new())).await?, Applied);
    }
    let held = store.held_by(&node(), 10).await?;
    let mut found: Vec<_> = held.iter().map(|held| (held.task.id, held.journal)).collect();
    found.sort_unstable();
    assert_eq!(found, [(lives[0].id(), 0), (lives[1].id(), 7)]);
    Ok(())
}

/// Of appends that race for one index exactly one is stored.
pub async fn of_racing_appends_one_is_stored(store: &dyn TaskStore) -> Result<()> {
    let life = running(store).await?;
    let batches: Vec<_> = (0..30)
        .map(|n| {
            let mut entry = entry(0);
            entry.outcome = Outcome::Done(Payload::of(&n).unwrap_or_else(|_| Payload::null()));
            [append(&life, vec![entry], Vec::new())]
        })
        .collect();
    let answers = join_all(batches.iter().map(|batch| store.write(batch))).await;
    let answers: Vec<_> = answers.into_iter().collect::<Result<_>>()?;
    let winners: Vec<_> = batches.iter().zip(&answers).filter(|(_, answer)| **answer == [Applied]).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(journal(store, life.id()).await?, winners[0].0[0].entries());
    Ok(())
}
