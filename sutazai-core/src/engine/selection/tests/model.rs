//! A store small enough to be right by inspection, and a chooser that reads all of it and follows the rules one by one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    clock::Timestamp,
    engine::selection::{Ask, Candidate, ClaimPolicy, Head, Rate, Running, Selected, Selection},
    task::{Priority, TaskId},
};

/// Queue, priority, tenant.
pub(super) type SubQueue = (Arc<str>, Priority, Arc<str>);

#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    pub(super) queued: BTreeMap<SubQueue, BTreeSet<(Timestamp, TaskId)>>,
    /// By agent and tenant.
    pub(super) running: BTreeMap<(Arc<str>, Arc<str>), u32>,
    pub(super) rates: BTreeMap<Arc<str>, i64>,
    /// Rows that another process holds.
    pub(super) locked: BTreeSet<TaskId>,
    pub(super) next_id: u64,
}

/// One task that a claim took.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Taken {
    pub(super) id: TaskId,
    pub(super) of: SubQueue,
    pub(super) due_at: Timestamp,
}

#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) taken: Vec<Taken>,
    pub(super) selected: Selected,
    pub(super) rows: usize,
    pub(super) rounds: usize,
}

pub(super) fn agent(policy: &ClaimPolicy, queue: &Arc<str>) -> Arc<str> {
    policy.queues[queue].agent.clone()
}

impl Store {
    pub(super) fn add(&mut self, queue: &str, priority: u8, tenant: &str, due_at: i64) -> TaskId {
        self.next_id += 1;
        // Ids that do not follow the order of submission, so that order by id is not order by luck.
        let mixed = self.next_id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let id = TaskId::from_bytes((u128::from(mixed) << 64 | u128::from(self.next_id)).to_be_bytes());
        let of = (queue.into(), Priority::new(priority).unwrap(), tenant.into());
        self.queued.entry(of).or_default().insert((Timestamp::from_millis(due_at), id));
        id
    }

    pub(super) fn heads(&self, now: Timestamp) -> Vec<Head> {
        let heads = self.queued.iter().filter_map(|((queue, priority, tenant), tasks)| {
            let due_at = tasks.first()?.0;
            Some(Head { queue: queue.clone(), priority: *priority, tenant: tenant.clone(), due_at })
        });
        heads.filter(|head| head.due_at <= now).collect()
    }

    pub(super) fn running(&self) -> Vec<Running> {
        let counts = self.running.iter();
        counts
            .map(|((agent, tenant), &count)| Running { agent: agent.clone(), tenant: tenant.clone(), count })
            .collect()
    }

    pub(super) fn rates(&self) -> Vec<Rate> {
        self.rates.iter().map(|(agent, &tat)| Rate { agent: agent.clone(), tat }).collect()
    }

    pub(super) fn read(&self, ask: &Ask) -> Vec<Candidate> {
        let of = (ask.queue.clone(), ask.priority, ask.tenant.clone());
        let tasks = self.queued[&of].iter().filter(|&&(due_at, id)| {
            due_at <= ask.due_by && ask.after.is_none_or(|after| (due_at, id) > after) && !self.locked.contains(&id)
        });
        tasks.take(ask.limit).map(|&(due_at, id)| Candidate { due_at, id }).collect()
    }

    pub(super) fn claim(&mut self, policy: &mut ClaimPolicy, now: i64, limit: usize) -> Claimed {
        let now = Timestamp::from_millis(now);
        let (mut rows, mut rounds) = (0, 0);
        let mut selection = Selection::new(policy, now, limit, self.heads(now), &self.running(), &self.rates());
        loop {
            let asks = selection.asks();
            if asks.is_empty() {
                break;
            }
            rounds += 1;
            assert!(rounds < 1_000, "asks without end");
            for (index, ask) in asks.iter().enumerate() {
                assert!(ask.limit > 0 && ask.due_by <= now, "{ask:?}");
                let tasks = self.read(ask);
                rows += tasks.len();
                selection.offer(index, tasks);
            }
        }
        let selected = selection.finish();
        let taken: Vec<Taken> = selected.picks.iter().map(|&id| self.take(policy, id)).collect();
        for task in &taken {
            policy.granted(&task.of.2);
        }
        self.rates.extend(selected.rates.iter().map(|rate| (rate.agent.clone(), rate.tat)));
        Claimed { taken, selected, rows, rounds }
    }

    pub(super) fn take(&mut self, policy: &ClaimPolicy, id: TaskId) -> Taken {
        let (of, tasks) = self.queued.iter_mut().find(|(_, tasks)| tasks.iter().any(|task| task.1 == id)).unwrap();
        let place = *tasks.iter().find(|task| task.1 == id).unwrap();
        assert!(tasks.remove(&place) && !self.locked.contains(&id), "taken twice, or from another");
        *self.running.entry((agent(policy, &of.0), of.2.clone())).or_default() += 1;
        Taken { id, of: of.clone(), due_at: place.0 }
    }

    pub(super) fn finished(&mut self, policy: &ClaimPolicy, task: &Taken) {
        *self.running.get_mut(&(agent(policy, &task.of.0), task.of.2.clone())).unwrap() -= 1;
    }

    pub(super) fn running_of(&self, matches: impl Fn(&str, &str) -> bool) -> u32 {
        self.running.iter().filter(|((agent, tenant), _)| matches(agent, tenant)).map(|(_, count)| count).sum()
    }
}

pub(super) fn level(of: &SubQueue, due_at: Timestamp, now: Timestamp) -> u64 {
    (u64::from(of.1.get()) + u64::try_from(due_at.until(now).as_millis()).unwrap() / 60_000).min(9)
}

/// What a claim ought to take, by the words of the rules.
pub(super) fn by_the_book(store: &Store, policy: &ClaimPolicy, now: i64, limit: usize) -> Vec<TaskId> {
    let (mut store, mut policy) = (store.clone(), policy.clone());
    let now = Timestamp::from_millis(now);
    let mut picks = Vec::new();
    while picks.len() < limit {
        let mut due: Vec<(SubQueue, Timestamp, TaskId)> = Vec::new();
        for (of, tasks) in &store.queued {
            due.extend(tasks.iter().filter(|task| task.0 <= now).map(|&(due_at, id)| (of.clone(), due_at, id)));
        }
        due.retain(|(of, _, _)| passes(&store, &policy, of, now));
        let Some(highest) = due.iter().map(|(of, due_at, _)| level(of, *due_at, now)).max() else { break };
        due.retain(|(of, due_at, _)| level(of, *due_at, now) == highest);
        let first = due.iter().min_by(|a, b| {
            let start = |tenant: &str| policy.fairness.start(tenant);
            let due_first = |tenant: &Arc<str>| due.iter().filter(|task| task.0.2 == *tenant).map(|task| task.1).min();
            (start(&a.0.2).total_cmp(&start(&b.0.2)))
                .then_with(|| due_first(&a.0.2).cmp(&due_first(&b.0.2)))
                .then_with(|| (&a.0.2, a.1, a.2).cmp(&(&b.0.2, b.1, b.2)))
        });
        let Some((of, _, id)) = first.cloned() else { break };
        store.take(&policy, id);
        policy.granted(&of.2);
        let rule = &policy.queues[&of.0];
        if let Some(rate) = rule.rate {
            let tat = store.rates.entry(rule.agent.clone()).or_insert(i64::MIN);
            *tat = (*tat).max(now.as_millis() * 1_000)
                + 60_000_000_i64.div_euclid(i64::from(rate))
                + i64::from(60_000_000 % rate > 0);
        }
        picks.push(id);
    }
    picks
}

fn passes(store: &Store, policy: &ClaimPolicy, of: &SubQueue, now: Timestamp) -> bool {
    let Some(rule) = policy.queues.get(&of.0) else { return false };
    let tenant = policy.tenant(&of.2).concurrency;
    if tenant.is_some_and(|limit| store.running_of(|_, tenant| tenant == &*of.2) >= limit) {
        return false;
    }
    let busy = rule.concurrency.is_some_and(|limit| store.running_of(|agent, _| agent == &*rule.agent) >= limit);
    let early = rule.rate.is_some_and(|rate| {
        let Some(step) = 60_000_000_i64.checked_div(i64::from(rate)) else { return true };
        let step = step + i64::from(60_000_000 % rate > 0);
        let burst = i64::from((rate / 60).max(1));
        store.rates.get(&rule.agent).is_some_and(|tat| *tat > now.as_millis() * 1_000 + (burst - 1) * step)
    });
    !busy && !early
}
