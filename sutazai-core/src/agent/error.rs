//! What an agent answers when it cannot do its work.

use std::{any::Any, error::Error as StdError, fmt, time::Duration};

use crate::{
    error::Error,
    task::{Failure, TaskError},
};

/// Why an attempt failed, and whether another may succeed.
///
/// Any error converts with `?`. This crate's [`Error`] brings its own code and answer to "is it temporary"; of a foreign error nothing is known, so
/// it counts as temporary and the retry policy bounds the attempts.
#[derive(Debug)]
pub struct AgentError {
    error: TaskError,
    temporary: bool,
    retry_after: Option<Duration>,
}

impl AgentError {
    /// A fault that another attempt would meet again; the task fails at once.
    pub fn permanent(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { error: TaskError::new(code, message), temporary: false, retry_after: None }
    }

    /// A fault that may pass; the retry policy decides.
    pub fn temporary(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { error: TaskError::new(code, message), temporary: true, retry_after: None }
    }

    /// The next attempt not before `delay` from now.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Whether another attempt may succeed.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.temporary
    }

    /// How long the next attempt must wait at least.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What a journal has kept of it.
    pub(crate) fn from_failure(failure: Failure) -> Self {
        Self { error: failure.error, temporary: failure.temporary, retry_after: None }
    }

    /// Code and message.
    #[must_use]
    pub fn task_error(&self) -> &TaskError {
        &self.error
    }

    /// Code and message, as the task records them.
    #[must_use]
    pub fn into_task_error(self) -> TaskError {
        self.error
    }
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error.message)
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for AgentError {
    fn from(error: E) -> Self {
        if let Some(ours) = (&error as &dyn Any).downcast_ref::<Error>() {
            return Self {
                error: TaskError::new(ours.code(), ours.report()),
                temporary: ours.is_temporary(),
                retry_after: ours.delay(),
            };
        }
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self::temporary("agent_error", message)
    }
}
