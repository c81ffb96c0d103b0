//! The settings of a backend's admission.

use std::time::Duration;

use sutazai_core::{Error, Fault, Result};

/// How many at a time, and how long they wait.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AdmissionConfig {
    /// Requests that the backend answers at a time; 1 by default.
    pub max_parallel: usize,
    /// Models in memory at a time; 1 by default.
    pub max_loaded_models: usize,
    /// Bytes of memory for models; not bounded by default. A model that needs more alone is refused.
    pub memory: Option<u64>,
    /// Requests that may wait; more are refused with the code `queue_full`. 1,024 by default.
    pub max_waiting: usize,
    /// How long a request may wait; then it is refused with the code `queue_full`. 60 s by default.
    pub queue_timeout: Duration,
    /// How long a request may wait while requests for another model are worth more; 30 s by default.
    pub age_limit: Duration,
    /// How long a model may say nothing, beyond what loading it and reading the prompt are expected to take; then the call fails with the code
    /// `model_timeout`. 30 s by default.
    pub silence: Duration,
    /// How long the place of a call that was cancelled is kept, for backends that do not say when they have stopped. None by default.
    pub settle: Duration,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            max_parallel: 1,
            max_loaded_models: 1,
            memory: None,
            max_waiting: 1_024,
            queue_timeout: Duration::from_secs(60),
            age_limit: Duration::from_secs(30),
            silence: Duration::from_secs(30),
            settle: Duration::ZERO,
        }
    }
}

impl AdmissionConfig {
    /// Refuses what could never admit anything.
    pub(super) fn check(&self) -> Result<()> {
        let one = |value: usize, path: &str| {
            (value == 0).then(|| Fault::new(path, "0 was given; at least 1 is needed".to_owned()))
        };
        let faults = [one(self.max_parallel, "/max_parallel"), one(self.max_loaded_models, "/max_loaded_models")];
        let faults: Vec<_> = faults.into_iter().flatten().collect();
        if faults.is_empty() { Ok(()) } else { Err(Error::invalid("the admission's settings are wrong", faults)) }
    }
}
