//! Agents whose input and output have a JSON schema but no Rust type.

use std::fmt;

use async_trait::async_trait;
use serde_json::Value;

use super::{Agent, AgentDescriptor, AgentError};
use crate::{
    context::Context,
    error::{Error, Fault, Result},
    payload::Payload,
};

/// Checks values against one JSON schema.
///
/// Core has no implementation: an agent with a Rust type is checked by deserialising it. `sutazai-agents` has one, `JsonSchema`.
pub trait SchemaValidator: Send + Sync + 'static {
    /// The schema, as an agent's descriptor shows it.
    fn schema(&self) -> &Value;

    /// What does not fit, each with the JSON pointer of its place in `value`; empty if all of it fits. Pure and quick.
    fn faults(&self, value: &Value) -> Vec<Fault>;
}

/// Makes `agent` take only inputs that fit `input`, and declare its schema.
///
/// For agents that are data rather than Rust types: [`agent_fn`](super::agent_fn) over a [`Value`], a manifest.
pub fn validated<A: Agent>(agent: A, input: impl SchemaValidator) -> Validated<A> {
    let mut descriptor = agent.descriptor().clone();
    descriptor.input_schema = input.schema().clone();
    Validated { agent, descriptor, input: Box::new(input), output: None }
}

/// An agent made by [`validated`].
pub struct Validated<A> {
    agent: A,
    descriptor: AgentDescriptor,
    input: Box<dyn SchemaValidator>,
    output: Option<Box<dyn SchemaValidator>>,
}

impl<A> fmt::Debug for Validated<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Validated").field(&self.descriptor.name).finish()
    }
}

impl<A> Validated<A> {
    /// Checks what the agent gives too: an output that does not fit ends the attempt with the code `invalid_output`.
    #[must_use]
    pub fn output(mut self, output: impl SchemaValidator) -> Self {
        self.descriptor.output_schema = output.schema().clone();
        self.output = Some(Box::new(output));
        self
    }
}

#[async_trait]
impl<A: Agent> Agent for Validated<A> {
    fn descriptor(&self) -> &AgentDescriptor {
        &self.descriptor
    }

    fn check(&self, input: &Payload) -> Result<()> {
        let faults = self.input.faults(&input.read()?);
        if !faults.is_empty() {
            return Err(Error::invalid("the input does not fit its schema", faults));
        }
        self.agent.check(input)
    }

    async fn run(&self, context: Context, input: Payload) -> Result<Payload, AgentError> {
        let output = self.agent.run(context, input).await?;
        let Some(schema) = &self.output else { return Ok(output) };
        match schema.faults(&output.read()?).first() {
            None => Ok(output),
            Some(Fault { path, message }) => {
                let what = format!("the agent's output does not fit its schema at {path:?}: {message}");
                Err(AgentError::permanent("invalid_output", what))
            }
        }
    }
}
