//! The series of one agent, resolved once.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use prometheus::{Histogram, IntCounter, IntGauge};
use sutazai_core::task::{Event, EventKind, Task, TaskState};

use super::Families;

/// Codes of errors that have a series of their own; agents choose their codes, so there must be a bound.
const MAX_CODES: usize = 64;

pub(super) struct AgentMetrics {
    name: String,
    families: Arc<Families>,
    pub(super) depth: IntGauge,
    /// Of tasks that came from outside, and of those that an agent called for.
    kinds: [OnceLock<KindMetrics>; 2],
    codes: Mutex<BTreeSet<String>>,
}

struct KindMetrics {
    completed: IntCounter,
    failed: IntCounter,
    cancelled: IntCounter,
    latency: Histogram,
}

impl AgentMetrics {
    pub(super) fn new(name: &str, families: Arc<Families>) -> Self {
        let depth = families.depth.with_label_values(&[name]);
        Self { name: name.to_owned(), families, depth, kinds: Default::default(), codes: Mutex::default() }
    }

    pub(super) fn changed(&self, task: &Task, events: &[Event]) {
        for event in events {
            match &event.kind {
                EventKind::Retrying { error, .. } => self.failed(&error.code),
                kind if kind.is_terminal() => {
                    if let EventKind::Failed { error } = kind {
                        self.failed(&error.code);
                        self.dead_letter("failed");
                    }
                    self.ended(task);
                }
                EventKind::Recovered { .. } => self.families.recovered.with_label_values(&[&*self.name]).inc(),
                EventKind::Requeued { .. } => self.dead_letter("requeued"),
                EventKind::Discarded {} => self.dead_letter("discarded"),
                _ => {}
            }
        }
    }

    fn dead_letter(&self, event: &str) {
        self.families.dead_letters.with_label_values(&[&*self.name, event]).inc();
    }

    fn ended(&self, task: &Task) {
        let kind = usize::from(task.parent_id.is_some());
        let metrics = self.kinds[kind].get_or_init(|| self.kind(["task", "call"][kind]));
        match task.state {
            TaskState::Completed => metrics.completed.inc(),
            TaskState::Failed => metrics.failed.inc(),
            _ => metrics.cancelled.inc(),
        }
        if let Some(end) = task.finished_at {
            metrics.latency.observe(task.created_at.until(end).as_secs_f64() * 1_000.0);
        }
    }

    fn kind(&self, kind: &str) -> KindMetrics {
        let counter = |status: &str| self.families.tasks.with_label_values(&[&*self.name, kind, status]);
        KindMetrics {
            completed: counter("completed"),
            failed: counter("failed"),
            cancelled: counter("cancelled"),
            latency: self.families.latency.with_label_values(&[&*self.name, kind]),
        }
    }

    fn failed(&self, code: &str) {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = codes.contains(code) || (codes.len() < MAX_CODES && codes.insert(code.to_owned()));
        drop(codes);
        self.families.errors.with_label_values(&[&*self.name, if known { code } else { "other" }]).inc();
    }
}
