//! Asking again: a call that failed before anything of its answer was delivered, after a pause.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use sutazai_core::{
    Error, Fault, Result,
    clock::Clock,
    model::{Caller, ChatModel, ChatRequest, ChatStream, ModelInfo},
    task::RetryPolicy,
};

use super::{first::begin, observer::GatewayObserver};

/// How often a model is asked again, and after which pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// Calls at most, the first one included; at least 1. Default 3.
    pub attempts: u32,
    /// The longest first pause; the bound doubles from one pause to the next. Default 200 ms.
    pub base: Duration,
    /// The longest pause that is drawn, and the longest that an error may ask for. Default 5 s.
    pub cap: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { attempts: 3, base: Duration::from_millis(200), cap: Duration::from_secs(5) }
    }
}

impl RetryConfig {
    fn check(&self) -> Result<()> {
        if self.attempts == 0 {
            let faults = vec![Fault::new("/attempts", "0 is less than 1, the call itself")];
            return Err(Error::invalid("the settings of retries are wrong", faults));
        }
        Ok(())
    }

    fn policy(&self) -> RetryPolicy {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        RetryPolicy { max_attempts: self.attempts, initial_ms: millis(self.base), max_ms: millis(self.cap) }
    }
}

/// What is temporary and yet not asked again: who waited in vain for a turn would only wait again, and a budget is not filled by waiting. Their callers
/// are told when to come again, and a fallback may have room now.
const NOT_HERE: [&str; 2] = ["queue_full", "budget_exceeded"];

/// A model that is asked again where that may help.
///
/// Only errors that are temporary are retried, and only while nothing of the answer was delivered: an error in the place of the first event is one that
/// came before the answer, any later one is the caller's. Queues that are full (`queue_full`) and budgets (`budget_exceeded`) are not waited for here.
///
/// The pauses grow exponentially with full jitter, on top of what the error asks for; an error that asks for more than the cap is returned at once,
/// and so is one whose pause would not end before the caller's deadline. A pause holds no place and no permit. The error that is returned is the last
/// one.
pub struct Retry {
    inner: Arc<dyn ChatModel>,
    policy: RetryPolicy,
    cap: Duration,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn GatewayObserver>,
}

impl Retry {
    /// Retries around `inner`. Deadlines and jitter are the clock's; kind `Invalid` if the settings are wrong.
    pub fn new(
        inner: Arc<dyn ChatModel>,
        config: RetryConfig,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn GatewayObserver>,
    ) -> Result<Self> {
        config.check()?;
        Ok(Self { inner, policy: config.policy(), cap: config.cap, clock, observer })
    }

    /// How long to wait after call number `attempt` failed so; nothing if it is not to be made again.
    fn pause(&self, attempt: u32, error: &Error, caller: &Caller) -> Option<Duration> {
        if attempt >= self.policy.max_attempts || !error.is_temporary() || NOT_HERE.contains(&error.code()) {
            return None;
        }
        let asked = error.delay().unwrap_or_default();
        if asked > self.cap {
            return None;
        }
        // On top, not instead: everybody who was refused was told the same moment.
        let pause = asked.saturating_add(self.policy.delay(attempt, self.clock.random()));
        let left = caller.deadline.map(|deadline| self.clock.now().until(deadline));
        left.is_none_or(|left| pause < left).then_some(pause)
    }
}

#[async_trait]
impl ChatModel for Retry {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    async fn ready(&self) -> Result<()> {
        self.inner.ready().await
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        let mut attempt = 1;
        loop {
            let error = match begin(&*self.inner, request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let Some(pause) = self.pause(attempt, &error, &request.caller) else { return Err(error) };
            tokio::time::sleep(pause).await;
            attempt += 1;
            self.observer.retried(&self.inner.info().name, attempt);
        }
    }

    async fn load(&self) -> Result<()> {
        self.inner.load().await
    }

    async fn unload(&self) -> Result<()> {
        self.inner.unload().await
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("model", &self.info().name).field("policy", &self.policy).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
