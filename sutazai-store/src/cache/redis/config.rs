//! The settings of answers in Redis.

use std::time::Duration;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use secrecy::{ExposeSecret, SecretString};
use sutazai_core::Error;

use super::error::{Fault, Result};

/// What a URL may begin with. Valkey is Redis under another name.
const SCHEMES: [&str; 4] = ["redis://", "rediss://", "valkey://", "valkeys://"];

/// Redis takes no time to live whose end it cannot write as a moment.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Nobody waits longer.
const HOUR: Duration = Duration::from_secs(3600);

/// Settings of [`RedisAnswers`](super::RedisAnswers).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RedisAnswersConfig {
    /// `redis://USER:PASSWORD@HOST:PORT/NUMBER`, or `rediss://…` for TLS, which trusts the certificates of this system. It is never shown.
    pub url: SecretString,
    /// What the names of all keys begin with: 1–64 of letters, digits and `. _ - :`; default `sutazai`. Who shares answers has the same.
    pub prefix: String,
    /// How long an answer is kept; more than a century is a century. Default 1 h.
    pub ttl: Duration,
    /// Bytes of an answer as it is stored, at most; longer ones are not kept. Default 1 MiB.
    pub max_bytes: usize,
    /// How long a connection may take to come about, and how long Redis may take to answer; default 250 ms each, an hour at most.
    pub timeout: Duration,
}

impl RedisAnswersConfig {
    /// The defaults, for the server that `url` names. Fails as invalid if it is not a URL of Redis.
    pub fn from_url(url: impl Into<String>) -> sutazai_core::Result<Self> {
        let config = Self {
            url: url.into().into(),
            prefix: "sutazai".to_owned(),
            ttl: Duration::from_secs(3600),
            max_bytes: 1 << 20,
            timeout: Duration::from_millis(250),
        };
        match config.parse() {
            Ok(_) => Ok(config),
            Err(fault) => Err(Error::from(fault).during("read the URL of the cache")),
        }
    }

    fn parse(&self) -> Result<ConnectionInfo> {
        let wrong = |what: &str| Fault::Setting(format!("the URL of the cache {what}"));
        let url = self.url.expose_secret();
        if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
            return Err(wrong("must begin with redis:// or rediss://"));
        }
        // The driver's own words may quote the URL.
        let info = url.into_connection_info();
        let info = info.map_err(|_| wrong("is not of the form redis://USER:PASSWORD@HOST:PORT/NUMBER"))?;
        if matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
            return Err(wrong("ends with #insecure, and certificates are always checked"));
        }
        // Otherwise a small question may wait for the acknowledgement of the one before.
        let settings = info.tcp_settings().clone().set_nodelay(true);
        Ok(info.set_tcp_settings(settings))
    }

    /// How a connection is made, if everything in here is right.
    pub(super) fn connection(&self) -> Result<ConnectionInfo> {
        let known = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        if !(1..=64).contains(&self.prefix.len()) || !self.prefix.chars().all(known) {
            let message = "a prefix has 1 to 64 letters, digits and . _ - :";
            return Err(Fault::Setting(format!("{:?} is no prefix: {message}", self.prefix)));
        }
        if self.timeout.is_zero() || self.timeout > HOUR || self.ttl.is_zero() {
            let message = "answers are kept for longer than 0, and a timeout is above 0 and at most an hour";
            return Err(Fault::Setting(message.to_owned()));
        }
        self.parse()
    }

    /// Milliseconds that an answer is kept.
    pub(super) fn ttl_millis(&self) -> u64 {
        u64::try_from(self.ttl.min(CENTURY).as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Where the cache is, without anything secret.
    pub(super) fn place(&self) -> String {
        match self.parse() {
            Ok(info) => {
                let scheme = if is_encrypted(&info) { "rediss" } else { "redis" };
                format!("{scheme}://{}/{} {}", info.addr(), info.redis_settings().db(), self.prefix)
            }
            Err(_) => self.prefix.clone(),
        }
    }
}

/// Whether connections are made by TLS.
pub(super) fn is_encrypted(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let config = RedisAnswersConfig::from_url("redis://me:s3cret@cache.example:6380/2").unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
        assert_eq!(config.place(), "redis://cache.example:6380/2 sutazai");
        let config = RedisAnswersConfig::from_url("rediss://:s3cret@cache.example").unwrap();
        assert_eq!(config.place(), "rediss://cache.example:6379/0 sutazai");
        for wrong in [
            "http://me:s3cret@h",
            "redis://me:s3cret@h:port",
            "redis://me:s3cret@h/number",
            "redis://me:x@h?protocol=s3cret",
            "redis://",
            "rediss://me:s3cret@h/#insecure",
            "s3cret",
        ] {
            let error = RedisAnswersConfig::from_url(wrong).unwrap_err();
            assert_eq!(error.kind(), sutazai_core::ErrorKind::Invalid, "{wrong}");
            assert!(!error.report().contains("s3cret") && !format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn a_prefix_is_plain() {
        let with = |prefix: &str| {
            let config = RedisAnswersConfig::from_url("redis://h").unwrap();
            RedisAnswersConfig { prefix: prefix.to_owned(), ..config }.connection().is_ok()
        };
        assert!(with("sutazai") && with("a:b.c-d_1"));
        assert!(!["", "a b", "a*", "a?", "[a]", "a\n", "{a}", "ä"].into_iter().any(with) && !with(&"a".repeat(65)));
    }

    #[test]
    fn times_are_what_redis_takes() {
        let with = |ttl, timeout| {
            let config = RedisAnswersConfig::from_url("redis://h").unwrap();
            RedisAnswersConfig { ttl, timeout, ..config }
        };
        let second = Duration::from_secs(1);
        assert_eq!(with(second, second).ttl_millis(), 1_000);
        assert_eq!(with(Duration::from_nanos(1), second).ttl_millis(), 1);
        assert_eq!(with(Duration::MAX, second).ttl_millis(), 100 * 365 * 24 * 3_600_000);
        assert!(with(Duration::MAX, second).connection().is_ok());
        for (ttl, timeout) in [(Duration::ZERO, second), (second, Duration::ZERO), (second, Duration::MAX)] {
            assert!(with(ttl, timeout).connection().is_err(), "{ttl:?} {timeout:?}");
        }
    }
}
