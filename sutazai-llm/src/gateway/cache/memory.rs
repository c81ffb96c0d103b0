//! Answers kept in this process, bounded by the memory they take.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use sutazai_core::Result;

use super::{AnswerCache, AnswerKey, CachedAnswer, weight};

/// How much is kept in this process, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryAnswersConfig {
    /// Bytes of memory at most, about. Default 64 MiB.
    pub max_bytes: u64,
    /// How long an answer is kept; more than a century is a century. Default 1 h.
    pub ttl: Duration,
}

impl Default for MemoryAnswersConfig {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, ttl: Duration::from_secs(3600) }
    }
}

const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Answers in this process: what is asked for often stays, and all are gone with the process.
pub struct MemoryAnswers {
    answers: moka::future::Cache<AnswerKey, Arc<CachedAnswer>>,
}

impl MemoryAnswers {
    /// Nothing yet, and never more than `config` says.
    #[must_use]
    pub fn new(config: MemoryAnswersConfig) -> Self {
        let weigher = |_: &AnswerKey, answer: &Arc<CachedAnswer>| u32::try_from(weight(answer)).unwrap_or(u32::MAX);
        let answers = moka::future::Cache::builder()
            .max_capacity(config.max_bytes)
            .weigher(weigher)
            // Beyond a thousand years the builder panics.
            .time_to_live(config.ttl.min(CENTURY))
            .build();
        Self { answers }
    }
}

impl Default for MemoryAnswers {
    fn default() -> Self {
        Self::new(MemoryAnswersConfig::default())
    }
}

#[async_trait]
impl AnswerCache for MemoryAnswers {
    async fn get(&self, key: &AnswerKey) -> Result<Option<Arc<CachedAnswer>>> {
        Ok(self.answers.get(key).await)
    }

    async fn put(&self, key: AnswerKey, answer: CachedAnswer) -> Result<()> {
        self.answers.insert(key, Arc::new(answer)).await;
        Ok(())
    }

    async fn invalidate(&self, model: &str) -> Result<()> {
        let keys: Vec<AnswerKey> =
            self.answers.iter().filter(|(_, answer)| answer.served_model == model).map(|(key, _)| *key).collect();
        for key in keys {
            self.answers.invalidate(&key).await;
        }
        Ok(())
    }

    async fn clear(&self) -> Result<()> {
        self.answers.invalidate_all();
        Ok(())
    }
}

impl fmt::Debug for MemoryAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryAnswers").field("bytes", &self.answers.weighted_size()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use sutazai_core::{
        clock::Timestamp,
        conformance,
        model::{ChatEvent, ChatRequest, ModelInfo},
    };

    use super::*;

    fn key(question: &str) -> AnswerKey {
        AnswerKey::of(&ModelInfo::new("actor", "scripted", 8192), &ChatRequest::ask(question)).unwrap()
    }

    fn answer(model: &str, text: &str) -> CachedAnswer {
        CachedAnswer {
            served_model: model.into(),
            served_backend: "scripted".into(),
            events: vec![ChatEvent::Text(text.into())],
            created: Timestamp::default(),
        }
    }

    sutazai_core::answer_conformance!(Box::new(MemoryAnswers::default()));

    #[tokio::test]
    async fn memory_is_bounded() {
        let answers = MemoryAnswers::new(MemoryAnswersConfig { max_bytes: 100_000, ..MemoryAnswersConfig::default() });
        for number in 0..100 {
            answers.put(key(&number.to_string()), answer("actor", &"x".repeat(10_000))).await.unwrap();
        }
        answers.answers.run_pending_tasks().await;
        let size = answers.answers.weighted_size();
        assert!((10_000..=100_000).contains(&size), "{size}");
    }

    #[tokio::test]
    async fn answers_age() {
        let answers = MemoryAnswers::new(MemoryAnswersConfig { ttl: Duration::from_millis(1), ..Default::default() });
        conformance::answer::what_is_old_is_forgotten(&answers).await.map_err(|error| error.report()).unwrap();
        // Longer than the builder takes.
        drop(MemoryAnswers::new(MemoryAnswersConfig { ttl: Duration::MAX, ..Default::default() }));
    }
}
