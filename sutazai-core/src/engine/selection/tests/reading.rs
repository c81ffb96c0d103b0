//! How many rows a claim reads, and in how many rounds.

use super::{NOW, QUEUES, TENANTS, limit, model::Store, unlimited};
use crate::engine::selection::ClaimPolicy;

#[test]
fn about_as_many_rows_are_read_as_are_granted() {
    let mut uneven = Store::default();
    for n in 0..40_000_i64 {
        // Tenant n has a part of all that shrinks with n; half of it is old.
        let tenant = format!("tenant-{:04}", (n * n) % 1_999 % 1_000);
        uneven.add(QUEUES[usize::try_from(n % 4).unwrap()], 5, &tenant, NOW - (n % 2) * 200_000 - n % 7);
    }
    for limit in [1, 64, 500] {
        let claimed = uneven.clone().claim(&mut unlimited(&QUEUES), NOW, limit);
        assert_eq!(claimed.taken.len(), limit);
        assert!(claimed.rows <= 2 * limit, "{} rows for {limit}", claimed.rows);
        assert!(claimed.rounds <= 8, "{} rounds for {limit}", claimed.rounds);
    }
    // One tenant with one sub-queue: exactly, at once, whatever its age.
    let mut plain = Store::default();
    for n in 0..10_000 {
        plain.add("free@1", 5, "default", NOW - n * 100);
    }
    let claimed = plain.clone().claim(&mut unlimited(&QUEUES), NOW, 512);
    assert_eq!((claimed.taken.len(), claimed.rows, claimed.rounds), (512, 512, 1));
    // Many sub-queues of one tenant, one of which has all that is old.
    let mut policy = unlimited(&QUEUES);
    for n in 0..1_000 {
        let queue = format!("agent-{n}@1");
        plain.add(&queue, 5, "default", NOW - n % 7);
        limit(&mut policy, &queue, None, None);
    }
    let claimed = plain.claim(&mut policy, NOW, 512);
    assert!(claimed.rows <= 3 * 512 && claimed.rounds <= 12, "{} rows, {} rounds", claimed.rows, claimed.rounds);
}

#[test]
fn sub_queues_of_one_tenant_are_read_about_as_far_as_they_are_picked() {
    // All alike: each is asked for its part.
    let (mut even, mut policy) = (Store::default(), ClaimPolicy::default());
    for n in 0..20_000_i64 {
        let queue = format!("agent-{}@1", n % 20);
        even.add(&queue, 5, "a", NOW - n % 997);
        limit(&mut policy, &queue, None, None);
    }
    let claimed = even.claim(&mut policy, NOW, 500);
    assert!(claimed.rows <= 600 && claimed.rounds <= 8, "{} rows, {} rounds", claimed.rows, claimed.rounds);
    // One has nearly all that is old, behind the first tasks of the others.
    let (mut skewed, mut policy) = (Store::default(), ClaimPolicy::default());
    for n in 0..32_000_i64 {
        let queue = format!("agent-{}@1", n % 64);
        let ago = if n < 64 {
            6_000
        } else if n % 64 == 0 {
            5_000
        } else {
            0
        };
        skewed.add(&queue, 5, "a", NOW - ago);
        limit(&mut policy, &queue, None, None);
    }
    let claimed = skewed.claim(&mut policy, NOW, 512);
    assert_eq!(claimed.taken.iter().filter(|task| &*task.of.0 == "agent-0@1").count(), 512 - 63);
    assert!(claimed.rows <= 3 * 512 && claimed.rounds <= 8, "{} rows, {} rounds", claimed.rows, claimed.rounds);
}

#[test]
fn tasks_of_many_ages_are_read_at_once_where_nothing_comes_between() {
    let mut store = Store::default();
    for n in 0..20 {
        store.add("free@1", 3, TENANTS[usize::try_from(n % 2).unwrap()], NOW - n * 20_000);
    }
    let claimed = store.clone().claim(&mut unlimited(&QUEUES), NOW, 100);
    assert_eq!((claimed.taken.len(), claimed.rows, claimed.rounds), (20, 20, 1));
    // Here something does: down to it first, then the rest of both.
    store.add("mail@1", 5, "a", NOW);
    let claimed = store.claim(&mut unlimited(&QUEUES), NOW, 100);
    assert_eq!((claimed.taken.len(), claimed.rows), (21, 21));
    assert!(claimed.rounds <= 4, "{} rounds", claimed.rounds);
}
