//! One sub-queue as a claim sees it: what has been read of it, and the least that can come next.

use std::{collections::VecDeque, sync::Arc};

use super::{Candidate, Head, rate::Gcra};
use crate::{
    clock::Timestamp,
    task::{Priority, TaskId},
};

/// How many milliseconds a task waits for a step up in priority.
const STEP: i64 = 60_000;

/// A task's place in its sub-queue. No id comes before every id.
pub(super) type Place = (Timestamp, Option<TaskId>);

/// The limits that a sub-queue is under, and whose state they look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) agent: usize,
    pub(super) concurrency: Option<u32>,
    pub(super) rate: Option<Gcra>,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) queue: Arc<str>,
    pub(super) priority: Priority,
    pub(super) tenant: usize,
    pub(super) limits: Option<Limits>,
    /// Read and not picked, in order.
    ready: VecDeque<Candidate>,
    /// What is not read comes after this, or is this if it has no id.
    read: Place,
    /// What is due by then has been read, or is another's at present.
    exhausted: Option<Timestamp>,
    /// How many the latest ask was for.
    pub(super) asked: usize,
}

impl Lane {
    pub(super) fn new(head: Head, tenant: usize, limits: Option<Limits>) -> Self {
        Self {
            queue: head.queue,
            priority: head.priority,
            tenant,
            limits,
            ready: VecDeque::new(),
            read: (head.due_at, None),
            exhausted: None,
            asked: 0,
        }
    }

    /// The place of the next task if it has been read, else the earliest that it can have; `None` if there is none
    /// that is due at `now`.
    pub(super) fn next(&self, now: Timestamp) -> Option<Place> {
        match (self.ready.front(), self.exhausted) {
            (Some(first), _) => Some((first.due_at, Some(first.id))),
            (None, Some(by)) if by >= now => None,
            (None, _) => Some(self.unread()),
        }
    }

    /// The next task's effective priority, or the highest that it can have.
    pub(super) fn level(&self, now: Timestamp) -> Option<u8> {
        self.next(now).map(|(due_at, _)| level(self.priority, due_at, now))
    }

    /// The earliest place that what is not read can have.
    pub(super) fn unread(&self) -> Place {
        match self.exhausted {
            Some(by) if by >= self.read.0 => (Timestamp::from_millis(by.as_millis().saturating_add(1)), None),
            _ => self.read,
        }
    }

    /// Whether there may be more tasks of `level` than have been read.
    pub(super) fn endless(&self, level: u8, now: Timestamp) -> bool {
        self.exhausted.is_none_or(|by| by < due_by(self.priority, level, now))
    }

    /// What has been read of tasks of `level` and above.
    pub(super) fn known(&self, level: u8, now: Timestamp) -> impl ExactSizeIterator<Item = &Candidate> {
        let by = due_by(self.priority, level, now);
        self.ready.range(..self.ready.partition_point(|task| task.due_at <= by))
    }

    /// Where reading goes on.
    pub(super) fn after(&self) -> Option<(Timestamp, TaskId)> {
        let (due_at, id) = self.read;
        id.map(|id| (due_at, id))
    }

    /// The first task, if it has been read.
    pub(super) fn first(&self) -> Option<TaskId> {
        self.ready.front().map(|task| task.id)
    }

    pub(super) fn take(&mut self) -> Option<TaskId> {
        self.ready.pop_front().map(|task| task.id)
    }

    /// What an ask for `limit` tasks due by `by` brought. What does not go on from what was read before does not count,
    /// so that whatever a store answers, a claim ends and picks nothing twice.
    pub(super) fn offer(&mut self, tasks: Vec<Candidate>, by: Timestamp, limit: usize) {
        let before = self.ready.len();
        for task in tasks {
            let place = (task.due_at, Some(task.id));
            if task.due_at <= by && place > self.read {
                self.read = place;
                self.ready.push_back(task);
            }
        }
        if self.ready.len() - before < limit {
            self.exhausted = self.exhausted.max(Some(by));
        }
    }
}

/// A task's effective priority at `now`: a step up for every minute that it has been due, up to the highest.
pub(super) fn level(priority: Priority, due_at: Timestamp, now: Timestamp) -> u8 {
    let steps = now.as_millis().saturating_sub(due_at.as_millis()).max(0) / STEP;
    priority.get().saturating_add(u8::try_from(steps).unwrap_or(u8::MAX)).min(Priority::MAX.get())
}

/// The latest moment at which a task of `priority` must have been due to have come up to `level` by `now`.
pub(super) fn due_by(priority: Priority, level: u8, now: Timestamp) -> Timestamp {
    let waited = STEP * i64::from(level.saturating_sub(priority.get()));
    Timestamp::from_millis(now.as_millis().saturating_sub(waited))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_rises_a_step_a_minute_up_to_the_highest() {
        let now = Timestamp::from_millis(10_000_000);
        let due = |ago: i64| Timestamp::from_millis(10_000_000 - ago);
        let low = Priority::new(3).unwrap();
        assert_eq!(level(low, due(0), now), 3);
        assert_eq!(level(low, due(59_999), now), 3);
        assert_eq!(level(low, due(60_000), now), 4);
        assert_eq!(level(low, due(10_000_000), now), 9);
        assert_eq!(level(low, due(-60_000), now), 3, "a clock behind the submitter's");
        assert_eq!(level(low, Timestamp::from_millis(i64::MIN), now), 9);
        for up_to in 0..=9 {
            let by = due_by(low, up_to, now);
            assert!(level(low, by, now) >= up_to);
            let later = Timestamp::from_millis(by.as_millis() + 1);
            assert!(by == now || level(low, later, now) < up_to);
        }
    }
}
