//! Who asks a model, and for whom.

use std::sync::Arc;

use crate::{
    clock::Timestamp,
    task::{DEFAULT_TENANT, Priority, TaskId},
};

/// Who asks a model, and for whom: what turns, budgets and metrics go by. It is no part of what is asked, and is never stored with it.
///
/// [`Context`](crate::context::Context) fills it in; whoever asks a model without a task may.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Caller {
    /// The task that asks, and the agent it is for.
    pub task: Option<TaskId>,
    /// The task that called for that one, if one did.
    pub parent: Option<TaskId>,
    /// The agent that asks.
    pub agent: Option<Arc<str>>,
    /// Whose work it is; [`Caller::tenant`] has the default.
    pub tenant: Option<Arc<str>>,
    /// How urgent it is among what waits for a model.
    pub priority: Priority,
    /// When the answer is of no more use.
    pub deadline: Option<Timestamp>,
}

impl Caller {
    /// Whose work it is: the default tenant's, if nobody said.
    #[must_use]
    pub fn tenant(&self) -> &str {
        self.tenant.as_deref().unwrap_or(DEFAULT_TENANT)
    }
}
