//! Which tasks a claim takes: the one policy of all stores, pure, without IO, clock or randomness.
//!
//! # What is granted, in this order
//!
//! 1. **Priority with ageing.** A task's effective priority is `min(9, priority + ⌊(now − due_at) / 60 s⌋)`; a higher one
//!    goes first. A task of priority 0 is at the highest after nine minutes, so none starves.
//! 2. **Fair between tenants.** Within one effective priority, start-time fair queueing (P. Goyal, H. M. Vin, H. Cheng:
//!    "Start-time Fair Queueing", SIGCOMM 1996) with tasks of length 1: a tenant's next task starts at
//!    `S = max(v, F)` and ends at `F = S + 1 / weight`, where `F` was the end of its task before and `v`, the virtual
//!    time, is the start of the task granted last. The least `S` is granted; of equals the one due first, then the one
//!    whose name is first. Two tenants that both have work drift apart by no more than `1 / weight₁ + 1 / weight₂`.
//!    [`Fairness`] carries `v` and every `F > v` from claim to claim. Each process keeps its own: fair in what each of
//!    them grants is fair in the sum.
//! 3. **Within a tenant**, over all its queues and priorities, by `due_at`, then by id.
//!
//! A sub-queue is passed over while a limit holds it back: so many tasks of an agent, or of a tenant, running in the
//! whole store, or so many of an agent a minute. A limit delays, it loses nothing.
//!
//! The rate is the generic cell rate algorithm (ITU-T I.371, virtual scheduling): with the increment `T = 60 s / rate`
//! and the tolerance `τ = (burst − 1) × T`, a task passes at `now` if `tat ≤ now + τ`, and then `tat = max(tat, now) + T`.
//! The burst is one second's worth, `max(1, ⌊rate / 60⌋)`: in any window there pass at most `rate × window + burst`.
//! `tat` is all that is stored of an agent; it is kept in microseconds, for in milliseconds 7000 a minute were 6667.
//!
//! [`Selection`] says how a store uses it.

mod lane;
mod policy;
mod rate;
#[cfg(test)]
mod tests;
mod turns;

use std::{collections::BTreeMap, sync::Arc};

use self::lane::{Lane, Limits};
pub use self::{
    policy::{ClaimPolicy, Fairness, QueueRule, TenantRule},
    rate::Rate,
};
use crate::{
    clock::Timestamp,
    task::{Priority, TaskId},
};

/// The earliest runnable task of a sub-queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Agent and version line.
    pub queue: Arc<str>,
    /// As submitted.
    pub priority: Priority,
    /// Whose tasks these are.
    pub tenant: Arc<str>,
    /// When the first of them became due.
    pub due_at: Timestamp,
}

/// How many tasks run now, in the whole store. Several for one agent or tenant add up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The agent.
    pub agent: Arc<str>,
    /// The tenant.
    pub tenant: Arc<str>,
    /// How many.
    pub count: u32,
}

/// What to read of a sub-queue: up to `limit` tasks with `due_at <= due_by`, by `(due_at, id)`, those after `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Of the sub-queue.
    pub queue: Arc<str>,
    /// Of the sub-queue.
    pub priority: Priority,
    /// Of the sub-queue.
    pub tenant: Arc<str>,
    /// Never later than the claim's `now`.
    pub due_by: Timestamp,
    /// At least 1.
    pub limit: usize,
    /// The last one read before, where reading goes on.
    pub after: Option<(Timestamp, TaskId)>,
}

/// A runnable task as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Since when it can run.
    pub due_at: Timestamp,
    /// Its id.
    pub id: TaskId,
}

/// What a claim comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// The tasks granted, in that order.
    pub picks: Vec<TaskId>,
    /// The stored moments that have changed, by agent.
    pub rates: Vec<Rate>,
    /// When the first of the rate limits that held something back lets the next one through. Where the last task that
    /// was read used up the rate, there may turn out to be no next one.
    pub again_at: Option<Timestamp>,
    /// Whether something waits for another task of its agent or tenant to end, for as many as may run do.
    pub held_back: bool,
}

/// A claim under way: says what to read, and picks.
///
/// Runnable tasks lie in sub-queues (queue, priority, tenant), each ordered by `(due_at, id)`. In one transaction a store
///
/// 1. reads the heads of all sub-queues of the policy's queues, what is running, and the rates of their agents, so that
///    neither of the last two changes before it commits where the policy has limits;
/// 2. makes a selection;
/// 3. until [`asks`](Self::asks) is empty, reads what they ask for and gives it to [`offer`](Self::offer);
/// 4. grants [`Selected::picks`] and writes [`Selected::rates`].
///
/// Afterwards the engine tells its policy of every grant ([`ClaimPolicy::granted`]).
///
/// *Exact*: what comes out does not depend on how it was asked for; it is what somebody who had read everything would
/// choose. *Frugal*: asks follow what every tenant would get if no sub-queue ran out, so about as many rows are read as
/// are granted, however many tenants and tasks there are; where one runs out, its part is asked of the others. A
/// sub-queue is read down to where others may have something as urgent, no further. *Finite*: an answer shorter than its
/// ask means that the sub-queue has no more down to there. Where rows are skipped because another process holds them, a
/// claim may be shorter, or take something less urgent; it ends whatever it is given.
#[derive(Debug)]
pub struct Selection {
    now: Timestamp,
    /// How many more may be picked.
    left: usize,
    /// The virtual time.
    floor: f64,
    /// By name.
    tenants: Vec<Tenant>,
    /// Those of queues with limits, by name.
    agents: Vec<Agent>,
    lanes: Vec<Lane>,
    asked: Vec<Asked>,
    picks: Vec<TaskId>,
}

#[derive(Debug)]
struct Tenant {
    name: Arc<str>,
    running: u64,
    limit: Option<u32>,
    /// Where its next task starts.
    start: f64,
    cost: f64,
}

#[derive(Debug)]
struct Agent {
    name: Arc<str>,
    running: u64,
    tat: i64,
    granted: bool,
}

#[derive(Debug)]
struct Asked {
    lane: usize,
    due_by: Timestamp,
    limit: usize,
    answered: bool,
}

impl Selection {
    /// A claim at `now` of up to `limit` tasks from the sub-queues with these `heads`; heads that are not due, or of
    /// queues that are not the policy's, do not count. `running` and `rates` may name others than theirs; an agent that
    /// is not in `rates` has been granted nothing lately.
    #[must_use]
    pub fn new(
        policy: &ClaimPolicy,
        now: Timestamp,
        limit: usize,
        mut heads: Vec<Head>,
        running: &[Running],
        rates: &[Rate],
    ) -> Self {
        heads.retain(|head| head.due_at <= now && policy.queues.contains_key(&head.queue));
        heads.sort_unstable_by(|a, b| {
            (&a.tenant, &a.queue, a.priority, a.due_at).cmp(&(&b.tenant, &b.queue, b.priority, b.due_at))
        });
        heads.dedup_by(|b, a| (&a.tenant, &a.queue, a.priority) == (&b.tenant, &b.queue, b.priority));

        let limited = |rule: &&QueueRule| rule.concurrency.or(rule.rate).is_some();
        let rules = heads.iter().filter_map(|head| policy.queues.get(&head.queue)).filter(limited);
        let mut agents: BTreeMap<Arc<str>, usize> = rules.map(|rule| (rule.agent.clone(), 0)).collect();
        for (index, at) in agents.values_mut().enumerate() {
            *at = index;
        }
        let now_micros = rate::micros(now);
        let mut tenants: Vec<Tenant> = Vec::new();
        let mut lanes = Vec::with_capacity(heads.len());
        for head in heads {
            if tenants.last().is_none_or(|last| last.name != head.tenant) {
                let rule = policy.tenant(&head.tenant);
                let start = policy.fairness.start(&head.tenant);
                let name = head.tenant.clone();
                tenants.push(Tenant { name, running: 0, limit: rule.concurrency, start, cost: rule.cost() });
            }
            let limits = policy.queues.get(&head.queue).and_then(|rule| {
                let gcra = rule.rate.map(rate::Gcra::per_minute);
                // A rate of nothing at all is no room at all.
                let concurrency = if gcra == Some(None) { Some(0) } else { rule.concurrency };
                Some(Limits { agent: *agents.get(&rule.agent)?, concurrency, rate: gcra.flatten() })
            });
            lanes.push(Lane::new(head, tenants.len() - 1, limits));
        }
        let mut agents: Vec<Agent> =
            agents.into_keys().map(|name| Agent { name, running: 0, tat: i64::MIN, granted: false }).collect();
        for Running { agent, tenant, count } in running {
            if let Ok(at) = agents.binary_search_by(|known| known.name.cmp(agent)) {
                agents[at].running += u64::from(*count);
            }
            if let Ok(at) = tenants.binary_search_by(|known| known.name.cmp(tenant)) {
                tenants[at].running += u64::from(*count);
            }
        }
        for Rate { agent, tat } in rates {
            if let Ok(at) = agents.binary_search_by(|known| known.name.cmp(agent)) {
                agents[at].tat = rate::believable(*tat, now_micros);
            }
        }
        let floor = policy.fairness.floor();
        Self { now, left: limit, floor, tenants, agents, lanes, asked: Vec::new(), picks: Vec::new() }
    }

    /// What has to be read next; empty when all is decided. What an earlier ask was not answered counts as not there.
    pub fn asks(&mut self) -> Vec<Ask> {
        self.settle();
        let asked = self.pick();
        let asks = asked
            .iter()
            .map(|&Asked { lane, due_by, limit, .. }| {
                let lane = &self.lanes[lane];
                let tenant = self.tenants[lane.tenant].name.clone();
                Ask { queue: lane.queue.clone(), priority: lane.priority, tenant, due_by, limit, after: lane.after() }
            })
            .collect();
        self.asked = asked;
        asks
    }

    /// The answer to the ask at `index` of the latest [`asks`](Self::asks), in the order it asks for.
    pub fn offer(&mut self, index: usize, tasks: Vec<Candidate>) {
        if let Some(asked) = self.asked.get_mut(index).filter(|asked| !asked.answered) {
            asked.answered = true;
            self.lanes[asked.lane].offer(tasks, asked.due_by, asked.limit);
        }
    }

    /// The decision. Before [`asks`](Self::asks) is empty, it is what can be decided so far.
    #[must_use]
    pub fn finish(mut self) -> Selected {
        self.settle();
        self.pick();
        let again_at = self.lanes.iter().filter_map(|lane| self.held_until(lane)).min();
        let held_back = self.lanes.iter().any(|lane| lane.next(self.now).is_some() && !self.has_place(lane));
        let granted = self.agents.into_iter().filter(|agent| agent.granted);
        let rates = granted.map(|agent| Rate { agent: agent.name, tat: agent.tat }).collect();
        Selected { picks: self.picks, rates, again_at, held_back }
    }

    fn settle(&mut self) {
        for index in 0..self.asked.len() {
            self.offer(index, Vec::new());
        }
    }

    /// How many more tasks of `lane` its limits let through now.
    fn room(&self, lane: &Lane) -> usize {
        let tenant = &self.tenants[lane.tenant];
        let room = below(tenant.limit, tenant.running);
        let Some(limits) = lane.limits else { return room };
        let agent = &self.agents[limits.agent];
        let rate = limits.rate.map_or(usize::MAX, |rate| rate.room(rate::micros(self.now), agent.tat));
        room.min(below(limits.concurrency, agent.running)).min(rate)
    }

    /// Whether one more task of `lane` may run beside those that do.
    fn has_place(&self, lane: &Lane) -> bool {
        let (tenant, concurrency) = (&self.tenants[lane.tenant], lane.limits.and_then(|limits| limits.concurrency));
        let of_agent = lane.limits.map_or(0, |limits| self.agents[limits.agent].running);
        below(tenant.limit, tenant.running) > 0 && below(concurrency, of_agent) > 0
    }

    /// When the rate that holds `lane` back, and nothing else does, lets the next one through.
    fn held_until(&self, lane: &Lane) -> Option<Timestamp> {
        let limits = lane.limits?;
        let (rate, agent) = (limits.rate?, &self.agents[limits.agent]);
        let held =
            lane.next(self.now).is_some() && self.has_place(lane) && rate.room(rate::micros(self.now), agent.tat) == 0;
        held.then(|| rate.opens_at(agent.tat))
    }

    /// Grants the first of the lane's tasks.
    fn grant(&mut self, lane: usize) {
        let lane = &mut self.lanes[lane];
        let Some(id) = lane.take() else { return };
        self.picks.push(id);
        self.left -= 1;
        let tenant = &mut self.tenants[lane.tenant];
        tenant.running += 1;
        self.floor = self.floor.max(tenant.start);
        tenant.start += tenant.cost;
        if let Some(limits) = lane.limits {
            let agent = &mut self.agents[limits.agent];
            agent.running += 1;
            if let Some(rate) = limits.rate {
                agent.tat = rate.take(rate::micros(self.now), agent.tat);
                agent.granted = true;
            }
        }
    }
}

fn below(limit: Option<u32>, running: u64) -> usize {
    limit.map_or(usize::MAX, |limit| usize::try_from(u64::from(limit).saturating_sub(running)).unwrap_or(usize::MAX))
}
