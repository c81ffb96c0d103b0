//! Agents made of a closure.

use std::{fmt, future::Future, marker::PhantomData};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use super::{Agent, AgentDescriptor, AgentError};
use crate::{context::Context, error::Result, payload::Payload};

/// Makes an agent called `name` of a closure.
///
/// ```
/// use sutazai_core::prelude::*;
///
/// let hello = agent_fn("hello", |_context, name: String| async move { Ok(format!("Hello, {name}!")) })
///     .describe(|agent| agent.description("greets people").effects(Effects::None));
/// assert_eq!(hello.descriptor().name, "hello");
/// ```
pub fn agent_fn<F, Fut, I, O>(name: impl Into<String>, function: F) -> FnAgent<F, I, O>
where
    F: Fn(Context, I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, AgentError>> + Send + 'static,
    I: DeserializeOwned + JsonSchema + Send + 'static,
    O: Serialize + JsonSchema + Send + 'static,
{
    FnAgent { descriptor: AgentDescriptor::new(name).schemas::<I, O>(), function, types: PhantomData }
}

/// An agent made by [`agent_fn`].
pub struct FnAgent<F, I, O> {
    descriptor: AgentDescriptor,
    function: F,
    types: PhantomData<fn(I) -> O>,
}

impl<F, I, O> fmt::Debug for FnAgent<F, I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FnAgent").field(&self.descriptor.name).finish()
    }
}

impl<F, I, O> FnAgent<F, I, O> {
    /// Says more about the agent: version, description, capabilities, effects.
    #[must_use]
    pub fn describe(mut self, change: impl FnOnce(AgentDescriptor) -> AgentDescriptor) -> Self {
        self.descriptor = change(self.descriptor);
        self
    }
}

#[async_trait]
impl<F, Fut, I, O> Agent for FnAgent<F, I, O>
where
    F: Fn(Context, I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, AgentError>> + Send + 'static,
    I: DeserializeOwned + JsonSchema + Send + 'static,
    O: Serialize + JsonSchema + Send + 'static,
{
    fn descriptor(&self) -> &AgentDescriptor {
        &self.descriptor
    }

    fn check(&self, input: &Payload) -> Result<()> {
        input.read::<I>().map(drop)
    }

    async fn run(&self, context: Context, input: Payload) -> Result<Payload, AgentError> {
        let output = (self.function)(context, input.read()?).await?;
        Ok(Payload::of(&output)?)
    }
}
