//! What every [`TaskStore`](crate::store::TaskStore) must do. Each case wants an empty store of its own.

mod claim;
mod model;
mod read;
mod write;

use std::sync::{Arc, LazyLock};

pub use self::{claim::*, model::*, read::*, write::*};
use crate::{
    clock::{IdSource, SystemClock, Timestamp},
    engine::{self, Command, Transition},
    error::Result,
    payload::Payload,
    store::{Claim, TaskStore, TaskWrite, WriteOutcome},
    task::{Event, IdempotencyKey, NodeId, Revision, Task, TaskId, TaskRequest},
};

/// Every case as one `#[tokio::test]`, against the store that the expression makes (it may use `.await`), behind whatever pointer keeps it alive.
///
/// ```ignore
/// sutazai_core::task_store_conformance!(Box::new(MemoryTaskStore::new()));
/// ```
///
/// A durable store also runs [`acknowledged_writes_survive`].
#[macro_export]
macro_rules! task_store_conformance {
    ($make:expr) => {
        $crate::task_store_conformance!(@ $make;
            an_empty_batch_does_nothing, tasks_come_back_as_they_were, payloads_come_back_byte_for_byte,
            members_answer_in_order_and_fail_one_by_one, one_batch_may_hold_a_whole_life, a_batch_goes_on_past_a_stale_member,
            stale_revisions_are_refused, a_key_replays_its_first_task, a_key_with_another_request_is_a_conflict,
            keys_belong_to_tenants, a_refused_insert_leaves_its_key_free, of_racing_inserts_with_one_key_one_is_stored,
            of_racing_updates_one_is_stored, batches_may_be_large,
            claims_go_by_priority_then_due_then_id, nothing_is_claimed_before_it_is_due, only_agents_of_the_node_are_claimed,
            a_claim_is_the_transition, no_task_is_claimed_twice, only_runnable_tasks_are_claimed,
            held_tasks_are_those_of_the_node, deadlines_hold_until_the_end, next_due_is_the_next_moment, depths_follow_the_states,
            loads_answer_in_order, lists_are_newest_first, lists_page_without_gaps_or_repeats, filters_all_hold,
            events_are_read_in_pages, a_closed_store_is_unavailable,
            any_history_reads_as_in_memory);
    };
    (@ $make:expr; $($case:ident),*) => {
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
}

/// When these stories begin.
const START: Timestamp = Timestamp::from_millis(1_796_083_200_000);

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START.as_millis() + millis)
}

fn fresh_id() -> TaskId {
    static IDS: LazyLock<IdSource> = LazyLock::new(IdSource::default);
    IDS.next(&SystemClock)
}

fn node() -> NodeId {
    NodeId::new("node-1")
}

fn claim_of(limit: usize, now: Timestamp) -> Claim {
    Claim { node: node(), agents: ["echo".into()].into(), now, limit }
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
            None => TaskWrite::Insert { task, events, key: self.key.clone() },
            Some(expected) => TaskWrite::Update { task, expected, events },
        }
    }
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
