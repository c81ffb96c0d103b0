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
    /// How long a caller may keep an answer and not read it; then the model's place is given to others, and the answer ends with the code `model_timeout`.
    /// Twice the silence if not said.
    pub unread: Option<Duration>,
    /// How long the place of a call that was cancelled is kept, for backends that do not say when they have stopped. None by default.
    pub settle: Duration,
    /// How long the backend keeps a model in memory that nobody asks anything, if it then lets go of it by itself. For ever by default.
    pub keep: Option<Duration>,
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
            unread: None,
            settle: Duration::ZERO,
            keep: None,
        }
    }
}

impl AdmissionConfig {
    /// How long an answer may be kept and not read.
    pub(super) fn unread(&self) -> Duration {
        self.unread.unwrap_or_else(|| self.silence.saturating_mul(2))
    }

    /// Refuses what could never admit anything.
    pub(super) fn check(&self) -> Result<()> {
        let one =
            |is_none: bool, path: &str| is_none.then(|| Fault::new(path, "0 was given; more is needed".to_owned()));
        let faults = [
            one(self.max_parallel == 0, "/max_parallel"),
            one(self.max_loaded_models == 0, "/max_loaded_models"),
            one(self.silence.is_zero(), "/silence"),
            one(self.unread.is_some_and(|unread| unread.is_zero()), "/unread"),
        ];
        let faults: Vec<_> = faults.into_iter().flatten().collect();
        if faults.is_empty() { Ok(()) } else { Err(Error::invalid("the admission's settings are wrong", faults)) }
    }
}
