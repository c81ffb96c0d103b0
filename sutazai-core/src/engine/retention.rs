//! How long tasks that have ended are kept.

use std::{sync::Arc, time::Duration};

use super::inner::Inner;
use crate::{
    error::Result,
    store::Ended,
    task::{TaskId, TaskState},
};

/// How often retention looks.
const EVERY: Duration = Duration::from_secs(60);

/// Tasks removed in one commit: commits of others wait little.
const BATCH: usize = 200;

/// Between two batches, so that claims and writes go first.
const REST: Duration = Duration::from_millis(50);

/// A walk begins at the oldest again after this part of the age that it goes by.
const SHARE: u32 = 32;

/// How often it does so at least, by count and at all.
const AGAIN: [Duration; 2] = [Duration::from_secs(300), Duration::from_secs(24 * 3_600)];

/// The states in which tasks end.
const ENDS: [TaskState; 3] = [TaskState::Completed, TaskState::Failed, TaskState::Cancelled];

/// How long tasks in one state are kept; whatever is reached first. Without a limit they stay.
///
/// A task that went on for long after it was created, or that somebody still relied on, may stay longer: by a thirty-second of the age, a day at most; by count
/// five minutes at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// At most so long after their end.
    pub age: Option<Duration>,
    /// At most so many, the newest.
    pub count: Option<u64>,
}

/// How long tasks that have ended are kept, by state. A task stays longer while an idempotency key of it has not had its day or its webhook is still to be
/// posted, as [`TaskStore::purge`](crate::store::TaskStore::purge) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Completed ones: 30 days by default.
    pub completed: Keep,
    /// Failed ones, dead letters among them: for good by default.
    pub failed: Keep,
    /// Cancelled ones: 30 days by default.
    pub cancelled: Keep,
}

impl Default for Retention {
    fn default() -> Self {
        let month = Keep { age: Some(Duration::from_secs(30 * 24 * 3_600)), count: None };
        Self { completed: month, failed: Keep::default(), cancelled: month }
    }
}

impl Keep {
    /// How often all that is kept is looked at.
    fn again(&self) -> Duration {
        let most = if self.count.is_some() { AGAIN[0] } else { AGAIN[1] };
        self.age.map_or(most, |age| (age / SHARE).clamp(EVERY, most))
    }
}

impl Retention {
    /// Everything stays.
    pub const FOREVER: Self = {
        let all = Keep { age: None, count: None };
        Self { completed: all, failed: all, cancelled: all }
    };

    fn of(&self, state: TaskState) -> Keep {
        match state {
            TaskState::Completed => self.completed,
            TaskState::Failed => self.failed,
            TaskState::Cancelled => self.cancelled,
            _ => Keep::default(),
        }
    }
}

/// Removes what need not be kept, until aborted.
pub(crate) async fn keep_tidy(engine: Arc<Inner>) {
    if engine.retention == Retention::FOREVER {
        return;
    }
    let mut walks = Walks::default();
    loop {
        tokio::time::sleep(EVERY).await;
        let Swept { removed, .. } = sweep(&engine, &mut walks).await;
        if removed > 0 {
            tracing::info!(tasks = removed, "removed tasks that had ended and need not be kept");
        }
    }
}

/// How far the walk over the tasks in one state has come: what stays is passed once, and not looked at again before the walk begins anew.
#[derive(Default)]
struct Walk {
    after: Option<TaskId>,
    /// When it last began at the oldest, by [`Clock::elapsed`](crate::clock::Clock::elapsed).
    began: Option<Duration>,
}

/// One for each of [`ENDS`].
type Walks = [Walk; ENDS.len()];

/// What a sweep came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Swept {
    looked_at: usize,
    removed: u64,
}

/// Goes on with each walk, from where it stands to what need not be looked at yet; one that fails goes on the next time.
async fn sweep(engine: &Inner, walks: &mut Walks) -> Swept {
    let mut swept = Swept::default();
    for (state, walk) in ENDS.into_iter().zip(walks) {
        if let Err(error) = go_on(engine, state, walk, &mut swept).await {
            tracing::warn!(state = state.as_str(), error = %error.report(), "old tasks cannot be removed");
        }
    }
    swept
}

async fn go_on(engine: &Inner, state: TaskState, walk: &mut Walk, swept: &mut Swept) -> Result<()> {
    let keep = engine.retention.of(state);
    let (now, elapsed) = (engine.clock.now(), engine.clock.elapsed());
    if walk.began.is_none_or(|began| elapsed.saturating_sub(began) >= keep.again()) {
        *walk = Walk { after: None, began: Some(elapsed) };
    }
    let aged = keep.age.map(|age| now.minus(age));
    let surplus = match keep.count {
        Some(count) => engine.store.nth_newest(state, count).await?,
        None => None,
    };
    loop {
        // Up to the newest one that is too much every one is; beyond it none is that was created later than what is too old.
        let newest = surplus.filter(|newest| walk.after.is_none_or(|after| after < *newest));
        let Some(created_before) = newest.map(|_| now).or(aged) else { return Ok(()) };
        let mut page = engine.store.ended(walk.after, created_before, BATCH).await?;
        swept.looked_at += page.len();
        let full = page.len() == BATCH;
        let mut last = page.last().map(|ended| ended.id);
        if let Some(newest) = newest
            && (!full || last > Some(newest))
        {
            page.retain(|ended| ended.id <= newest);
            last = Some(newest);
        }
        let old = |ended: &&Ended| {
            let too_old = aged.is_some_and(|aged| ended.finished_at < aged);
            ended.state == state && (too_old || surplus.is_some_and(|newest| ended.id <= newest))
        };
        let old: Vec<TaskId> = page.iter().filter(old).map(|ended| ended.id).collect();
        if !old.is_empty() {
            swept.removed += engine.store.purge(&old, now).await?;
        }
        walk.after = walk.after.max(last);
        if newest.is_none() && !full {
            return Ok(());
        }
        if full {
            tokio::time::sleep(REST).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::{
        clock::{Clock, Timestamp},
        engine::{Command, Orchestrator, create},
        memory::MemoryTaskStore,
        payload::Payload,
        store::{TaskStore, TaskWrite, WriteOutcome},
        task::TaskRequest,
    };

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(24 * 3_600);

    /// A clock that is set by hand, in milliseconds after the beginning.
    #[derive(Default)]
    struct Hands(AtomicU64);

    impl Hands {
        fn pass(&self, time: Duration) {
            self.0.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
        }
    }

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            after(self.elapsed())
        }

        fn random(&self) -> u64 {
            4
        }

        fn elapsed(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::SeqCst))
        }
    }

    fn after(time: Duration) -> Timestamp {
        Timestamp::from_millis(1_796_083_200_000).plus(time)
    }

    struct Story {
        clock: Arc<Hands>,
        store: Arc<MemoryTaskStore>,
        engine: Orchestrator,
        walks: Walks,
        ids: u64,
    }

    impl Story {
        /// Begins two days after the beginning of the clock.
        async fn begin(cancelled: Keep) -> Self {
            let clock = Arc::new(Hands::default());
            clock.pass(2 * DAY);
            let store = Arc::new(MemoryTaskStore::new());
            let retention = Retention { completed: Keep::default(), failed: Keep::default(), cancelled };
            let engine = Orchestrator::builder().clock(clock.clone()).shared_store(store.clone()).retention(retention);
            Self { clock, store, engine: engine.start().await.unwrap(), walks: Walks::default(), ids: 0 }
        }

        /// Stores tasks that were created at one moment and ended at another.
        async fn ended(&mut self, count: usize, how: Command, created: Duration, ended: Duration) {
            let (created, ended) = (after(created), after(ended));
            let mut batch = Vec::new();
            for _ in 0..count {
                self.ids += 1;
                let ticks = (u64::try_from(created.as_millis()).unwrap() << 12) | self.ids;
                let request = TaskRequest::new("a", Payload::null());
                let mut step = create(TaskId::from_ticks(ticks, 0), "a".into(), "1.0.0".into(), request, created);
                step.apply(how.clone(), ended).unwrap();
                batch.push(TaskWrite::Insert {
                    task: Arc::new(step.task),
                    events: step.events,
                    key: None,
                    journal: None,
                });
            }
            assert_eq!(self.store.write(&batch).await.unwrap(), vec![WriteOutcome::Applied; count]);
        }

        async fn sweep(&mut self) -> (usize, u64) {
            let Swept { looked_at, removed } = sweep(&self.engine.inner, &mut self.walks).await;
            (looked_at, removed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_looks_at_what_has_come_of_age_since_the_last_one() {
        let mut story = Story::begin(Keep { age: Some(DAY), count: None }).await;
        story.ended(450, Command::Expire, Duration::ZERO, Duration::ZERO).await;
        story.ended(2, Command::Cancel, Duration::ZERO, Duration::ZERO).await;
        story.ended(1, Command::Cancel, MINUTE, DAY + 5 * MINUTE).await;
        assert_eq!(story.sweep().await, (453, 2));
        assert_eq!(story.sweep().await, (0, 0), "what is kept for good is passed once");
        story.ended(1, Command::Cancel, DAY + 5 * MINUTE, DAY + 5 * MINUTE).await;
        story.ended(3, Command::Expire, DAY + 5 * MINUTE, DAY + 5 * MINUTE).await;
        story.ended(1, Command::Cancel, DAY + 11 * MINUTE, DAY + 11 * MINUTE).await;
        story.clock.pass(10 * MINUTE);
        assert_eq!(story.sweep().await, (4, 1), "and the one that ended late waits");
        story.clock.pass(DAY / SHARE);
        assert_eq!(story.sweep().await, (455, 2), "until the walk begins again");
        assert_eq!(story.sweep().await, (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_by_count_looks_at_what_is_too_much() {
        let mut story = Story::begin(Keep { age: None, count: Some(3) }).await;
        story.ended(450, Command::Expire, Duration::ZERO, Duration::ZERO).await;
        story.ended(5, Command::Cancel, MINUTE, MINUTE).await;
        assert_eq!(story.sweep().await, (455, 2));
        assert_eq!(story.sweep().await, (0, 0));
        story.ended(1, Command::Cancel, 2 * MINUTE, 2 * MINUTE).await;
        assert_eq!(story.sweep().await, (4, 1), "what comes after the last one that was too much");
        assert_eq!(story.sweep().await, (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn whichever_of_age_and_count_is_reached_first_removes() {
        let mut story = Story::begin(Keep { age: Some(DAY), count: Some(2) }).await;
        story.ended(1, Command::Cancel, Duration::ZERO, Duration::ZERO).await;
        assert_eq!(story.sweep().await.1, 1, "too old");
        story.ended(250, Command::Cancel, DAY + MINUTE, DAY + MINUTE).await;
        assert_eq!(story.sweep().await.1, 248, "too many");
        story.clock.pass(2 * MINUTE);
        assert_eq!(story.sweep().await.1, 2, "too old as well by now");
    }
}
