//! Nobody waits twice for kept answers that are away.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sutazai_core::{
    Error, ErrorKind, Result,
    clock::{Clock, SystemClock},
};
use tracing::{info, warn};

use super::{AnswerCache, AnswerKey, CachedAnswer};

/// How long answers are left alone after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SparedAnswersConfig {
    /// After the first one. Default 1 s.
    pub first_pause: Duration,
    /// The pause doubles with each try that fails, up to this. Default 30 s.
    pub longest_pause: Duration,
}

impl Default for SparedAnswersConfig {
    fn default() -> Self {
        Self { first_pause: Duration::from_secs(1), longest_pause: Duration::from_secs(30) }
    }
}

/// Answers kept where they may be away, as in a server: that costs hits, and next to no time.
///
/// After a failure nothing is looked for (or kept, whichever it was that failed) for a pause, and every look is a miss at once. After the pause one call
/// tries again; if it succeeds all go on, otherwise the pause is twice as long. Whoever asks never gets an error of [`get`](AnswerCache::get) or
/// [`put`](AnswerCache::put): the log has it, once when it begins and once when it is over.
pub struct SparedAnswers {
    inner: Arc<dyn AnswerCache>,
    config: SparedAnswersConfig,
    clock: Arc<dyn Clock>,
    reading: Side,
    keeping: Side,
}

impl SparedAnswers {
    /// What `inner` keeps.
    #[must_use]
    pub fn new(inner: Arc<dyn AnswerCache>, config: SparedAnswersConfig) -> Self {
        let (reading, keeping) = (Side::new("kept answers cannot be read"), Side::new("answers cannot be kept"));
        Self { inner, config, clock: Arc::new(SystemClock), reading, keeping }
    }

    /// The same with pauses by another clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// What came of a turn, if it was something.
    fn noted<T>(&self, side: &Side, turn: Turn, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => {
                if turn == Turn::Try {
                    side.recovered();
                }
                Some(value)
            }
            Err(error) => {
                side.failed(turn, &error, self.clock.elapsed(), &self.config);
                None
            }
        }
    }
}

#[async_trait]
impl AnswerCache for SparedAnswers {
    /// Asks, whatever the pause. What failed only because there was no answer goes on if there is one now; for the rest, such as a server that takes no
    /// more, the last error stands until a call has succeeded.
    async fn ready(&self) -> Result<()> {
        let sides = [&self.reading, &self.keeping];
        match self.inner.ready().await {
            Ok(()) => {
                sides.into_iter().for_each(Side::reached);
                sides.into_iter().try_for_each(Side::ready)
            }
            Err(error) => {
                let now = self.clock.elapsed();
                sides.into_iter().for_each(|side| side.failed(Turn::Free, &error, now, &self.config));
                Err(error)
            }
        }
    }

    async fn get(&self, key: &AnswerKey) -> Result<Option<Arc<CachedAnswer>>> {
        let Some(turn) = self.reading.turn(self.clock.elapsed()) else { return Ok(None) };
        let outcome = self.inner.get(key).await;
        Ok(self.noted(&self.reading, turn, outcome).flatten())
    }

    async fn put(&self, key: AnswerKey, answer: CachedAnswer) -> Result<()> {
        let Some(turn) = self.keeping.turn(self.clock.elapsed()) else { return Ok(()) };
        let outcome = self.inner.put(key, answer).await;
        self.noted(&self.keeping, turn, outcome);
        Ok(())
    }

    /// As `inner` does: whoever wants something forgotten has to know that it was not.
    async fn invalidate(&self, model: &str) -> Result<()> {
        self.inner.invalidate(model).await
    }

    async fn clear(&self) -> Result<()> {
        self.inner.clear().await
    }
}

impl fmt::Debug for SparedAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SparedAnswers").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Leave to make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// As far as is known, all is well.
    Free,
    /// To see whether it is again.
    Try,
}

/// Reading or keeping: one may fail while the other does not.
struct Side {
    /// What the log says of it.
    trouble: &'static str,
    illness: Mutex<Option<Illness>>,
}

/// Since when, and how it goes on. Times are those of [`Clock::elapsed`].
struct Illness {
    kind: ErrorKind,
    code: &'static str,
    why: String,
    pause: Duration,
    until: Duration,
}

impl Side {
    fn new(trouble: &'static str) -> Self {
        Self { trouble, illness: Mutex::new(None) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Illness>> {
        self.illness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to make a call now, or none. Who gets one to try and never says what came of it holds the others up for one pause.
    fn turn(&self, now: Duration) -> Option<Turn> {
        match &mut *self.lock() {
            None => Some(Turn::Free),
            Some(illness) if illness.until <= now => {
                illness.until = now.saturating_add(illness.pause);
                Some(Turn::Try)
            }
            Some(_) => None,
        }
    }

    /// A call failed. One that was begun while all was well says nothing new about an illness that is known by now.
    fn failed(&self, turn: Turn, error: &Error, now: Duration, config: &SparedAnswersConfig) {
        let mut illness = self.lock();
        let pause = match &*illness {
            None => config.first_pause,
            Some(illness) if turn == Turn::Try => illness.pause.saturating_mul(2).min(config.longest_pause),
            Some(_) => return,
        };
        let begins = illness.is_none();
        let (why, until) = (error.report(), now.saturating_add(pause));
        *illness = Some(Illness { kind: error.kind(), code: error.code(), why: why.clone(), pause, until });
        drop(illness);
        if begins {
            warn!(error = %why, "{}; models are asked instead", self.trouble);
        }
    }

    /// A try succeeded.
    fn recovered(&self) {
        let was = self.lock().take();
        if let Some(illness) = was {
            info!(error = %illness.why, "no longer: {}", self.trouble);
        }
    }

    /// There was an answer: to an illness that was the lack of one, it is the end.
    fn reached(&self) {
        let was = self.lock().take_if(|illness| matches!(illness.kind, ErrorKind::Unavailable | ErrorKind::Timeout));
        if let Some(illness) = was {
            info!(error = %illness.why, "no longer: {}", self.trouble);
        }
    }

    /// Why it does not work at present, if it does not.
    fn ready(&self) -> Result<()> {
        match &*self.lock() {
            None => Ok(()),
            Some(illness) => {
                let message = format!("{}: {}", self.trouble, illness.why);
                Err(Error::new(illness.kind, message).with_code(illness.code))
            }
        }
    }
}
