//! How a bench tells what it is doing.

use serde::Serialize;

/// Hears how a bench goes on. Must be quick.
pub trait BenchProgress: Send + Sync + 'static {
    /// Something begins.
    fn update(&self, update: &BenchUpdate<'_>);
}

/// Hears nothing.
impl BenchProgress for () {
    fn update(&self, _: &BenchUpdate<'_>) {}
}

impl<F: Fn(&BenchUpdate<'_>) + Send + Sync + 'static> BenchProgress for F {
    fn update(&self, update: &BenchUpdate<'_>) {
        self(update);
    }
}

/// Where the bench of a model stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BenchUpdate<'a> {
    /// The model.
    pub model: &'a str,
    /// What is measured.
    pub stage: BenchStage,
    /// Answers of this stage that there are.
    pub done: usize,
    /// Answers of this stage in the end.
    pub total: usize,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BenchStage {
    /// Nothing yet: the model is brought into memory.
    Loading,
    /// How fast it reads and writes.
    Speed,
    /// Whether it keeps to a JSON schema.
    Json,
    /// What it knows and can conclude.
    Quality,
}
