#![doc = include_str!("../README.md")]

pub mod agent;
pub mod clock;
pub mod context;
pub mod engine;
pub mod memory;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
pub mod model;
mod payload;
pub mod resource;
pub mod store;
pub mod task;

pub use self::{
    error::{Error, ErrorKind, Fault, Result},
    payload::Payload,
};

/// Everything a program with agents needs.
pub mod prelude {
    pub use crate::{
        Error, ErrorKind, Fault, Payload, Result,
        agent::{Agent, AgentDescriptor, AgentError, Effects, TypedAgent, agent_fn, typed},
        context::Context,
        task::{Priority, RetryPolicy, Task, TaskRequest, TaskState},
    };
}
