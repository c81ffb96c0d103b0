//! Agents for smoke and load tests. Registered on request only: they do what they are told.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sutazai_core::{
    Fault, Payload, Result,
    agent::{Agent, AgentDescriptor, AgentError, Effects, TypedAgent, typed},
    context::Context,
    task::MAX_ENTRIES,
};

/// `dev.echo`, `dev.sleep`, `dev.fail`, `dev.append`, `dev.steps` and `dev.wait`.
#[must_use]
pub fn dev_agents() -> Vec<Arc<dyn Agent>> {
    vec![
        Arc::new(Echo::new()),
        Arc::new(typed(Sleep)),
        Arc::new(typed(Fail)),
        Arc::new(typed(Append)),
        Arc::new(typed(Steps)),
        Arc::new(typed(Wait)),
    ]
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
        Vec::from_iter(unfit_line("/line", &input.line))
    }

    async fn run(&self, _context: Context, AppendInput { path, line }: AppendInput) -> Result<Done, AgentError> {
        tokio::task::spawn_blocking(move || append(&path, line)).await??;
        Ok(Done {})
    }
}

/// Why a text cannot be a line of a file.
fn unfit_line(field: &str, text: &str) -> Option<Fault> {
    text.contains('\n').then(|| Fault::new(field, "a line has no line feed"))
}

/// One write to a file opened for appending: lines of others never come between its bytes.
fn append(path: &Path, mut line: String) -> std::io::Result<()> {
    line.push('\n');
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    let written = file.write(line.as_bytes())?;
    if written < line.len() {
        return Err(std::io::Error::new(std::io::ErrorKind::WriteZero, "the line was written in part"));
    }
    file.sync_data()
}

struct Steps;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StepsInput {
    /// How many steps.
    count: u64,
    /// How long each waits before it writes.
    ms: u64,
    /// The file, made if it does not exist.
    path: PathBuf,
    /// What each line begins with.
    #[serde(default)]
    label: String,
}

#[derive(Serialize, JsonSchema)]
struct StepsOutput {
    /// How many steps.
    steps: u64,
}

#[async_trait]
impl TypedAgent for Steps {
    type Input = StepsInput;
    type Output = StepsOutput;

    fn descriptor(&self) -> AgentDescriptor {
        // As for dev.append: tests count how often each line is there.
        AgentDescriptor::new("dev.steps")
            .description("takes `count` recorded steps, each of which waits, appends `LABEL INDEX` to a file and syncs")
            .effects(Effects::Idempotent)
    }

    fn check(&self, input: &StepsInput) -> Vec<Fault> {
        let many = (input.count > MAX_ENTRIES)
            .then(|| Fault::new("/count", format!("a journal has {MAX_ENTRIES} entries at most")));
        many.into_iter().chain(unfit_line("/label", &input.label)).collect()
    }

    async fn run(&self, context: Context, input: StepsInput) -> Result<StepsOutput, AgentError> {
        let (pause, input) = (Duration::from_millis(input.ms), &input);
        for index in 0..input.count {
            let write = move || async move {
                tokio::time::sleep(pause).await;
                let (path, line) = (input.path.clone(), format!("{} {index}", input.label));
                tokio::task::spawn_blocking(move || append(&path, line)).await??;
                Ok::<_, AgentError>(())
            };
            context.step("append", write).await?;
        }
        Ok(StepsOutput { steps: input.count })
    }
}

struct Wait;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WaitInput {
    /// The signal's name.
    signal: String,
    /// How long to wait for it at most.
    ms: u64,
}

#[derive(Serialize, JsonSchema)]
struct WaitOutput {
    /// What the signal carried; `null` if it did not come.
    signal: Option<Payload>,
}

#[async_trait]
impl TypedAgent for Wait {
    type Input = WaitInput;
    type Output = WaitOutput;

    fn descriptor(&self) -> AgentDescriptor {
        AgentDescriptor::new("dev.wait").description("waits for a signal, `ms` milliseconds at most")
    }

    async fn run(&self, context: Context, input: WaitInput) -> Result<WaitOutput, AgentError> {
        let limit = Duration::from_millis(input.ms);
        Ok(WaitOutput { signal: context.wait_for(&input.signal, Some(limit)).await? })
    }
}
