//! Agents for smoke and load tests. Registered on request only: they do what they are told.

use std::{fs::OpenOptions, io::Write, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sutazai_core::{
    Fault, Payload, Result,
    agent::{Agent, AgentDescriptor, AgentError, Effects, TypedAgent, typed},
    context::Context,
};

/// `dev.echo`, `dev.sleep`, `dev.fail` and `dev.append`.
#[must_use]
pub fn dev_agents() -> Vec<Arc<dyn Agent>> {
    vec![Arc::new(Echo::new()), Arc::new(typed(Sleep)), Arc::new(typed(Fail)), Arc::new(typed(Append))]
}

/// Gives back what it gets, unread.
struct Echo(AgentDescriptor);

impl Echo {
    fn new() -> Self {
        let descriptor = AgentDescriptor::new("dev.echo").description("gives back its input").effects(Effects::None);
        Self(descriptor.schemas::<Payload, Payload>())
    }
}

#[async_trait]
impl Agent for Echo {
    fn descriptor(&self) -> &AgentDescriptor {
        &self.0
    }

    fn check(&self, _input: &Payload) -> Result<()> {
        Ok(())
    }

    async fn run(&self, _context: Context, input: Payload) -> Result<Payload, AgentError> {
        Ok(input)
    }
}

struct Sleep;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SleepInput {
    /// How long to sleep.
    ms: u64,
}

/// Nothing: `{}`.
#[derive(Serialize, JsonSchema)]
struct Done {}

#[async_trait]
impl TypedAgent for Sleep {
    type Input = SleepInput;
    type Output = Done;

    fn descriptor(&self) -> AgentDescriptor {
        AgentDescriptor::new("dev.sleep").description("sleeps for `ms` milliseconds").effects(Effects::None)
    }

    async fn run(&self, _context: Context, input: SleepInput) -> Result<Done, AgentError> {
        tokio::time::sleep(Duration::from_millis(input.ms)).await;
        Ok(Done {})
    }
}

struct Fail;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FailInput {
    /// How many attempts fail.
    times: u32,
    /// Whether another attempt may succeed.
    #[serde(default = "yes")]
    temporary: bool,
    /// What the error says.
    #[serde(default = "asked_to")]
    message: String,
}

fn yes() -> bool {
    true
}

fn asked_to() -> String {
    "asked to fail".into()
}

#[derive(Serialize, JsonSchema)]
struct FailOutput {
    /// The attempt that succeeded.
    attempts: u32,
}

#[async_trait]
impl TypedAgent for Fail {
    type Input = FailInput;
    type Output = FailOutput;

    fn descriptor(&self) -> AgentDescriptor {
        AgentDescriptor::new("dev.fail").description("fails `times` attempts, then succeeds").effects(Effects::None)
    }

    async fn run(&self, context: Context, input: FailInput) -> Result<FailOutput, AgentError> {
        let attempts = context.attempt();
        match (attempts <= input.times, input.temporary) {
            (false, _) => Ok(FailOutput { attempts }),
            (true, true) => Err(AgentError::temporary("dev_fail", input.message)),
            (true, false) => Err(AgentError::permanent("dev_fail", input.message)),
        }
    }
}

struct Append;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AppendInput {
    /// The file, made if it does not exist.
    path: PathBuf,
    /// The line, without its end.
    line: String,
}

#[async_trait]
impl TypedAgent for Append {
    type Input = AppendInput;
    type Output = Done;

    fn descriptor(&self) -> AgentDescriptor {
        // Idempotent by declaration: it runs again after a crash, and tests count how often the line is there.
        AgentDescriptor::new("dev.append")
            .description("appends one line to a file and syncs")
            .effects(Effects::Idempotent)
    }

    fn check(&self, input: &AppendInput) -> Vec<Fault> {
        if input.line.contains('\n') { vec![Fault::new("/line", "a line has no line feed")] } else { Vec::new() }
    }

    async fn run(&self, _context: Context, input: AppendInput) -> Result<Done, AgentError> {
        tokio::task::spawn_blocking(move || append(input)).await??;
        Ok(Done {})
    }
}

/// One write to a file opened for appending: lines of others never come between its bytes.
fn append(AppendInput { path, mut line }: AppendInput) -> std::io::Result<()> {
    line.push('\n');
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    let written = file.write(line.as_bytes())?;
    if written < line.len() {
        return Err(std::io::Error::new(std::io::ErrorKind::WriteZero, "the line was written in part"));
    }
    file.sync_data()
}
