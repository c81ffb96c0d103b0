//! The built-in bench: how fast a model is here, what it takes, whether it keeps to a JSON schema, and what it knows.
//!
//! [`Bench`] asks a [`ChatModel`](sutazai_core::model::ChatModel) some answers of known length, eight that are to have a form, and the twenty
//! [`QUESTIONS`] of the quality set, which are judged by rules. [`BenchResults`] keeps what was found out beside the models, by weights, context and
//! machine, and [`selection`](crate::selection) goes by it.

mod ask;
mod check;
mod form;
mod machine;
mod measured;
mod memory;
mod progress;
mod questions;
mod results;
mod run;
mod speed;
#[cfg(test)]
mod tests;

pub use self::{
    check::Check,
    machine::{Machine, available_memory},
    measured::{Marks, Measured},
    memory::{MemoryProbe, OllamaMemory, ProcessMemory},
    progress::{BenchProgress, BenchStage, BenchUpdate},
    questions::{QUESTIONS, QUESTIONS_VERSION, Question},
    results::{BenchKey, BenchResult, BenchResults, result_of},
    run::Bench,
};
