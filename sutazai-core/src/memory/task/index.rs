//! What tasks are looked up by, other than their ids.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    ops::{Bound, RangeInclusive},
    sync::Arc,
};

use crate::{
    clock::Timestamp,
    engine::{Ask, Candidate, ClaimPolicy, Head, Running},
    store::QueueDepths,
    task::{NodeId, Priority, Task, TaskId, TaskState},
};

/// The least of all ids.
pub(super) const FIRST: [u8; 16] = [0; 16];

/// The greatest of all ids.
pub(super) const LAST: [u8; 16] = [u8::MAX; 16];

/// Tasks in the order of a moment.
type Moments = BTreeSet<(Timestamp, TaskId)>;

/// A sub-queue: queue, priority, tenant.
type Lane = (Arc<str>, Priority, Arc<str>);

/// Every index. Each task stands in those that its image says, which [`Indexes::set`] alone decides.
#[derive(Default)]
pub(super) struct Indexes {
    lanes: BTreeMap<Lane, Moments>,
    timers: Moments,
    deadlines: Moments,
    held: BTreeSet<(NodeId, TaskId)>,
    running: BTreeMap<(Arc<str>, Arc<str>), u32>,
    depths: BTreeMap<Arc<str>, u64>,
    states: [BTreeSet<TaskId>; TaskState::ALL.len()],
    live: BTreeSet<TaskId>,
    over: BTreeSet<TaskId>,
    children: BTreeSet<(TaskId, TaskId)>,
    /// Those of them that have not ended and must end with their parent.
    dependents: BTreeSet<(TaskId, TaskId)>,
    /// Grows whenever something is put into a sub-queue.
    queued: u64,
}

impl Indexes {
    /// Puts a task in, or takes it out as it was put in.
    pub(super) fn set(&mut self, task: &Task, queue: &Arc<str>, present: bool) {
        let due = (task.due_at, task.id);
        place(&mut self.states[task.state as usize], task.id, present);
        let which = if task.state.is_terminal() { &mut self.over } else { &mut self.live };
        place(which, task.id, present);
        if let Some(parent) = task.parent_id {
            place(&mut self.children, (parent, task.id), present);
            if !task.detached && !task.state.is_terminal() {
                place(&mut self.dependents, (parent, task.id), present);
            }
        }
        match task.state {
            TaskState::Created | TaskState::Waiting => {
                self.queued += u64::from(present);
                let lane = self.lanes.entry((Arc::clone(queue), task.priority, Arc::clone(&task.tenant)));
                match lane {
                    Entry::Vacant(lane) if present => drop(lane.insert(Moments::from([due]))),
                    Entry::Vacant(_) => {}
                    Entry::Occupied(mut lane) => {
                        place(lane.get_mut(), due, present);
                        if lane.get().is_empty() {
                            lane.remove();
                        }
                    }
                }
                let depth = self.depths.entry(Arc::clone(&task.agent)).or_default();
                *depth = if present { *depth + 1 } else { depth.saturating_sub(1) };
                if *depth == 0 {
                    self.depths.remove(&task.agent);
                }
            }
            TaskState::Assigned | TaskState::Running => {
                if let Some(node) = &task.node {
                    place(&mut self.held, (node.clone(), task.id), present);
                }
                let whose = (Arc::clone(&task.agent), Arc::clone(&task.tenant));
                let count = self.running.entry(whose.clone()).or_default();
                *count = if present { *count + 1 } else { count.saturating_sub(1) };
                if *count == 0 {
                    self.running.remove(&whose);
                }
            }
            TaskState::Completed | TaskState::Failed | TaskState::Cancelled => return,
        }
        if task.state == TaskState::Waiting {
            place(&mut self.timers, due, present);
        }
        if let Some(deadline) = task.deadline {
            place(&mut self.deadlines, (deadline, task.id), present);
        }
    }

    /// The heads of the sub-queues of a policy.
    pub(super) fn heads(&self, policy: &ClaimPolicy) -> Vec<Head> {
        let empty: Arc<str> = Arc::from("");
        let lanes = policy.queues.keys().flat_map(|queue| {
            let from = (Arc::clone(queue), Priority::new(0).unwrap_or_default(), Arc::clone(&empty));
            self.lanes.range(from..).take_while(move |((name, ..), _)| name == queue)
        });
        let head = |((queue, priority, tenant), moments): (&Lane, &Moments)| {
            moments.first().map(|(due_at, _)| Head {
                queue: Arc::clone(queue),
                priority: *priority,
                tenant: Arc::clone(tenant),
                due_at: *due_at,
            })
        };
        lanes.filter_map(head).collect()
    }

    /// What a claim asks to read of a sub-queue.
    pub(super) fn answer(&self, ask: &Ask) -> Vec<Candidate> {
        let Some(lane) = self.lanes.get(&(Arc::clone(&ask.queue), ask.priority, Arc::clone(&ask.tenant))) else {
            return Vec::new();
        };
        let (first, last) =
            (ask.after.map_or(Bound::Unbounded, Bound::Excluded), (ask.due_by, TaskId::from_bytes(LAST)));
        if ask.after.is_some_and(|after| after >= last) {
            return Vec::new(); // a range that ends before it begins
        }
        let found = lane.range((first, Bound::Included(last))).take(ask.limit);
        found.map(|&(due_at, id)| Candidate { due_at, id }).collect()
    }

    /// What runs, by agent and tenant.
    pub(super) fn running(&self) -> Vec<Running> {
        let count = |((agent, tenant), count): (&(Arc<str>, Arc<str>), &u32)| Running {
            agent: Arc::clone(agent),
            tenant: Arc::clone(tenant),
            count: *count,
        };
        self.running.iter().map(count).collect()
    }

    /// What a node holds.
    pub(super) fn held_by(&self, node: &NodeId) -> impl Iterator<Item = TaskId> {
        self.held.range(of(node.clone())).map(|(_, id)| *id)
    }

    /// Every node that holds something, once.
    pub(super) fn holders(&self) -> Vec<&NodeId> {
        let mut holders: Vec<_> = self.held.iter().map(|(node, _)| node).collect();
        holders.dedup();
        holders
    }

    /// What has not ended and has a deadline up to `now`.
    pub(super) fn overdue(&self, now: Timestamp) -> impl Iterator<Item = TaskId> {
        self.deadlines.range(..=(now, TaskId::from_bytes(LAST))).map(|(_, id)| *id)
    }

    /// The first timer or deadline after a moment.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let later = (Bound::Excluded((after, TaskId::from_bytes(LAST))), Bound::Unbounded);
        [&self.timers, &self.deadlines].into_iter().filter_map(|set| set.range(later).next()).map(|(at, _)| *at).min()
    }

    /// What no worker has, by agent.
    pub(super) fn depths(&self) -> QueueDepths {
        self.depths.iter().map(|(agent, depth)| (agent.to_string(), *depth)).collect()
    }

    /// The tasks in a state.
    pub(super) fn in_state(&self, state: TaskState) -> &BTreeSet<TaskId> {
        &self.states[state as usize]
    }

    /// What has not ended.
    pub(super) fn live(&self) -> &BTreeSet<TaskId> {
        &self.live
    }

    /// What has ended.
    pub(super) fn over(&self) -> &BTreeSet<TaskId> {
        &self.over
    }

    /// The tasks that a task called for, before the one given, newest first.
    pub(super) fn children(&self, parent: TaskId, before: Option<TaskId>) -> impl Iterator<Item = TaskId> {
        let end =
            before.map_or(Bound::Included((parent, TaskId::from_bytes(LAST))), |id| Bound::Excluded((parent, id)));
        let start = Bound::Included((parent, TaskId::from_bytes(FIRST)));
        self.children.range((start, end)).rev().map(|(_, child)| *child)
    }

    /// Every parent of a task that must end with it, once.
    pub(super) fn depended_on(&self) -> impl Iterator<Item = TaskId> {
        let mut last = None;
        self.dependents.iter().map(|(parent, _)| *parent).filter(move |parent| last.replace(*parent) != Some(*parent))
    }

    /// Grows whenever something may have become runnable.
    pub(super) fn queued(&self) -> u64 {
        self.queued
    }
}

fn place<T: Ord>(set: &mut BTreeSet<T>, item: T, present: bool) {
    if present {
        set.insert(item);
    } else {
        set.remove(&item);
    }
}

/// All pairs of one first part.
fn of<T: Clone>(first: T) -> RangeInclusive<(T, TaskId)> {
    (first.clone(), TaskId::from_bytes(FIRST))..=(first, TaskId::from_bytes(LAST))
}
