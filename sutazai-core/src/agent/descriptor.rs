//! What an agent declares about itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::resource::ResourceRequest;

/// What an agent is, can do and needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentDescriptor {
    /// Its name: 1–128 characters of `a–z 0–9 . - _`.
    pub name: String,
    /// Its version (semver); tasks record it.
    pub version: String,
    /// What it does, for people and for routing by meaning.
    pub description: String,
    /// What it can do, for routing by capability.
    pub capabilities: Vec<String>,
    /// Which wave it belongs to.
    pub phase: Phase,
    /// The port reserved for it in the users' documents; not opened.
    pub port: Option<u16>,
    /// What one execution may take.
    pub resources: ResourceRequest,
    /// What running it twice would do.
    pub effects: Effects,
    /// How many of its tasks may run at once and start a minute, in the whole store.
    #[serde(default)]
    pub limits: AgentLimits,
    /// [Lines](crate::task::version_line) of former versions whose tasks this code can go on with, beside its own.
    #[serde(default)]
    pub goes_on_with: Vec<String>,
    /// The kinds of model it calls; its readiness asks for them.
    pub models: Vec<ModelRole>,
    /// JSON schema of its input.
    pub input_schema: Value,
    /// JSON schema of its output.
    pub output_schema: Value,
}

impl AgentDescriptor {
    /// A descriptor with defaults for all but the name: version 0.1.0, phase 3, idempotent effects, any input and output.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: "0.1.0".into(),
            description: String::new(),
            capabilities: Vec::new(),
            phase: Phase::default(),
            port: None,
            resources: ResourceRequest::default(),
            effects: Effects::default(),
            limits: AgentLimits::default(),
            goes_on_with: Vec::new(),
            models: Vec::new(),
            input_schema: Value::Bool(true),
            output_schema: Value::Bool(true),
        }
    }

    /// Sets the description.
    #[must_use]
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// Sets the version.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Sets the capabilities.
    #[must_use]
    pub fn capabilities<S: Into<String>>(mut self, capabilities: impl IntoIterator<Item = S>) -> Self {
        self.capabilities = capabilities.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the phase and the reserved port.
    #[must_use]
    pub fn place(mut self, phase: Phase, port: u16) -> Self {
        self.phase = phase;
        self.port = Some(port);
        self
    }

    /// Sets the effect class.
    #[must_use]
    pub fn effects(mut self, effects: Effects) -> Self {
        self.effects = effects;
        self
    }

    /// Sets how many of its tasks may run at once and start a minute.
    #[must_use]
    pub fn limits(mut self, limits: AgentLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Adds lines of former versions whose tasks this code can go on with.
    #[must_use]
    pub fn goes_on_with<S: Into<String>>(mut self, lines: impl IntoIterator<Item = S>) -> Self {
        self.goes_on_with.extend(lines.into_iter().map(Into::into));
        self
    }

    /// Sets what one execution may take.
    #[must_use]
    pub fn resources(mut self, resources: ResourceRequest) -> Self {
        self.resources = resources;
        self
    }

    /// Sets the kinds of model it calls.
    #[must_use]
    pub fn models(mut self, models: impl IntoIterator<Item = ModelRole>) -> Self {
        self.models = models.into_iter().collect();
        self
    }

    /// Takes the schemas of the Rust types `I` and `O`.
    #[must_use]
    pub fn schemas<I: JsonSchema, O: JsonSchema>(mut self) -> Self {
        self.input_schema = schemars::schema_for!(I).to_value();
        self.output_schema = schemars::schema_for!(O).to_value();
        self
    }
}

/// How many tasks of an agent may run, in the whole store. Such a limit delays a task, it never refuses one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentLimits {
    /// At once.
    pub concurrency: Option<u32>,
    /// Starts a minute.
    pub per_minute: Option<u32>,
}

/// What running an agent a second time would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effects {
    /// Nothing outside itself: it may start before its task is stored, and a short task is one commit.
    None,
    /// The same as running it once.
    #[default]
    Idempotent,
    /// The same as running it once, if the task's id is used as a key.
    Keyed,
    /// Harm.
    Destructive,
}

/// The wave of the users' catalogue an agent belongs to; the lowest is suspended first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Phase {
    /// 1: critical orchestration.
    Critical,
    /// 2: specialised services.
    Specialised,
    /// 3: auxiliary services.
    #[default]
    Auxiliary,
}

impl From<Phase> for u8 {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Critical => 1,
            Phase::Specialised => 2,
            Phase::Auxiliary => 3,
        }
    }
}

impl TryFrom<u8> for Phase {
    type Error = String;

    fn try_from(value: u8) -> Result<Self, Self::Error> {
        match value {
            1 => Ok(Self::Critical),
            2 => Ok(Self::Specialised),
            3 => Ok(Self::Auxiliary),
            _ => Err(format!("{value} is not a phase; allowed are 1, 2 and 3")),
        }
    }
}

/// A kind of model an agent calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelRole {
    /// A chat model.
    Chat,
    /// An embedding model.
    Embedding,
}
