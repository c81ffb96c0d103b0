//! Who wants to know what the engine does: metrics.

use crate::{
    model::Usage,
    task::{Event, Task},
};

/// Told of every change after it is committed. Called on the engine's own path: it must be quick and must not block.
pub trait Observer: Send + Sync + 'static {
    /// A task changed; `events` are what was appended.
    fn task_changed(&self, task: &Task, events: &[Event]) {
        let _ = (task, events);
    }

    /// A chat model answered a call of `agent`.
    fn model_called(&self, agent: &str, model: &str, usage: Usage) {
        let _ = (agent, model, usage);
    }
}

/// Looks away.
pub(crate) struct Unobserved;

impl Observer for Unobserved {}
