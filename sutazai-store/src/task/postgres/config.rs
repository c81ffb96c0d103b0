//! The settings of a PostgreSQL task store.

use std::{str::FromStr, time::Duration};

use log::LevelFilter;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use sutazai_core::Error;

use super::error::{Fault, Result};

/// Settings of a [`PostgresStore`](super::PostgresStore).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PostgresConfig {
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=…`, in the form of libpq. The password is never shown.
    pub url: SecretString,
    /// The schema of the tables, made if it is missing: 1–48 of `a-z 0-9 _`, not beginning with a digit; default `sutazai`.
    pub schema: String,
    /// Connections at most, opened as they are needed; default 10. Some are kept free for changes and claims, and from 4 on for looks at single tasks, so
    /// that lists and counts never hold all of them. Three more may be open: one for the lease of this process, one that listens for wake-ups, and one for
    /// a short time at the start.
    pub max_connections: u32,
    /// How long a call waits for a connection, and for a new one to open; default 10 s.
    pub acquire_timeout: Duration,
    /// How long one statement may take; default 30 s.
    pub statement_timeout: Duration,
    /// How long one statement waits for locks; default 10 s.
    pub lock_timeout: Duration,
    /// How long a transaction may stand still before the database ends it, with the locks that it holds; default 10 s.
    pub idle_in_transaction_timeout: Duration,
    /// Statements that take longer are logged as warnings, without their arguments; default 1 s.
    pub slow_query: Duration,
    /// What the connections are called in `pg_stat_activity`; default `sutazai`.
    pub application_name: String,
}

impl PostgresConfig {
    /// The defaults, for the database that `url` names. Fails as invalid if it is not a URL of PostgreSQL.
    pub fn from_url(url: impl Into<String>) -> sutazai_core::Result<Self> {
        let config = Self {
            url: url.into().into(),
            schema: "sutazai".to_owned(),
            max_connections: 10,
            acquire_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
            idle_in_transaction_timeout: Duration::from_secs(10),
            slow_query: Duration::from_secs(1),
            application_name: "sutazai".to_owned(),
        };
        match config.parse() {
            Ok(_) => Ok(config),
            Err(fault) => Err(Error::from(fault).during("read the URL of the store")),
        }
    }

    fn parse(&self) -> Result<PgConnectOptions> {
        let url = self.url.expose_secret();
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(Fault::Setting("the URL of the store must begin with postgres:// or postgresql://".to_owned()));
        }
        Ok(PgConnectOptions::from_str(url)?)
    }

    /// What the name of a schema has.
    pub const SCHEMA: &str = "1 to 48 of a-z, 0-9 and _, and begins neither with a digit nor with pg_";

    /// Whether a schema can have this name: [`PostgresConfig::SCHEMA`] says which can.
    #[must_use]
    pub fn is_schema(name: &str) -> bool {
        let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && !name.starts_with("pg_");
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        begins && name.chars().all(known) && name.len() <= 48
    }

    /// Where the store is, without anything secret.
    pub(super) fn place(&self) -> String {
        match self.parse() {
            Ok(options) => {
                let host = options
                    .get_socket()
                    .map_or_else(|| options.get_host().to_owned(), |path| path.display().to_string());
                let database = options.get_database().unwrap_or(options.get_username());
                format!("postgres://{host}:{}/{database} {}", options.get_port(), self.schema)
            }
            Err(_) => self.schema.clone(),
        }
    }

    /// How connections are made. Plans never depend on what a table happens to hold: on a fresh one without statistics the planner would read whole
    /// tables, and a plan made then is kept.
    pub(super) fn options(&self) -> Result<PgConnectOptions> {
        if !Self::is_schema(&self.schema) {
            return Err(Fault::Setting(format!("{:?} is no name for a schema; it has {}", self.schema, Self::SCHEMA)));
        }
        let millis = |time: Duration| time.as_millis().min(i32::MAX.cast_unsigned().into()).to_string();
        let options = self.parse()?.application_name(&self.application_name).statement_cache_capacity(256).options([
            ("search_path", self.schema.as_str()),
            ("statement_timeout", &millis(self.statement_timeout)),
            ("lock_timeout", &millis(self.lock_timeout)),
            ("idle_in_transaction_session_timeout", &millis(self.idle_in_transaction_timeout)),
            ("default_transaction_isolation", "read committed"),
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("enable_bitmapscan", "off"),
            ("enable_material", "off"),
            ("jit", "off"),
        ]);
        Ok(options.log_statements(LevelFilter::Off).log_slow_statements(LevelFilter::Warn, self.slow_query))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let config = PostgresConfig::from_url("postgres://me:s3cret@db.example:5433/tasks").unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
        assert_eq!(config.place(), "postgres://db.example:5433/tasks sutazai");
        for wrong in ["mysql://me:s3cret@db/x", "postgres://me:s3cret@db:port/x", "s3cret"] {
            let error = PostgresConfig::from_url(wrong).unwrap_err();
            assert_eq!(error.kind(), sutazai_core::ErrorKind::Invalid);
            assert!(!error.report().contains("s3cret") && !format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn a_schema_is_a_plain_name() {
        let with = |schema: &str| {
            let config = PostgresConfig::from_url("postgres://localhost/x").unwrap();
            PostgresConfig { schema: schema.to_owned(), ..config }.options().is_ok()
        };
        assert!(with("sutazai") && with("_a1"));
        assert!(!["", "1a", "pg_x", "a b", "a\"b", "A", "a;b"].into_iter().any(with) && !with(&"a".repeat(49)));
    }
}
