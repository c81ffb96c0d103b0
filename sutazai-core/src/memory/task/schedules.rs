//! Schedules, by name and by when they fire next.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use crate::{
    clock::Timestamp,
    store::{Page, ScheduleRecord},
};

/// Every schedule.
#[derive(Default)]
pub(super) struct Schedules {
    records: BTreeMap<String, ScheduleRecord>,
    next: BTreeSet<(Timestamp, String)>,
}

impl Schedules {
    pub(super) fn put(&mut self, record: &ScheduleRecord, expected: Option<u64>) -> bool {
        let name = &record.schedule.name;
        if self.records.get(name).map(|stored| stored.revision) != expected {
            return false;
        }
        self.drop(name);
        if let Some(next) = record.next {
            self.next.insert((next, name.clone()));
        }
        self.records.insert(name.clone(), record.clone());
        true
    }

    pub(super) fn get(&self, name: &str) -> Option<ScheduleRecord> {
        self.records.get(name).cloned()
    }

    pub(super) fn list(&self, after: Option<&str>, limit: usize) -> Page<ScheduleRecord> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = self.records.range::<str, _>((from, Bound::Unbounded)).map(|(_, record)| record.clone());
        let items: Vec<_> = found.by_ref().take(limit).collect();
        Page { items, more: limit > 0 && found.next().is_some() }
    }

    pub(super) fn due(&self, now: Timestamp, limit: usize) -> Vec<ScheduleRecord> {
        let due = self.next.iter().take_while(|(next, _)| *next <= now).take(limit);
        due.filter_map(|(_, name)| self.get(name)).collect()
    }

    /// The first firing after a moment.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let from = (Timestamp::from_millis(after.as_millis().checked_add(1)?), String::new());
        self.next.range(from..).next().map(|(at, _)| *at)
    }

    pub(super) fn drop(&mut self, name: &str) -> bool {
        let Some(record) = self.records.remove(name) else { return false };
        if let Some(next) = record.next {
            self.next.remove(&(next, record.schedule.name));
        }
        true
    }
}
