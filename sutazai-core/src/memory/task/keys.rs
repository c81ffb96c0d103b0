//! Idempotency keys, those of tasks and those of other requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    clock::Timestamp,
    payload::Payload,
    store::{KEY_LIFE, Recalled},
    task::{IdempotencyKey, TaskId},
};

/// A key in its tenant.
pub(super) type KeyName = (Arc<str>, Arc<str>);

/// Every key that was used.
#[derive(Default)]
pub(super) struct Keys {
    uses: BTreeMap<KeyName, FirstUse>,
    /// The answers, by when they are forgotten.
    answers: BTreeSet<(Timestamp, KeyName)>,
}

struct FirstUse {
    fingerprint: [u8; 32],
    by: User,
}

enum User {
    /// And when it was used, if the task was there before.
    Task(TaskId, Option<Timestamp>),
    Request(Payload),
}

impl Keys {
    /// What a write with this key repeats: `None` if nothing, `Some(None)` if the key was used for something else.
    pub(super) fn repeats(&mut self, key: &IdempotencyKey, now: Timestamp) -> Option<Option<TaskId>> {
        self.forget_answers(now);
        self.uses.get(&name(key)).map(|first| match first.by {
            User::Task(task, _) if first.fingerprint == key.fingerprint => Some(task),
            _ => None,
        })
    }

    /// A write of `task` uses the key; `at` if the task was there before.
    pub(super) fn used(&mut self, key: &IdempotencyKey, task: TaskId, at: Option<Timestamp>) -> KeyName {
        let name = name(key);
        self.uses.insert(name.clone(), FirstUse { fingerprint: key.fingerprint, by: User::Task(task, at) });
        name
    }

    /// Whether a key was used for a task that was there less than a day before `now`.
    pub(super) fn is_held(&self, name: &KeyName, now: Timestamp) -> bool {
        let at = self.uses.get(name).and_then(|first| match first.by {
            User::Task(_, at) => at,
            User::Request(_) => None,
        });
        at.is_some_and(|at| at.plus(KEY_LIFE) > now)
    }

    /// What is known of a key that belongs to no task.
    pub(super) fn recall(&mut self, key: &IdempotencyKey, now: Timestamp) -> Recalled {
        self.forget_answers(now);
        match self.uses.get(&name(key)) {
            None => Recalled::New,
            Some(FirstUse { fingerprint, by: User::Request(answer) }) if *fingerprint == key.fingerprint => {
                Recalled::Answered(answer.clone())
            }
            Some(_) => Recalled::Conflict,
        }
    }

    /// Keeps an answer given at `asked`, unless the key was used.
    pub(super) fn remember(&mut self, key: &IdempotencyKey, answer: &Payload, asked: Timestamp, now: Timestamp) {
        self.forget_answers(now);
        let name = name(key);
        if !self.uses.contains_key(&name) {
            self.answers.insert((asked.plus(KEY_LIFE), name.clone()));
            self.uses.insert(name, FirstUse { fingerprint: key.fingerprint, by: User::Request(answer.clone()) });
        }
    }

    /// The task of a key is gone.
    pub(super) fn forget(&mut self, name: &KeyName) {
        self.uses.remove(name);
    }

    fn forget_answers(&mut self, now: Timestamp) {
        while self.answers.first().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, name)) = self.answers.pop_first() {
                self.uses.remove(&name);
            }
        }
    }
}

fn name(key: &IdempotencyKey) -> KeyName {
    (Arc::clone(&key.tenant), Arc::clone(&key.key))
}
