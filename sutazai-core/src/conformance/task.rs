//! What every [`TaskStore`](crate::store::TaskStore) must do. Each case wants an empty store of its own.

mod claim;
mod feed;
mod journal;
mod keys;
mod limit;
mod model;
mod node;
mod outbox;
mod read;
mod retention;
mod schedule;
mod wake;
mod write;

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, LazyLock},
    time::Duration,
};

pub use self::{
    claim::*, feed::*, journal::*, keys::*, limit::*, model::*, node::*, outbox::*, read::*, retention::*, schedule::*,
    wake::*, write::*,
};
use self::{node::record, schedule::scheduled, wake::signal};
use crate::{
    clock::{Clock, IdSource, SystemClock, Timestamp},
    engine::{self, ClaimPolicy, Command, QueueRule, Transition},
    error::Result,
    payload::Payload,
    store::{Claim, TaskStore, TaskWrite, WriteOutcome},
    task::{Entry, EntryId, EntryKind, Event, IdempotencyKey, NodeId, Outcome, Revision, Task, TaskId, TaskRequest},
};

/// Every case as one `#[tokio::test]`, against the store that the expression makes (it may use `.await`), behind whatever
/// pointer keeps it alive. Where tests are made at run time, [`cases`](crate::conformance::task::cases) has the same list.
///
/// ```ignore
/// sutazai_core::task_store_conformance!(Box::new(MemoryTaskStore::new()));
/// ```
///
/// A durable store also runs
/// [`acknowledged_writes_survive`](crate::conformance::task::acknowledged_writes_survive). Some cases sleep for
/// fractions of a second, for leases have to lapse; the store's clock and this process's may differ by minutes.
#[macro_export]
macro_rules! task_store_conformance {
    (@list $rule:ident $($args:tt)*) => {
        $crate::task_store_conformance! { @$rule [
            an_empty_batch_does_nothing, tasks_come_back_as_they_were, payloads_come_back_byte_for_byte,
            members_answer_in_order_and_fail_one_by_one, one_batch_may_hold_a_whole_life,
            a_batch_goes_on_past_a_stale_member, stale_revisions_are_refused, a_key_replays_its_first_task,
            a_key_with_another_request_is_a_conflict, keys_belong_to_tenants, a_refused_insert_leaves_its_key_free,
            of_racing_inserts_with_one_key_one_is_stored, of_racing_updates_one_is_stored, batches_may_be_large,
            the_input_changes_only_with_an_event_that_says_so,
            claims_go_by_priority_then_due_then_id, nothing_is_claimed_before_it_is_due,
            only_queues_of_the_policy_are_claimed, a_claim_is_the_transition, no_task_is_claimed_twice,
            only_runnable_tasks_are_claimed, held_tasks_are_those_of_the_node, deadlines_hold_until_the_end,
            next_due_is_the_next_moment, depths_follow_the_states, claims_say_what_was_created,
            who_has_waited_long_goes_before_who_is_important, tenants_share_by_weight, agents_keep_to_their_limit,
            tenants_keep_to_their_limit, rates_hold_back_and_say_until_when, racing_claims_keep_to_the_limits,
            loads_answer_in_order, lists_are_newest_first, lists_page_without_gaps_or_repeats, filters_all_hold,
            dead_letters_and_live_tasks_are_listed, events_are_read_in_pages, a_closed_store_is_unavailable,
            entries_come_back_as_they_were, journals_are_read_in_pages, an_append_leaves_the_revision,
            appends_of_another_epoch_are_refused, an_index_is_written_once, nothing_is_appended_after_the_end,
            an_append_may_follow_its_task_in_one_batch, updates_carry_entries, each_era_has_a_journal_of_its_own,
            children_are_born_with_their_entries, a_child_that_is_there_refuses_the_whole_append,
            a_journal_may_begin_as_a_copy, held_tasks_tell_the_length_of_their_journal,
            of_racing_appends_one_is_stored,
            signals_come_in_the_order_they_were_stored, a_signal_is_refused_after_the_end,
            a_signal_with_a_key_is_told_once, a_signal_wakes_who_waits, a_wake_nobody_has_seen_ends_the_next_wait,
            a_wake_that_was_seen_does_not, retries_and_decisions_are_not_woken, a_wait_is_never_prolonged_by_a_wake,
            the_end_of_a_child_wakes_its_parent, whatever_ends_a_child_wakes_its_parent, wakes_are_counted_by_the_store,
            an_update_with_a_key_is_applied_once, answers_of_other_requests_are_kept,
            a_key_is_known_to_tasks_and_requests, answers_are_kept_for_a_day,
            the_feed_shows_every_event_in_one_order, readers_of_the_feed_miss_nothing_among_many_writers,
            nodes_join_renew_and_part, another_life_of_a_name_is_dead, a_lapsed_lease_is_declared_dead,
            holders_without_a_record_are_lapsed, schedules_are_kept_as_they_were, schedules_change_at_their_revision,
            a_schedule_and_its_answer_are_stored_together, schedules_come_due, next_due_counts_schedules,
            news_are_due_to_be_posted, what_is_taken_is_held, what_is_posted_waits_for_news, what_failed_is_tried_later,
            a_late_note_changes_nothing, what_was_given_up_is_listed_and_revived, a_requeue_revives_what_was_given_up, the_ended_are_listed_by_id, nth_newest_counts_from_the_newest,
            what_is_purged_leaves_nothing_behind, what_has_not_ended_is_not_purged, a_key_keeps_its_task_for_a_day,
            news_to_be_posted_keep_their_task, ended_parents_of_living_children_are_found,
            any_history_reads_as_in_memory
        ] $($args)* }
    };
    (@tests [$($case:ident),*] $make:expr) => {
        mod task_store_conformance {
            #[allow(unused_imports, reason = "the expression may name everything by its full path")]
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    let store = $make;
                    $crate::conformance::task::$case(&*store).await.map_err(|error| error.report()).unwrap();
                }
            )*
        }
    };
    (@table [$($case:ident),*]) => {
        &[$((stringify!($case), |store| Box::pin($crate::conformance::task::$case(store)))),*]
    };
    ($make:expr) => { $crate::task_store_conformance!(@list tests $make); };
}

/// One case: a name and what to run against an empty store, on the thread that begins it.
pub type Case = (&'static str, for<'s> fn(&'s dyn TaskStore) -> Pin<Box<dyn Future<Output = Result<()>> + 's>>);

/// Every case, by name.
#[must_use]
pub fn cases() -> &'static [Case] {
    const CASES: &[Case] = crate::task_store_conformance!(@list table);
    CASES
}

/// When these stories begin.
const START: Timestamp = Timestamp::from_millis(1_796_083_200_000);

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START.as_millis() + millis)
}

/// A new id, from before all stories begin whatever the date is: ids begin with their time, and retention goes by it.
fn fresh_id() -> TaskId {
    static IDS: LazyLock<IdSource> = LazyLock::new(IdSource::default);
    IDS.next(&Earlier)
}

/// A clock that stands still a day before these stories.
struct Earlier;

impl Clock for Earlier {
    fn now(&self) -> Timestamp {
        START.minus(Duration::from_secs(24 * 3_600))
    }

    fn random(&self) -> u64 {
        SystemClock.random()
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed()
    }
}

fn node() -> NodeId {
    NodeId::new("node-1")
}

fn claim_of(limit: usize, now: Timestamp) -> Claim {
    Claim { node: node(), policy: policy(["echo@1"]), now, limit }
}

/// A policy of these queues without limits.
fn policy<'q>(queues: impl IntoIterator<Item = &'q str>) -> ClaimPolicy {
    let rule = |queue: &'q str| {
        let agent = queue.rsplit_once('@').map_or(queue, |(agent, _)| agent);
        (queue.into(), QueueRule { agent: agent.into(), concurrency: None, rate: None })
    };
    ClaimPolicy { queues: queues.into_iter().map(rule).collect(), ..ClaimPolicy::default() }
}

/// The entry at `index` of a journal.
fn entry(index: u64) -> Entry {
    let id = EntryId { path: String::new(), name: format!("step {index}"), occurrence: 0 };
    Entry { index, id, kind: EntryKind::Step, outcome: Outcome::Done(Payload::null()), epoch: 1, at: START }
}

fn entries(range: std::ops::Range<u64>) -> Vec<Entry> {
    range.map(entry).collect()
}

/// The store's clock, as near as this process knows it.
fn wall() -> Timestamp {
    SystemClock.now()
}

/// Asks until the answer is yes; a store that never says it fails after half a minute.
async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..600 {
        if ask().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: not within half a minute");
}

fn key(name: &str, fingerprint: u8) -> IdempotencyKey {
    IdempotencyKey { tenant: "default".into(), key: name.into(), fingerprint: [fingerprint; 32] }
}

fn request() -> TaskRequest {
    TaskRequest::new("echo", Payload::null())
}

/// One task's life, written as the engine would.
struct Life {
    step: Transition,
    written: Option<Revision>,
    key: Option<IdempotencyKey>,
    /// Every event so far, written or not.
    events: Vec<Event>,
}

impl Life {
    fn new() -> Self {
        Self::of(request())
    }

    fn of(request: TaskRequest) -> Self {
        Self::of_agent("echo", request)
    }

    fn of_agent(agent: &str, request: TaskRequest) -> Self {
        let step = engine::create(fresh_id(), agent.into(), "1.2.3".into(), request, START);
        let events = step.events.clone();
        Self { step, written: None, key: None, events }
    }

    fn with_key(mut self, key: IdempotencyKey) -> Self {
        self.key = Some(key);
        self
    }

    fn task(&self) -> &Task {
        &self.step.task
    }

    fn id(&self) -> TaskId {
        self.step.task.id
    }

    /// Applies a command that must apply.
    fn then(&mut self, command: Command, now: Timestamp) -> &mut Self {
        let before = self.step.events.len();
        let done = self.step.apply(command.clone(), now);
        assert!(done.is_ok(), "{command:?} is refused in {}", self.step.task.state);
        self.events.extend_from_slice(&self.step.events[before..]);
        self
    }

    fn claimed(&mut self) -> &mut Self {
        self.then(Command::Claim { node: node() }, START)
    }

    fn completed(&mut self) -> &mut Self {
        self.then(Command::Complete { output: Payload::null() }, START)
    }

    /// What has happened since the last write, as the next one.
    fn write(&mut self) -> TaskWrite {
        let task = Arc::new(self.step.task.clone());
        let events = std::mem::take(&mut self.step.events);
        match self.written.replace(task.revision) {
            None => TaskWrite::Insert { task, events, key: self.key.clone(), journal: None },
            Some(expected) => TaskWrite::Update { task, expected, events, entries: Vec::new(), key: None },
        }
    }
}

/// Stores one write and gives its outcome.
async fn write_one(store: &dyn TaskStore, write: TaskWrite) -> Result<WriteOutcome> {
    let mut outcomes = store.write(std::slice::from_ref(&write)).await?;
    assert_eq!(outcomes.len(), 1, "one outcome for each member");
    outcomes.pop().ok_or_else(|| crate::error::Error::new(crate::error::ErrorKind::Internal, "no outcome"))
}

/// Writes each life's news in one batch, all of which must be applied.
async fn store_all<'a>(store: &dyn TaskStore, lives: impl IntoIterator<Item = &'a mut Life>) -> Result<()> {
    let batch: Vec<_> = lives.into_iter().map(Life::write).collect();
    let outcomes = store.write(&batch).await?;
    assert_eq!(outcomes, vec![WriteOutcome::Applied; batch.len()]);
    Ok(())
}

async fn load_one(store: &dyn TaskStore, id: TaskId) -> Result<Option<Task>> {
    let mut found = store.load(&[id]).await?;
    assert_eq!(found.len(), 1, "one answer for each id");
    Ok(found.pop().flatten())
}

/// The store holds this life exactly as it is.
async fn holds(store: &dyn TaskStore, life: &Life) -> Result<()> {
    assert_eq!(load_one(store, life.id()).await?.as_ref(), Some(life.task()));
    assert_eq!(store.events(life.id(), 0, usize::MAX).await?, life.events);
    Ok(())
}

#[cfg(test)]
crate::task_store_conformance!(Box::new(crate::memory::MemoryTaskStore::new()));
