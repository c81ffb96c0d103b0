//! What a claim is decided by: rules for queues and tenants, and what tenants have had so far.

use std::{collections::BTreeMap, sync::Arc};

/// The rules of one claim: plain data, made by the engine, read by every store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimPolicy {
    /// The queues whose tasks are claimed.
    pub queues: BTreeMap<Arc<str>, QueueRule>,
    /// By tenant.
    pub tenants: BTreeMap<Arc<str>, TenantRule>,
    /// For tenants that `tenants` does not name.
    pub other_tenants: TenantRule,
    /// What tenants have had of earlier claims.
    pub fairness: Fairness,
}

/// Whose tasks a queue holds, and the limits of that agent. Queues of one agent share its running tasks and its stored
/// moment; where their limits differ, each keeps to its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRule {
    /// The agent.
    pub agent: Arc<str>,
    /// How many of its tasks may run at once in the whole store. 0 holds all of them back.
    pub concurrency: Option<u32>,
    /// How many of its tasks may start a minute. 0 holds all of them back.
    pub rate: Option<u32>,
}

/// What a tenant is entitled to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TenantRule {
    /// Its share beside others: 2 gets twice as much as 1. Counts as 0.001 to 1000; what is no number counts as 1.
    pub weight: f64,
    /// How many of its tasks may run at once in the whole store. 0 holds all of them back.
    pub concurrency: Option<u32>,
}

impl Default for TenantRule {
    fn default() -> Self {
        Self { weight: 1.0, concurrency: None }
    }
}

impl ClaimPolicy {
    /// The rule for `tenant`.
    #[must_use]
    pub fn tenant(&self, tenant: &str) -> TenantRule {
        self.tenants.get(tenant).copied().unwrap_or(self.other_tenants)
    }

    /// `tenant` was granted a task: the next claim knows of it.
    pub fn granted(&mut self, tenant: &Arc<str>) {
        let cost = self.tenant(tenant).cost();
        self.fairness.granted(tenant, cost);
    }
}

impl TenantRule {
    /// The virtual time that one task takes: 1 / weight.
    pub(super) fn cost(self) -> f64 {
        if self.weight.is_nan() { 1.0 } else { 1.0 / self.weight.clamp(0.001, 1_000.0) }
    }
}

/// Virtual times of tenants, as start-time fair queueing keeps them: the start of the latest grant, and by tenant the
/// end of its own latest grant where that is later. A tenant that is not here starts where the latest grant did: it is
/// owed nothing for the time in which it wanted nothing, and owes nothing.
///
/// A clone shares its content until one of both changes, so a snapshot costs nothing. Never holds more than
/// [`MAX_TENANTS`](Self::MAX_TENANTS).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fairness {
    floor: f64,
    ends: Arc<BTreeMap<Arc<str>, f64>>,
    /// More than this many and it is swept; doubles with what a sweep leaves, so a grant's part of it stays small.
    sweep_at: usize,
}

/// What a sweep leaves at most: room for enough grants that the next one is paid for.
const KEPT: usize = Fairness::MAX_TENANTS / 10 * 9;

impl Fairness {
    /// How many tenants it remembers. Beyond, those with the least times are taken to be even with one another.
    pub const MAX_TENANTS: usize = 10_000;

    /// How many tenants it remembers now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it remembers none: all are even.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// No tenant starts before this.
    pub(super) fn floor(&self) -> f64 {
        self.floor
    }

    /// Where `tenant` starts.
    pub(super) fn start(&self, tenant: &str) -> f64 {
        self.ends.get(tenant).map_or(self.floor, |end| end.max(self.floor))
    }

    pub(super) fn granted(&mut self, tenant: &Arc<str>, cost: f64) {
        let start = self.start(tenant);
        self.floor = start;
        Arc::make_mut(&mut self.ends).insert(tenant.clone(), start + cost);
        if self.ends.len() > self.sweep_at.min(Self::MAX_TENANTS) {
            self.sweep();
        }
    }

    /// Forgets those whom the floor has overtaken, and as many more as it takes.
    fn sweep(&mut self) {
        let ends = Arc::make_mut(&mut self.ends);
        ends.retain(|_, end| *end > self.floor);
        if ends.len() > KEPT {
            let mut times: Vec<f64> = ends.values().copied().collect();
            let (_, cut, _) = times.select_nth_unstable_by(ends.len() - KEPT - 1, f64::total_cmp);
            self.floor = *cut;
            ends.retain(|_, end| *end > self.floor);
        }
        self.sweep_at = 2 * ends.len().max(64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_whom_time_has_overtaken_and_never_grows_without_bound() {
        let mut fairness = Fairness::default();
        for n in 0..100_000_u32 {
            fairness.granted(&format!("once-{n}").into(), 1.0);
            fairness.granted(&"steady".into(), 1.0);
        }
        assert!(fairness.len() < 300, "{}", fairness.len());
        for n in 0..50_000_u32 {
            // Of great cost: all of them stay ahead of the floor.
            fairness.granted(&format!("ahead-{n}").into(), 1_000.0 + f64::from(n));
            assert!(fairness.len() <= Fairness::MAX_TENANTS);
        }
        assert!(fairness.len() > Fairness::MAX_TENANTS / 2);
    }

    #[test]
    fn who_was_idle_is_owed_nothing() {
        let mut policy = ClaimPolicy::default();
        let (busy, idle): (Arc<str>, Arc<str>) = ("busy".into(), "idle".into());
        policy.granted(&idle);
        for _ in 0..100 {
            policy.granted(&busy);
        }
        assert_eq!(policy.fairness.start(&busy), 100.0);
        assert_eq!((policy.fairness.start(&idle), policy.fairness.start("never seen")), (99.0, 99.0));
    }

    #[test]
    fn a_weight_that_is_none_counts_as_one() {
        let cost = |weight| TenantRule { weight, concurrency: None }.cost();
        assert_eq!((cost(4.0), cost(f64::NAN), cost(0.0), cost(-1.0)), (0.25, 1.0, 1_000.0, 1_000.0));
        assert_eq!(cost(f64::INFINITY), 0.001);
    }
}
