//! Against a chooser that reads everything, over drawn stores; and the promises one by one, over many claims.

mod model;
mod reading;

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use self::model::{Store, Taken, by_the_book, level};
use super::{ClaimPolicy, QueueRule, Selection, TenantRule};
use crate::clock::Timestamp;

const QUEUES: [&str; 4] = ["fetch@1", "fetch@2", "mail@1", "free@1"];
const TENANTS: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Of which the process that claims knows nothing.
const FOREIGN: &str = "foreign@1";
const NOW: i64 = 10_000_000;

fn limits() -> impl Strategy<Value = (Option<u32>, Option<u32>)> {
    (prop::option::of(0..20_u32), prop::option::of(prop_oneof![0..5_u32, Just(60), Just(1_000), Just(7)]))
}

fn policies() -> impl Strategy<Value = ClaimPolicy> {
    let rules = prop::collection::vec(limits(), 3);
    let tenants = prop::collection::btree_map(
        prop::sample::select(&TENANTS[..]),
        (prop::sample::select(vec![0.5, 1.0, 2.0, 3.0]), prop::option::weighted(0.3, 0..15_u32)),
        0..4,
    );
    let served = prop::collection::vec(prop::sample::select(&TENANTS[..]), 0..12);
    (rules, tenants, served).prop_map(|(rules, tenants, served)| {
        let mut policy = unlimited(&QUEUES);
        for (queue, (concurrency, rate)) in QUEUES.iter().zip(rules) {
            limit(&mut policy, queue, concurrency, rate);
        }
        for (tenant, (weight, concurrency)) in tenants {
            policy.tenants.insert(tenant.into(), TenantRule { weight, concurrency });
        }
        served.into_iter().for_each(|tenant| policy.granted(&tenant.into()));
        policy
    })
}

fn stores() -> impl Strategy<Value = Store> {
    // Often equal moments, often of very different age, some not due yet.
    let ago = prop_oneof![(0..40_i64).prop_map(|n| n * 20_000), 0..700_000_i64, -100_000..10_000_i64];
    let queue = prop_oneof![9 => prop::sample::select(&QUEUES[..]), 1 => Just(FOREIGN)];
    let task = (queue, 0..=9_u8, prop::sample::select(&TENANTS[..]), ago);
    let few = (prop::sample::select(&QUEUES[..]), 4..=5_u8, prop::sample::select(&TENANTS[..2]), 0..90_000_i64);
    let running = prop::collection::vec(
        (prop::sample::select(&["fetch", "mail", "other"][..]), prop::sample::select(&TENANTS[..]), 0..4_u32),
        0..5,
    );
    let rates = prop::collection::btree_map(prop::sample::select(&["fetch", "mail"][..]), -2_000_i64..2_000, 0..=2);
    let tasks = prop_oneof![prop::collection::vec(task, 0..80), prop::collection::vec(few, 0..200)];
    (tasks, running, rates).prop_map(|(tasks, running, rates)| {
        let mut store = Store::default();
        for (queue, priority, tenant, ago) in tasks {
            store.add(queue, priority, tenant, NOW - ago);
        }
        for (agent, tenant, count) in running {
            store.running.insert((agent.into(), tenant.into()), count);
        }
        for (agent, ahead) in rates {
            store.rates.insert(agent.into(), (NOW + ahead) * 1_000);
        }
        store
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_picked_is_what_reading_everything_would_pick(
        store in stores(), policy in policies(), limit in 0..50_usize,
    ) {
        let expected = by_the_book(&store, &policy, NOW, limit);
        let claimed = store.clone().claim(&mut policy.clone(), NOW, limit);
        prop_assert_eq!(&claimed.selected.picks, &expected);
        prop_assert!(claimed.rounds <= 60, "{} rounds", claimed.rounds);
        // Nothing is left for another claim at the same moment, if this one was not full.
        if expected.len() < limit {
            prop_assert!(by_the_book(&left(&store, &policy, limit), &policy, NOW, 1).is_empty());
        }
    }

    #[test]
    fn rows_held_by_others_shorten_a_claim_and_never_break_a_rule(
        store in stores(), policy in policies(), limit in 0..50_usize, held in prop::collection::vec(any::<bool>(), 200),
    ) {
        let mut partial = store.clone();
        let ids: Vec<_> = store.queued.values().flatten().map(|task| task.1).collect();
        partial.locked = ids.iter().zip(&held).filter(|(_, held)| **held).map(|(id, _)| *id).collect();
        let mut without = store.clone();
        without.queued.values_mut().for_each(|tasks| tasks.retain(|task| !partial.locked.contains(&task.1)));
        without.queued.retain(|_, tasks| !tasks.is_empty());
        let claimed = partial.claim(&mut policy.clone(), NOW, limit);
        // Only heads know of rows that are held, and they decide nothing: the rest is chosen as if those were not there.
        prop_assert_eq!(claimed.selected.picks, by_the_book(&without, &policy, NOW, limit));
    }

    #[test]
    fn an_answer_of_any_kind_ends_the_claim(
        store in stores(), policy in policies(), limit in 0..50_usize, kinds in prop::collection::vec(0..5_u8, 64),
    ) {
        let now = Timestamp::from_millis(NOW);
        let mut selection = Selection::new(&policy, now, limit, store.heads(now), &store.running(), &store.rates());
        let mut kinds = kinds.into_iter().cycle();
        for round in 0.. {
            prop_assert!(round < 1_000, "asks without end");
            let asks = selection.asks();
            if asks.is_empty() {
                break;
            }
            for (index, ask) in asks.iter().enumerate() {
                let mut tasks = store.read(ask);
                match kinds.next() {
                    Some(0) => continue,
                    Some(1) => tasks.truncate(ask.limit / 2),
                    Some(2) => tasks = store.read(&super::Ask { after: None, ..ask.clone() }),
                    Some(3) => tasks.reverse(),
                    _ => {}
                }
                selection.offer(index, tasks.clone());
                selection.offer(index, tasks);
            }
        }
        let mut picks = selection.finish().picks;
        prop_assert!(picks.len() <= limit);
        let all = picks.len();
        picks.sort_unstable();
        picks.dedup();
        prop_assert_eq!(picks.len(), all, "picked twice");
    }

    #[test]
    fn shares_follow_weights_within_5_percent(
        weights in prop::collection::vec(1..=10_u32, 2..6), limit in 1..40_usize, claimers in 1..=4_usize,
    ) {
        let mut store = Store::default();
        let mut policies = vec![weighted(&weights); claimers];
        let mut got = vec![0_u32; weights.len()];
        let mut filled = BTreeMap::new();
        for round in 0..4_000 / limit {
            // Every tenant always has more than a claim takes.
            for (index, tenant) in TENANTS.iter().enumerate().take(weights.len()) {
                while *filled.entry(index).or_insert(0) < limit + 1 {
                    store.add("free@1", 5, tenant, NOW);
                    *filled.entry(index).or_default() += 1;
                }
            }
            let claimed = store.claim(&mut policies[round % claimers], NOW, limit);
            prop_assert_eq!(claimed.taken.len(), limit);
            for task in claimed.taken {
                let index = TENANTS.iter().position(|tenant| **tenant == *task.of.2).unwrap();
                got[index] += 1;
                *filled.entry(index).or_default() -= 1;
            }
        }
        let (all, weight): (u32, u32) = (got.iter().sum(), weights.iter().sum());
        for (got, own) in got.iter().zip(&weights) {
            let share = f64::from(*got) / f64::from(all) / (f64::from(*own) / f64::from(weight));
            prop_assert!((share - 1.0).abs() < 0.05, "{share} of its share: {got} of {all} at {own} of {weight}");
        }
    }

    #[test]
    fn limits_hold_at_every_moment_and_lose_nothing(
        store in stores(), policy in policies(), steps in prop::collection::vec((0..3_000_i64, 0..12_usize, 0..8_usize), 1..60),
    ) {
        let mut store = Store { running: BTreeMap::new(), ..store };
        let mut policy = policy;
        let mut running: Vec<Taken> = Vec::new();
        let mut granted: BTreeMap<Arc<str>, Vec<i64>> = BTreeMap::new();
        let mut now = NOW;
        // The two queues of `fetch` are one agent: give them one rate, so that one bound holds for it.
        let rule = policy.queues["fetch@1"].clone();
        policy.queues.insert("fetch@2".into(), rule);
        for (pass, limit, finish) in steps {
            now += pass;
            for _ in 0..finish.min(running.len()) {
                let task = running.remove(0);
                store.finished(&policy, &task);
            }
            let claimed = store.claim(&mut policy, now, limit);
            if claimed.taken.len() < limit {
                prop_assert!(comes_when_promised(&store, &policy, now, claimed.selected.again_at));
            }
            for task in claimed.taken {
                granted.entry(model::agent(&policy, &task.of.0)).or_default().push(now);
                running.push(task);
            }
            for rule in policy.queues.values() {
                let busy = store.running_of(|agent, _| agent == &*rule.agent);
                prop_assert!(rule.concurrency.is_none_or(|limit| busy <= limit));
            }
            for tenant in TENANTS {
                let busy = store.running_of(|_, of| of == tenant);
                prop_assert!(policy.tenant(tenant).concurrency.is_none_or(|limit| busy <= limit));
            }
        }
        for rule in policy.queues.values() {
            let (Some(rate), Some(times)) = (rule.rate, granted.get(&rule.agent)) else { continue };
            for (from, first) in times.iter().enumerate() {
                for (to, last) in times.iter().enumerate().skip(from) {
                    let window = i64::from(rate) * (last - first) / 60_000;
                    prop_assert!(i64::try_from(to - from + 1).unwrap() <= window + i64::from((rate / 60).max(1)));
                }
            }
        }
    }
}

/// What a rate holds back at `now` passes when `again_at` says, or when a claim then says, and not before.
fn comes_when_promised(store: &Store, policy: &ClaimPolicy, now: i64, mut again_at: Option<Timestamp>) -> bool {
    let mut store = store.clone();
    store.queued.values_mut().for_each(|tasks| tasks.retain(|task| task.0.as_millis() <= now));
    let held = Store { rates: BTreeMap::new(), ..store.clone() };
    if by_the_book(&held, policy, now, 1).is_empty() {
        return true;
    }
    // Twice at most: a promise may be for one of the two agents that has nothing more.
    for _ in 0..2 {
        let Some(again) = again_at.map(Timestamp::as_millis).filter(|again| *again > now) else { return false };
        if !by_the_book(&store, policy, again - 1, 1).is_empty() {
            return false;
        }
        let claimed = store.claim(&mut policy.clone(), again, 1);
        if !claimed.taken.is_empty() {
            return true;
        }
        again_at = claimed.selected.again_at;
    }
    false
}

fn left(store: &Store, policy: &ClaimPolicy, limit: usize) -> Store {
    let mut store = store.clone();
    store.claim(&mut policy.clone(), NOW, limit);
    store
}

fn limit(policy: &mut ClaimPolicy, queue: &str, concurrency: Option<u32>, rate: Option<u32>) {
    let agent = queue.split('@').next().unwrap_or(queue).into();
    policy.queues.insert(queue.into(), QueueRule { agent, concurrency, rate });
}

fn unlimited(queues: &[&str]) -> ClaimPolicy {
    let mut policy = ClaimPolicy::default();
    queues.iter().for_each(|queue| limit(&mut policy, queue, None, None));
    policy
}

fn weighted(weights: &[u32]) -> ClaimPolicy {
    let mut policy = unlimited(&QUEUES);
    for (tenant, weight) in TENANTS.iter().zip(weights) {
        policy.tenants.insert((*tenant).into(), TenantRule { weight: f64::from(*weight), concurrency: None });
    }
    policy
}

#[test]
fn a_small_tenant_is_not_behind_a_big_one() {
    for limit in [1, 7, 64] {
        let (mut store, mut policy) = (Store::default(), unlimited(&QUEUES));
        for n in 0..300 {
            store.add("free@1", 5, "big", NOW + n);
        }
        for n in 0..10 {
            store.add("free@1", 5, "small", NOW + 1_000 + n);
        }
        let mut order = Vec::new();
        while order.len() < 310 {
            order.extend(store.claim(&mut policy, NOW + 2_000, limit).taken.into_iter().map(|task| task.of.2));
        }
        let tenth = order.iter().enumerate().filter(|(_, tenant)| &***tenant == "small").nth(9).unwrap().0;
        assert!(tenth < 60, "the tenth of the small tenant came as number {tenth} in claims of {limit}");
    }
}

#[test]
fn the_lowest_priority_runs_in_nine_minutes_under_constant_load_of_the_highest() {
    for tenant in ["same", "other"] {
        let (mut store, mut policy) = (Store::default(), unlimited(&QUEUES));
        // Ten seconds' worth is always queued.
        for n in 0..100 {
            store.add("free@1", 9, "same", NOW + n);
        }
        let low = store.add("free@1", 0, tenant, NOW + 500);
        let mut ran = None;
        for second in 1..700_i64 {
            let now = NOW + second * 1_000;
            for n in 0..10 {
                store.add("free@1", 9, "same", now - n);
            }
            let claimed = store.claim(&mut policy, now, 10);
            assert_eq!(claimed.taken.len(), 10);
            for (of, due_at) in claimed.taken.iter().map(|task| (&task.of, task.due_at)) {
                assert_eq!(level(of, due_at, Timestamp::from_millis(now)), 9);
            }
            if claimed.taken.iter().any(|task| task.id == low) {
                ran = Some(second);
                break;
            }
        }
        let ran = ran.unwrap();
        assert!((540..=551).contains(&ran), "ran after {ran} s");
    }
}

#[test]
fn nothing_is_asked_of_what_a_limit_holds_back() {
    let mut store = Store::default();
    for n in 0..1_000 {
        store.add("mail@1", 9, "a", NOW - n);
        store.add("free@1", 5, "b", NOW - n);
    }
    let mut policy = unlimited(&QUEUES);
    limit(&mut policy, "mail@1", Some(3), Some(60));
    store.running.insert(("mail".into(), "z".into()), 1);
    let claimed = store.claim(&mut policy, NOW, 10);
    let of_mail = claimed.taken.iter().filter(|task| &*task.of.0 == "mail@1").count();
    assert_eq!((of_mail, claimed.taken.len(), claimed.rows), (1, 10, 10), "one a second passes, the rest waits");
    assert_eq!(claimed.selected.again_at, Some(Timestamp::from_millis(NOW + 1_000)));
    assert_eq!(store.claim(&mut policy, NOW + 1_000, 1).taken[0].of.0, "mail@1".into());
    let full = store.claim(&mut policy, NOW + 9_000, 10);
    assert!(full.taken.iter().all(|task| &*task.of.0 == "free@1"), "three run");
    assert_eq!(full.selected.again_at, None, "it is not the rate that holds it back");
}
