//! Agents with a Rust type for what they take and what they give.

use std::fmt;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use super::{Agent, AgentDescriptor, AgentError};
use crate::{
    context::Context,
    error::{Fault, Result},
    payload::Payload,
};

/// An agent whose input and output are Rust types: bad input never reaches it, and its schemas are derived.
///
/// Register it with [`typed`].
#[async_trait]
pub trait TypedAgent: Send + Sync + 'static {
    /// What it takes.
    type Input: DeserializeOwned + JsonSchema + Send + 'static;
    /// What it gives.
    type Output: Serialize + JsonSchema + Send + 'static;

    /// What it declares about itself. The schemas are filled in from the types.
    fn descriptor(&self) -> AgentDescriptor;

    /// What the types alone do not say: ranges, fields that exclude each other. Paths are relative to the input.
    fn check(&self, _input: &Self::Input) -> Vec<Fault> {
        Vec::new()
    }

    /// Does the work; see [`Agent::run`].
    async fn run(&self, context: Context, input: Self::Input) -> Result<Self::Output, AgentError>;
}

/// Makes an [`Agent`] of a [`TypedAgent`].
pub fn typed<A: TypedAgent>(agent: A) -> Typed<A> {
    let descriptor = agent.descriptor().schemas::<A::Input, A::Output>();
    Typed { agent, descriptor }
}

/// A [`TypedAgent`] as an [`Agent`].
pub struct Typed<A> {
    agent: A,
    descriptor: AgentDescriptor,
}

impl<A> fmt::Debug for Typed<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Typed").field(&self.descriptor.name).finish()
    }
}

#[async_trait]
impl<A: TypedAgent> Agent for Typed<A> {
    fn descriptor(&self) -> &AgentDescriptor {
        &self.descriptor
    }

    fn check(&self, input: &Payload) -> Result<()> {
        let faults = self.agent.check(&input.read()?);
        if faults.is_empty() { Ok(()) } else { Err(crate::Error::invalid("the input is wrong", faults)) }
    }

    async fn run(&self, context: Context, input: Payload) -> Result<Payload, AgentError> {
        let output = self.agent.run(context, input.read()?).await?;
        Ok(Payload::of(&output)?)
    }
}
