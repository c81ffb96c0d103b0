#![doc = include_str!("../README.md")]

pub mod agent;
pub mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod context;
pub mod engine;
mod error;
pub mod memory;
pub mod model;
mod payload;
pub mod resource;
mod runtime;
pub mod schedule;
pub mod store;
pub mod task;

pub use self::{
    engine::Orchestrator,
    error::{Error, ErrorKind, Fault, Result},
    payload::Payload,
    runtime::block_on,
};

/// Everything a program with agents needs.
pub mod prelude {
    pub use crate::{
        Error, ErrorKind, Fault, Orchestrator, Payload, Result,
        agent::{Agent, AgentDescriptor, AgentError, Effects, TypedAgent, agent_fn, typed},
        block_on,
        context::Context,
        task::{Priority, RetryPolicy, Task, TaskRequest, TaskState},
    };
}
