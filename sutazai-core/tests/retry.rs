//! How failed attempts are spaced, for any policy, any attempt and any draw.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::time::Duration;

use proptest::prelude::*;
use sutazai_core::{
    Payload,
    clock::Timestamp,
    engine::{Command, Transition, create},
    task::{MAX_DELAY, NodeId, RetryPolicy, TaskError, TaskId, TaskRequest, TaskState, Wait},
};

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_796_083_200_000 + millis)
}

/// A task whose attempt `attempt` fails at `now` with an error that asks for `least`.
fn failed(policy: RetryPolicy, attempt: u32, least: Duration, random: u64, now: i64) -> Transition {
    let request = TaskRequest::new("a", Payload::null()).retry(policy);
    let mut step = create(TaskId::from_bytes([7; 16]), "a".into(), "1.0.0".into(), request, at(0));
    step.task.attempt = attempt - 1;
    step.task.wait = (attempt > 1).then_some(Wait::Retry);
    step.apply(Command::Claim { node: NodeId::new("n") }, at(now)).unwrap();
    assert_eq!(step.task.attempt, attempt);
    let error = TaskError::new("busy", "later");
    step.apply(Command::Fail { error, retry: Some(least), random }, at(now)).unwrap();
    step
}

/// The longest that a policy may wait after an attempt.
fn cap(policy: &RetryPolicy, attempt: u32) -> u128 {
    let doubled = 1_u128 << (attempt - 1).min(64);
    u128::from(policy.initial_ms).saturating_mul(doubled).min(u128::from(policy.max_ms))
}

prop_compose! {
    fn policies()(initial_ms in 0..20_000_u64, max_ms in 0..200_000_u64) -> RetryPolicy {
        RetryPolicy { max_attempts: u32::MAX, initial_ms, max_ms }
    }
}

proptest! {
    /// Full jitter: every tenth of the range is met as often as any other, and nothing beyond it.
    #[test]
    fn delays_fill_their_range_evenly(policy in policies(), attempt in 1..40_u32, seed: u64) {
        let cap = cap(&policy, attempt);
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut tenths, draws) = ([0_u32; 10], 2_000);
        for _ in 0..draws {
            let delay = policy.delay(attempt, rng.u64(..)).as_millis();
            prop_assert!(delay <= cap, "{delay} ms of {cap}");
            tenths[usize::try_from(delay * 10 / (cap + 1)).unwrap()] += 1;
        }
        // Seven standard deviations of a tenth of the draws; fewer values than that are no range.
        prop_assert!(cap < 1_000 || tenths.iter().all(|count| count.abs_diff(200) < 95), "{tenths:?}");
    }

    /// The longest delay never shrinks from one attempt to the next, and ends at the policy's limit.
    #[test]
    fn the_longest_delay_only_grows(policy in policies(), attempt in 1..70_u32) {
        let longest = |attempt| {
            let cap = u64::try_from(cap(&policy, attempt)).unwrap();
            policy.delay(attempt, cap).as_millis()
        };
        prop_assert_eq!(longest(attempt), cap(&policy, attempt), "the whole range can be drawn");
        prop_assert!(longest(attempt) <= longest(attempt + 1));
        prop_assert!(policy.initial_ms == 0 || longest(64) == u128::from(policy.max_ms));
    }

    /// An error that says when to come again is not asked before; without limits of reason it would never be.
    #[test]
    fn what_an_error_asks_for_is_waited_for(
        policy in policies(), attempt in 1..40_u32, least in 0..4_000_000_000_u64, random: u64, now in 0..1_000_000_i64,
    ) {
        let least = Duration::from_millis(least);
        let step = failed(policy, attempt, least, random, now);
        prop_assert_eq!(step.task.state, TaskState::Waiting);
        let waits = at(now).until(step.task.due_at);
        let own = policy.delay(attempt, random);
        prop_assert_eq!(waits, own.max(least.min(MAX_DELAY)));
        // And nobody is granted it before.
        let mut early = step.clone();
        let node = NodeId::new("n");
        let before = Timestamp::from_millis(step.task.due_at.as_millis() - 1);
        let refused = early.apply(Command::Claim { node: node.clone() }, before).is_err();
        prop_assert!(waits.is_zero() || refused);
        let granted = waits.is_zero() || early.apply(Command::Claim { node }, step.task.due_at).is_ok();
        prop_assert!(granted);
    }

    /// As many attempts as the policy says, and not one more.
    #[test]
    fn attempts_end_where_the_policy_says(max_attempts in 1..20_u32, random: u64) {
        let policy = RetryPolicy { max_attempts, ..RetryPolicy::default() };
        for attempt in 1..=max_attempts {
            let step = failed(policy, attempt, Duration::ZERO, random, 0);
            prop_assert_eq!(step.task.state == TaskState::Failed, attempt == max_attempts);
        }
    }
}
