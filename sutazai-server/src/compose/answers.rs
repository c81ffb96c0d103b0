//! Where answers of models are kept.

use std::{sync::Arc, time::Duration};

use secrecy::ExposeSecret;
use sutazai_core::{Result, store::AnswerCache};
use sutazai_llm::gateway::cache::{MemoryAnswers, MemoryAnswersConfig, SparedAnswers, SparedAnswersConfig};
use sutazai_store::{RedisAnswers, RedisAnswersConfig};

use crate::config::Settings;

/// Where answers are kept, if they are.
#[derive(Default)]
pub(super) struct Kept {
    /// What the gateway asks.
    pub(super) cache: Option<Arc<dyn AnswerCache>>,
    /// The same where it is a server's, and may be away.
    pub(super) shared: Option<Arc<dyn AnswerCache>>,
}

/// The cache of the settings: in this process, or in a Redis that other servers share. One that is away keeps nobody from starting, and the log has it.
pub(super) async fn open(settings: &Settings) -> Result<Kept> {
    if settings.model_cache_mb == 0 {
        return Ok(Kept::default());
    }
    let Some(url) = &settings.redis_url else {
        let max_bytes = settings.model_cache_mb.saturating_mul(1 << 20);
        let cache = MemoryAnswers::new(MemoryAnswersConfig { max_bytes, ..Default::default() });
        return Ok(Kept { cache: Some(Arc::new(cache)), shared: None });
    };
    let mut config = RedisAnswersConfig::from_url(url.expose_secret())?;
    config.prefix.clone_from(&settings.redis_prefix);
    config.timeout = Duration::from_millis(settings.redis_timeout_ms);
    let cache = SparedAnswers::new(Arc::new(RedisAnswers::new(config)?), SparedAnswersConfig::default());
    let cache: Arc<dyn AnswerCache> = Arc::new(cache);
    // So that the first calls find a connection, or do not wait for one.
    let _ = cache.ready().await;
    Ok(Kept { cache: Some(Arc::clone(&cache)), shared: Some(cache) })
}
