//! How long tasks that have ended are kept.

use std::{sync::Arc, time::Duration};

use super::inner::Inner;
use crate::{
    error::Result,
    task::{TaskId, TaskState},
};

/// How often retention looks.
const EVERY: Duration = Duration::from_secs(60);

/// Tasks removed in one commit: commits of others wait little.
const BATCH: usize = 200;

/// Between two batches, so that claims and writes go first.
const REST: Duration = Duration::from_millis(50);

/// How long tasks in one state are kept; whatever is reached first. Without a limit they stay.
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
    loop {
        tokio::time::sleep(EVERY).await;
        match sweep(&engine).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(tasks = count, "removed tasks that had ended and need not be kept"),
            Err(error) => tracing::warn!(error = %error.report(), "old tasks cannot be removed"),
        }
    }
}

/// One walk over what has ended, from the oldest on.
async fn sweep(engine: &Inner) -> Result<u64> {
    let now = engine.clock.now();
    let ends = [TaskState::Completed, TaskState::Failed, TaskState::Cancelled];
    let mut newest_surplus: [Option<TaskId>; 3] = [None; 3];
    for (surplus, state) in newest_surplus.iter_mut().zip(ends) {
        if let Some(count) = engine.retention.of(state).count {
            *surplus = engine.store.nth_newest(state, count).await?;
        }
    }
    // Nothing younger than this can be too old, and nothing above the surplus can be too much.
    let youngest = ends.iter().filter_map(|state| engine.retention.of(*state).age).min();
    let aged = youngest.map(|age| now.minus(age));
    let created_before = if newest_surplus.iter().any(Option::is_some) { Some(now) } else { aged };
    let Some(created_before) = created_before else { return Ok(0) };
    let (mut after, mut removed) = (None, 0);
    loop {
        let page = engine.store.ended(after, created_before, BATCH).await?;
        let Some(last) = page.last() else { return Ok(removed) };
        after = Some(last.id);
        let full = page.len() == BATCH;
        let old: Vec<TaskId> = page
            .iter()
            .filter(|ended| {
                let too_old =
                    engine.retention.of(ended.state).age.is_some_and(|age| ended.finished_at < now.minus(age));
                let surplus =
                    ends.iter().position(|state| *state == ended.state).and_then(|place| newest_surplus[place]);
                too_old || surplus.is_some_and(|newest| ended.id <= newest)
            })
            .map(|ended| ended.id)
            .collect();
        if !old.is_empty() {
            removed += engine.store.purge(&old, now).await?;
        }
        if !full {
            return Ok(removed);
        }
        tokio::time::sleep(REST).await;
    }
}
