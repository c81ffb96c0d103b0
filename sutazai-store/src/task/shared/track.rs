//! One task's way through a batch.

use std::sync::Arc;

use sutazai_core::{
    Payload,
    clock::Timestamp,
    task::{Event, EventKind, Revision, Task, Wait},
};

/// What decides about writes of a stored task.
pub(in crate::task) struct Known {
    pub(in crate::task) revision: Revision,
    pub(in crate::task) ended: bool,
    pub(in crate::task) wakes: u64,
}

/// Signals and ends of children that came to a task.
#[derive(Clone, Copy)]
pub(in crate::task) struct Wake {
    pub(in crate::task) count: u64,
    /// The first moment of them.
    pub(in crate::task) at: Timestamp,
}

impl Default for Wake {
    fn default() -> Self {
        Self { count: 0, at: Timestamp::NEVER }
    }
}

impl Wake {
    pub(in crate::task) fn add(&mut self, at: Timestamp) {
        self.count += 1;
        self.at = self.at.min(at);
    }

    /// What becomes of a task that it comes to.
    pub(in crate::task) fn reach(self, task: &mut Task) {
        task.wakes += self.count;
        if task.wait == Some(Wait::Event) {
            task.due_at = task.due_at.min(self.at);
        }
    }
}

/// One task's share of a batch: its final image and every event on the way there.
pub(in crate::task) struct Write<'a> {
    pub(in crate::task) task: &'a Arc<Task>,
    /// Its input, which not every image may change.
    pub(in crate::task) input: &'a Payload,
    /// Whether a stored task gets another input.
    pub(in crate::task) new_input: bool,
    /// The revision it is stored at, `None` for a new task.
    pub(in crate::task) expected: Option<Revision>,
    pub(in crate::task) events: Vec<&'a [Event]>,
    /// When the first of the writes happened that have events.
    pub(in crate::task) noted_at: Option<Timestamp>,
    /// How often it was woken in this batch.
    pub(in crate::task) woken: u64,
    /// As the image has it, or as the wakes after it have made it.
    pub(in crate::task) due_at: Timestamp,
    /// Unless so many wakes are stored before this batch, a task that waits for an event is due at this moment.
    pub(in crate::task) unseen: Option<(i64, Timestamp)>,
    /// The wakes that were stored before this batch, where they are known.
    before: Option<u64>,
}

impl<'a> Write<'a> {
    pub(in crate::task) fn insert(task: &'a Arc<Task>, events: &'a [Event]) -> Self {
        Self {
            task,
            input: &task.input,
            new_input: false,
            expected: None,
            events: vec![events],
            noted_at: last(events),
            woken: 0,
            due_at: task.due_at,
            unseen: None,
            before: Some(task.wakes),
        }
    }

    pub(in crate::task) fn first_update(
        task: &'a Arc<Task>,
        expected: Revision,
        events: &'a [Event],
        woken: u64,
        known: Option<&Known>,
    ) -> Self {
        let before = known.map(|known| known.wakes);
        let mut write =
            Self { expected: Some(expected), events: Vec::with_capacity(1), woken, before, ..Self::insert(task, &[]) };
        write.update(task, events);
        write
    }

    pub(in crate::task) fn update(&mut self, task: &'a Arc<Task>, events: &'a [Event]) {
        self.task = task;
        let changes =
            |event: &Event| matches!(event.kind, EventKind::Continued {} | EventKind::Requeued { new_input: true });
        if events.iter().any(changes) {
            (self.input, self.new_input) = (&task.input, true);
        }
        self.due_at = task.due_at;
        self.unseen = None;
        let at = last(events);
        self.noted_at = self.noted_at.or(at);
        self.events.push(events);
        if let Some(at) = at.filter(|_| task.wait == Some(Wait::Event)) {
            let seen = task.wakes.cast_signed() - self.woken.cast_signed();
            self.unseen = Some((seen, at));
            if self.before.is_some_and(|before| before.cast_signed() != seen) {
                self.due_at = self.due_at.min(at);
            }
        }
    }

    pub(in crate::task) fn wake(&mut self, at: Timestamp) {
        self.woken += 1;
        if self.task.wait == Some(Wait::Event) {
            self.due_at = self.due_at.min(at);
        }
    }

    /// How often a task that is new was woken.
    pub(in crate::task) fn wakes(&self) -> u64 {
        self.before.unwrap_or_default() + self.woken
    }

    /// The task as it then is.
    pub(in crate::task) fn image(&self) -> Task {
        Task { wakes: self.wakes(), due_at: self.due_at, input: self.input.clone(), ..Task::clone(self.task) }
    }

    /// Whether the posting of its events begins again if it was given up.
    pub(in crate::task) fn revives(&self) -> bool {
        self.events().any(|event| matches!(event.kind, EventKind::Requeued { .. }))
    }

    pub(in crate::task) fn events(&self) -> impl Iterator<Item = &'a Event> {
        self.events.iter().copied().flatten()
    }
}

fn last(events: &[Event]) -> Option<Timestamp> {
    events.last().map(|event| event.at)
}
