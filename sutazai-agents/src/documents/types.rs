//! What the agent takes and gives: the contract's "Questions over documents".

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Grounded, Report};

/// A question, a search, or documents to read.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentsInput {
    /// What to do; otherwise `ask`.
    #[serde(default)]
    pub action: Action,
    /// The question or the words to search for, at most 4,000 characters.
    #[serde(default)]
    #[schemars(length(max = 4_000))]
    pub text: Option<String>,
    /// The file or folder, as the server sees it; without it the documents that were read before.
    #[serde(default)]
    pub docs: Option<String>,
    /// Hits of a search: 1 to 200, otherwise 10.
    #[serde(default)]
    #[schemars(range(min = 1, max = 200))]
    pub limit: Option<usize>,
    /// For `search` the least score of a hit, for `ask` the least support of an answer; 0 to 1.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub threshold: Option<f32>,
    /// Tokens of an answer at most: 1 to 1,024, otherwise the operator's setting, or 96.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1024))]
    pub max_tokens: Option<u32>,
    /// The chat model that words the answer, otherwise the default one.
    #[serde(default)]
    pub model: Option<String>,
}

/// What to do with documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Answer a question with citations.
    #[default]
    Ask,
    /// List the best passages.
    Search,
    /// Read documents, so that later questions are quick.
    Ingest,
}

/// What the action gave.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum DocumentsOutput {
    /// Of `ask`.
    Answer(Answer),
    /// Of `search`.
    Hits(Hits),
    /// Of `ingest`.
    Ingested(Ingested),
}

/// An answer with what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// The answer.
    pub answer: String,
    /// Whether the documents hold one.
    pub found: bool,
    /// What it rests on; each quote was found in its lines.
    pub citations: Vec<Citation>,
    /// Where the time went.
    pub timings_ms: Timings,
    /// What the chat model read and wrote.
    pub tokens: Tokens,
    /// Who worded the answer; nobody where nothing was found.
    pub grounded: Option<Grounded>,
    /// The support of the best sentence, 0 to 1, whether it reached the threshold or not.
    pub support: f32,
    /// The chat model that was asked.
    pub model: Option<String>,
    /// Files that were passed over.
    pub warnings: Vec<Warning>,
}

/// Lines of a document and what they say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Citation {
    /// Relative to the folder that was asked about; absolute where none was named.
    pub path: String,
    /// The first line, from 1.
    pub start_line: u32,
    /// The last line.
    pub end_line: u32,
    /// Stands in those lines, whitespace aside.
    pub quote: String,
}

/// Milliseconds by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Timings {
    /// Bringing the index up to date.
    pub index: f64,
    /// Finding passages and evidence.
    pub retrieve: f64,
    /// Wording the answer.
    pub generate: f64,
    /// All of it.
    pub total: f64,
}

/// Tokens of the chat model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tokens {
    /// Read.
    pub prompt: u32,
    /// Written.
    pub completion: u32,
}

/// The passages of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hits {
    /// Best first.
    pub hits: Vec<Hit>,
    /// Files that were passed over.
    pub warnings: Vec<Warning>,
}

/// A passage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hit {
    /// Relative to the folder that was searched; absolute where none was named.
    pub path: String,
    /// The first line, from 1.
    pub start_line: u32,
    /// The last line.
    pub end_line: u32,
    /// 0 to 1, from nearness in meaning and from shared words.
    pub score: f32,
    /// The passage.
    pub text: String,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ingested {
    /// The file or folder.
    pub docs: String,
    /// What the index holds now.
    #[serde(flatten)]
    pub report: Report,
    /// Milliseconds it took.
    pub took_ms: f64,
    /// Files that were passed over.
    pub warnings: Vec<Warning>,
}

/// A file that was passed over, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Warning {
    /// The file, relative to the folder; empty where none can be named.
    pub path: String,
    /// Why.
    pub message: String,
}

impl Warning {
    pub(super) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}
