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
    rows: BTreeMap<TaskId, Delivery>,
    due: BTreeSet<(Timestamp, TaskId)>,
    given_up: BTreeSet<TaskId>,
}

impl Outbox {
    /// A task is stored, with a webhook or without.
    pub(super) fn open(&mut self, task: &Task) {
        if let Some(url) = &task.webhook {
            let new =
                Delivery { task: task.id, url: url.clone(), posted: 0, failures: 0, due_at: None, given_up: None };
            self.rows.insert(task.id, new);
        }
    }

    /// A task has news.
    pub(super) fn news(&mut self, task: TaskId, at: Timestamp) {
        if self.rows.get(&task).is_some_and(|row| row.due_at.is_none() && row.given_up.is_none()) {
            self.set_due(task, Some(at));
        }
    }

    /// Takes what is due, and holds it.
    pub(super) fn take(&mut self, now: Timestamp, limit: usize, hold: Duration) -> Vec<Delivery> {
        let due = self.due.range(..=(now, TaskId::from_bytes(super::index::LAST))).take(limit);
        let ids: Vec<_> = due.map(|(_, id)| *id).collect();
        ids.iter().for_each(|id| self.set_due(*id, Some(now.plus(hold))));
        ids.iter().filter_map(|id| self.rows.get(id)).cloned().collect()
    }

    /// Notes what became of a delivery of a task whose newest event has the number `seq`, if it stands as it was taken.
    pub(super) fn posted(&mut self, taken: &Delivery, what: &Posted, seq: u64, now: Timestamp) -> bool {
        let place = |one: &Delivery| (one.due_at, one.posted, one.failures);
        let Some(row) = self.rows.get_mut(&taken.task).filter(|row| place(row) == place(taken)) else { return false };
        let due_at = match what {
            Posted::UpTo(number) => {
                (row.posted, row.failures) = (*number, 0);
                (seq > *number).then_some(now)
            }
            Posted::Later { posted, failures, due_at } => {
                (row.posted, row.failures) = (*posted, *failures);
                Some(*due_at)
            }
            Posted::GivenUp { posted, failures, why } => {
                (row.posted, row.failures, row.given_up) = (*posted, *failures, Some(why.clone()));
                self.given_up.insert(taken.task);
                None
            }
        };
        self.set_due(taken.task, due_at);
        true
    }

    /// Begins again what was given up, after event `skip` if there is one; whether it was.
    pub(super) fn revive(&mut self, task: TaskId, skip: Option<u64>, now: Timestamp) -> bool {
        if !self.given_up.remove(&task) {
            return false;
        }
        if let Some(row) = self.rows.get_mut(&task) {
            (row.given_up, row.failures) = (None, 0);
            row.posted = skip.unwrap_or(row.posted);
        }
        self.set_due(task, Some(now).filter(|_| skip.is_none()));
        true
    }

    /// What was given up, newest task first.
    pub(super) fn undelivered(&self, before: Option<TaskId>, limit: usize) -> Page<Delivery> {
        let before = before.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = self.given_up.range((Bound::Unbounded, before)).rev().filter_map(|id| self.rows.get(id));
        let items: Vec<_> = found.by_ref().take(limit).cloned().collect();
        Page { items, more: limit > 0 && found.next().is_some() }
    }

    /// Whether something of a task is still to be posted.
    pub(super) fn is_due(&self, task: TaskId) -> bool {
        self.rows.get(&task).is_some_and(|row| row.due_at.is_some())
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
