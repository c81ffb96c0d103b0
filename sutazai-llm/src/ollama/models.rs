//! What an Ollama tells about its models.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sutazai_core::{
    clock::Timestamp,
    model::{ModelCapabilities, ModelInfo},
};

/// The answer of `GET /api/tags`.
#[derive(Debug, Deserialize)]
pub(super) struct Tags {
    pub(super) models: Option<Vec<Tag>>,
}

/// The answer of `GET /api/ps`.
#[derive(Debug, Deserialize)]
pub(super) struct Processes {
    pub(super) models: Option<Vec<Running>>,
}

/// The answer of `GET /api/version`.
#[derive(Debug, Deserialize)]
pub(super) struct Version {
    pub(super) version: String,
}

/// A model that an Ollama holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// Its name, with tag.
    pub name: String,
    /// Bytes on disk.
    #[serde(default)]
    pub size: u64,
    /// Digest of its manifest.
    #[serde(default)]
    pub digest: String,
    /// More about it.
    #[serde(default)]
    pub details: Details,
}

/// What Ollama says about a model's weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// `gguf`.
    #[serde(default)]
    pub format: String,
    /// The architecture.
    #[serde(default)]
    pub family: String,
    /// Such as `1.1B`.
    #[serde(default)]
    pub parameter_size: String,
    /// Such as `Q4_0`.
    #[serde(default)]
    pub quantization_level: String,
}

/// A model that an Ollama has in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The name that it was loaded by, with tag. Names of the same weights share the memory, and only this one shows.
    pub name: String,
    /// Digest of its manifest.
    #[serde(default)]
    pub digest: String,
    /// Bytes of memory that it takes, on graphics cards and beside them.
    #[serde(default)]
    pub size: u64,
    /// Bytes of memory that it takes on graphics cards.
    #[serde(default)]
    pub size_vram: u64,
    /// When it is unloaded if nobody asks it anything.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

/// Whether `listed` is what `name` means: a name without a tag means `:latest`.
fn is_same(listed: &str, name: &str) -> bool {
    let full = |name: &str| if name.contains(':') { name.to_owned() } else { format!("{name}:latest") };
    full(listed).eq_ignore_ascii_case(&full(name))
}

impl Tag {
    /// Whether this is what `name` means: a name without a tag means `:latest`.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        is_same(&self.name, name)
    }

    /// Bytes of memory that it takes, more or less: what it has on disk and a fifth for what is computed with it.
    pub(super) fn memory(&self) -> Option<u64> {
        (self.size > 0).then(|| self.size.saturating_add(self.size / 5))
    }
}

impl Running {
    /// Whether this is what `name` means: a name without a tag means `:latest`.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        is_same(&self.name, name)
    }
}

/// The answer of `POST /api/show`, as far as it is used.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Shown {
    /// How the model was made; its `FROM` line names the file.
    #[serde(default)]
    pub modelfile: String,
    /// What it can do: `completion`, `tools`, `embedding`, `vision`, `thinking`. Old versions do not say.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// The metadata of its file, such as `llama.context_length`.
    #[serde(default)]
    pub model_info: Map<String, Value>,
}

impl Shown {
    /// A number of the metadata, whatever the architecture.
    fn metadata(&self, name: &str) -> Option<usize> {
        let architecture = self.model_info.get("general.architecture")?.as_str()?;
        usize::try_from(self.model_info.get(&format!("{architecture}.{name}"))?.as_u64()?).ok()
    }

    /// The model as this backend presents it; at most `context` tokens of context.
    pub(super) fn info(&self, name: &str, context: usize) -> ModelInfo {
        let can = |what: &str| self.capabilities.iter().any(|capability| capability == what);
        let embedding = can("embedding") || (self.capabilities.is_empty() && self.metadata("pooling_type").is_some());
        let chat = if self.capabilities.is_empty() { !embedding } else { can("completion") };
        let context = self.metadata("context_length").unwrap_or(context).min(context);
        ModelInfo {
            dimension: if embedding { self.metadata("embedding_length").unwrap_or(0) } else { 0 },
            capabilities: ModelCapabilities {
                chat,
                embedding,
                tools: can("tools"),
                schema: chat,
                seed: true,
                vision: can("vision"),
                thinking: can("thinking"),
            },
            ..ModelInfo::new(name, "ollama", context)
        }
    }

    /// The same with what the server says elsewhere: what it holds, and what it has in memory.
    pub(super) fn described(&self, name: &str, context: usize, tags: &[Tag], running: &[Running]) -> ModelInfo {
        let mut info = self.info(name, context);
        let tag = tags.iter().find(|tag| tag.is(name));
        info.digest = tag.map(|tag| tag.digest.clone()).filter(|digest| !digest.is_empty());
        // What it takes is known while it is loaded.
        let loaded = |running: &&Running| running.is(name) || info.digest.as_ref() == Some(&running.digest);
        let taken = running.iter().find(loaded).map(|running| running.size).filter(|size| *size > 0);
        info.memory = taken.or_else(|| tag?.memory());
        info
    }
}
