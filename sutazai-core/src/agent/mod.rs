//! An agent: code that handles tasks.

mod descriptor;
mod error;
mod function;
mod schema;
mod typed;

use async_trait::async_trait;

pub use self::{
    descriptor::{AgentDescriptor, AgentLimits, Effects, ModelRole, Phase},
    error::AgentError,
    function::{FnAgent, agent_fn},
    schema::{SchemaValidator, Validated, validated},
    typed::{Typed, TypedAgent, typed},
};
use crate::{context::Context, error::Result, payload::Payload};

/// Code that handles tasks, as the engine sees it. Most agents are written as a [`TypedAgent`] or with [`agent_fn`].
#[async_trait]
pub trait Agent: Send + Sync + 'static {
    /// What it declares about itself; the same at every call.
    fn descriptor(&self) -> &AgentDescriptor;

    /// Refuses an input that [`Agent::run`] could not use, naming the fields; the engine asks before it accepts a task. Pure and quick.
    fn check(&self, input: &Payload) -> Result<()>;

    /// Does the work. May be dropped at any await (cancelled, past its deadline) and run again from the start (retry, recovery). An output has at most
    /// [`MAX_OUTPUT`](crate::engine::MAX_OUTPUT) bytes of JSON; a larger one fails the task with code `output_too_large`.
    async fn run(&self, context: Context, input: Payload) -> Result<Payload, AgentError>;
}
