//! Deliveries, one for each task with a webhook.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use crate::{
    clock::Timestamp,
    store::{Delivery, Page, Posted},
    task::{Task, TaskId},
};

/// Every delivery.
#[derive(Default)]
pub(super) struct Outbox {
    rows: BTreeMap<TaskId, Row>,
    due: BTreeSet<(Timestamp, TaskId)>,
    given_up: BTreeSet<TaskId>,
}

struct Row {
    delivery: Delivery,
    /// None if nothing is new, or it was given up.
    due_at: Option<Timestamp>,
}

impl Outbox {
    /// A task is stored, with a webhook or without.
    pub(super) fn open(&mut self, task: &Task) {
        if let Some(url) = &task.webhook {
            let delivery = Delivery { task: task.id, url: url.clone(), posted: 0, failures: 0, given_up: None };
            self.rows.insert(task.id, Row { delivery, due_at: None });
        }
    }

    /// A task has news.
    pub(super) fn news(&mut self, task: TaskId, at: Timestamp) {
        if self.rows.get(&task).is_some_and(|row| row.due_at.is_none() && row.delivery.given_up.is_none()) {
            self.set_due(task, Some(at));
        }
    }

    /// Takes what is due, and holds it.
    pub(super) fn take(&mut self, now: Timestamp, limit: usize, hold: Duration) -> Vec<Delivery> {
        let due = self.due.range(..=(now, TaskId::from_bytes(super::index::LAST))).take(limit);
        let ids: Vec<_> = due.map(|(_, id)| *id).collect();
        ids.iter().for_each(|id| self.set_due(*id, Some(now.plus(hold))));
        ids.iter().filter_map(|id| self.rows.get(id)).map(|row| row.delivery.clone()).collect()
    }

    /// Notes what became of a delivery of a task whose newest event has the number `seq`.
    pub(super) fn posted(&mut self, task: TaskId, what: &Posted, seq: u64, now: Timestamp) {
        let Some(Row { delivery, due_at }) = self.rows.get_mut(&task) else { return };
        let due_at = match what {
            Posted::UpTo(number) => {
                delivery.posted = delivery.posted.max(*number);
                delivery.failures = 0;
                (seq > delivery.posted && delivery.given_up.is_none()).then_some(now)
            }
            Posted::Failed { retry_at } if delivery.given_up.is_none() => {
                delivery.failures += 1;
                Some(*retry_at)
            }
            Posted::Failed { .. } => *due_at,
            Posted::GivenUp { why } => {
                delivery.given_up = Some(why.clone());
                self.given_up.insert(task);
                None
            }
            Posted::Revived if delivery.given_up.is_some() => {
                (delivery.given_up, delivery.failures) = (None, 0);
                self.given_up.remove(&task);
                Some(now)
            }
            Posted::Revived => *due_at,
        };
        self.set_due(task, due_at);
    }

    /// What was given up, newest task first.
    pub(super) fn undelivered(&self, before: Option<TaskId>, limit: usize) -> Page<Delivery> {
        let before = before.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = self.given_up.range((Bound::Unbounded, before)).rev().filter_map(|id| self.rows.get(id));
        let items: Vec<_> = found.by_ref().take(limit).map(|row| row.delivery.clone()).collect();
        Page { items, more: limit > 0 && found.next().is_some() }
    }

    /// The task is gone.
    pub(super) fn drop(&mut self, task: TaskId) {
        self.set_due(task, None);
        self.rows.remove(&task);
        self.given_up.remove(&task);
    }

    fn set_due(&mut self, task: TaskId, due_at: Option<Timestamp>) {
        let Some(row) = self.rows.get_mut(&task) else { return };
        if let Some(before) = std::mem::replace(&mut row.due_at, due_at) {
            self.due.remove(&(before, task));
        }
        if let Some(after) = due_at {
            self.due.insert((after, task));
        }
    }
}
