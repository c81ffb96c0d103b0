//! What the gateway tells whoever counts.

use std::time::Duration;

use sutazai_core::{
    model::{CacheUse, ModelInfo},
    task::Priority,
};

use super::breaker::BreakerState;

/// Is told what happens to calls of models. Every method does nothing by default; none may block.
pub trait GatewayObserver: Send + Sync + 'static {
    /// A cache was asked, or not.
    fn cached(&self, _model: &str, _use: CacheUse) {}

    /// A call joined one like it.
    fn coalesced(&self, _model: &str) {}

    /// So many messages were left out so that the rest fits the model's context.
    fn trimmed(&self, _model: &str, _messages: usize) {}

    /// A model is asked to mend its answer; `round` counts from 1.
    fn repaired(&self, _model: &str, _round: u32) {}

    /// A model was stopped that makes the same tool calls again and again.
    fn tool_loop(&self, _model: &str) {}

    /// A call was not made, because it is beyond a budget: of a `task`, an `agent` or a `tenant`, in `tokens`, `calls`, `time` or `cost`.
    fn refused(&self, _account: &'static str, _measure: &'static str) {}

    /// A call is made again; `attempt` counts from 2.
    fn retried(&self, _model: &str, _attempt: u32) {}

    /// The breaker of a model changed.
    fn breaker(&self, _backend: &str, _model: &str, _state: BreakerState) {}

    /// Another model is asked because one failed with this code.
    fn fell_back(&self, _from: &str, _to: &str, _code: &'static str) {}

    /// So many calls wait for a backend.
    fn queued(&self, _backend: &str, _calls: usize) {}

    /// A call begins after it waited for its turn.
    fn admitted(&self, _model: &str, _priority: Priority, _waited: Duration) {}

    /// A model was brought into memory.
    fn loaded(&self, _model: &ModelInfo, _took: Duration) {}

    /// A model had to go from memory.
    fn unloaded(&self, _model: &ModelInfo) {}

    /// The first piece of an answer came so long after the call began.
    fn first_piece(&self, _model: &str, _took: Duration) {}

    /// A call ended so long after it began.
    fn answered(&self, _model: &str, _took: Duration) {}
}

/// Nobody counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl GatewayObserver for Unobserved {}
