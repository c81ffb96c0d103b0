//! Answers in a Redis that many processes share.

mod config;
mod error;
mod link;
mod value;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::{Cmd, cmd};
use sutazai_core::{
    Error, Result,
    store::{AnswerCache, AnswerKey, CachedAnswer},
};

pub use self::config::RedisAnswersConfig;
use self::{error::Fault, link::Link};

/// Keys that a server is asked for at a time, and that are looked at together.
const BATCH: usize = 500;

/// How many letters an [`AnswerKey`] is written with.
const KEY: usize = 64;

/// Answers in Redis, each under a key of its own that ends by itself; shared by all who have the same server, number of database and prefix.
///
/// * **Keys** are `PREFIX:answer:` and the 64 digits of the [`AnswerKey`], the tenant among what these are made of. No other key is read or changed.
/// * **Values** say their version, model and check: what was damaged, is another version's, or stands under another's key is no answer.
/// * **Time.** A call takes three times [`RedisAnswersConfig::timeout`] at most (to find that a connection has ended, to open another, and to ask), save
///   those that forget: these ask once and again for each batch of keys, and do not hold up the server (`SCAN` and `UNLINK`).
/// * **Memory** is the server's to bound: with `maxmemory-policy allkeys-lru` it forgets what nobody asks for; one that takes no more is an error of the
///   kind [`Full`](sutazai_core::ErrorKind::Full), and is still read from.
///
/// It is made for one Redis, or one Valkey; not for a Redis Cluster.
pub struct RedisAnswers {
    link: Link,
    config: RedisAnswersConfig,
    place: String,
}

impl RedisAnswers {
    /// Answers in the Redis of these settings; fails as invalid if one of them is wrong. Opens no connection yet: [`ready`](AnswerCache::ready) does.
    pub fn new(config: RedisAnswersConfig) -> Result<Self> {
        let place = config.place();
        let failed = |fault: Fault| Error::from(fault).during("set up the cache").about(&place);
        let link = config.connection().and_then(|info| Link::new(info, config.timeout)).map_err(failed)?;
        Ok(Self { link, config, place })
    }

    fn name(&self, key: &AnswerKey) -> String {
        format!("{}:answer:{key}", self.config.prefix)
    }

    fn failed(&self, operation: &'static str, fault: Fault) -> Error {
        Error::from(fault).during(operation).about(&self.place)
    }

    /// The first `length` bytes under a key, fewer if there are not so many; nothing where there is no text.
    async fn beginning(&self, name: &[u8], length: usize) -> Result<Vec<u8>, Fault> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut command = cmd("GETRANGE");
        command.arg(name).arg(0).arg(length - 1);
        match self.link.ask(&command).await {
            // Somebody else's.
            Err(fault) if fault.is_of_type() => Ok(Vec::new()),
            beginning => beginning,
        }
    }

    /// Forgets what goes with `mark`, or everything. What is there all the time is met by the search; what comes or goes meanwhile may be.
    async fn forget(&self, mark: Option<&str>) -> Result<(), Fault> {
        let pattern = format!("{}:answer:{}", self.config.prefix, "?".repeat(KEY));
        let mut cursor = 0_u64;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(BATCH);
            let (next, names): (u64, Vec<Vec<u8>>) = self.link.ask(&scan).await?;
            let doomed = match mark {
                Some(mark) => self.going_with(mark, names).await?,
                None => names,
            };
            if !doomed.is_empty() {
                self.link.ask::<()>(&unlink(&doomed)).await?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    async fn going_with(&self, mark: &str, names: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Fault> {
        let heads = try_join_all(names.iter().map(|name| self.beginning(name, value::MARK))).await?;
        let looked = names.into_iter().zip(heads);
        Ok(looked.filter(|(_, head)| value::goes_with(head, mark)).map(|(name, _)| name).collect())
    }
}

/// The command that removes these keys, and leaves giving back their memory to another of the server's threads.
fn unlink(names: &[Vec<u8>]) -> Cmd {
    let mut command = cmd("UNLINK");
    for name in names {
        command.arg(name.as_slice());
    }
    command
}

#[async_trait]
impl AnswerCache for RedisAnswers {
    async fn ready(&self) -> Result<()> {
        self.link.ask(&cmd("PING")).await.map_err(|fault| self.failed("reach the cache", fault))
    }

    async fn get(&self, key: &AnswerKey) -> Result<Option<Arc<CachedAnswer>>> {
        let name = self.name(key);
        // One byte more than an answer may have: whatever is longer is none, and not worth reading.
        let bytes = self.beginning(name.as_bytes(), self.config.max_bytes.saturating_add(1)).await;
        let bytes = bytes.map_err(|fault| self.failed("read an answer in", fault))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let answer = if bytes.len() > self.config.max_bytes { None } else { value::read(key, &bytes) };
        if answer.is_none() {
            tracing::debug!(key = %name, cache = %self.place, "this is no answer of this version");
        }
        Ok(answer.map(Arc::new))
    }

    async fn put(&self, key: AnswerKey, answer: CachedAnswer) -> Result<()> {
        let failed = |fault| self.failed("keep an answer in", fault);
        let name = self.name(&key);
        let bytes = value::write(&key, &answer).map_err(|error| failed(Fault::Json(error)))?;
        let command = if bytes.len() > self.config.max_bytes {
            // What was there is not the newest any more.
            unlink(&[name.into_bytes()])
        } else {
            let mut set = cmd("SET");
            set.arg(name).arg(bytes).arg("PX").arg(self.config.ttl_millis());
            set
        };
        self.link.ask(&command).await.map_err(failed)
    }

    async fn invalidate(&self, model: &str) -> Result<()> {
        let mark = value::mark(model);
        self.forget(Some(&mark)).await.map_err(|fault| self.failed("forget the answers of a model in", fault))
    }

    async fn clear(&self) -> Result<()> {
        self.forget(None).await.map_err(|fault| self.failed("forget all answers in", fault))
    }
}

impl fmt::Debug for RedisAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisAnswers").field("place", &self.place).finish_non_exhaustive()
    }
}
