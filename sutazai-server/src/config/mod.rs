//! Settings: defaults ← TOML file ← environment ← flags, each value with where it came from.

mod broken;
mod budgets;
mod check;
mod keys;
mod load;
mod refused;
mod tables;

use std::{net::SocketAddr, path::PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

pub(crate) use self::load::{masked_url, one_line};
pub use self::{
    budgets::Budgets,
    keys::{Alias, Group, KEYS, Key, Kind, PREFIX, find},
    load::{Configuration, Entry, Note, environment, load},
    refused::Refused,
    tables::{LimitTable, Tenants},
};

/// Every setting with its type; the table in [`KEYS`] says what each means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the table of keys documents each, for people and for programs")]
pub struct Settings {
    pub config: Option<PathBuf>,
    pub data_dir: PathBuf,
    pub models_dir: PathBuf,
    pub server: String,
    pub json: bool,
    pub log_level: Option<String>,
    pub listen: SocketAddr,
    pub store: SecretString,
    pub sqlite_synchronous: Fsync,
    pub postgres_schema: String,
    pub postgres_connections: u32,
    pub postgres_acquire_ms: u64,
    pub postgres_statement_ms: u64,
    pub postgres_lock_ms: u64,
    pub postgres_idle_ms: u64,
    pub postgres_slow_ms: u64,
    pub role: Role,
    pub max_running: usize,
    pub queue_max: u64,
    pub lease_ms: u64,
    #[serde(default)]
    pub tenants: Tenants,
    #[serde(default)]
    pub agent_limits: LimitTable,
    pub keep_completed_days: u64,
    pub keep_completed: u64,
    pub keep_cancelled_days: u64,
    pub keep_cancelled: u64,
    pub keep_failed_days: u64,
    pub keep_failed: u64,
    pub worker_threads: usize,
    pub drain_ms: u64,
    pub dev_agents: bool,
    pub agent_name: Option<String>,
    pub prometheus_namespace: String,
    pub webhook_secret: Option<SecretString>,
    pub webhook_allow_private: bool,
    pub vector_provider: VectorProvider,
    pub ollama_base_url: Option<String>,
    pub model_id: String,
    pub ollama_context: usize,
    pub ollama_keep_alive_s: u64,
    pub openai_base_url: Option<String>,
    pub openai_api_key: Option<SecretString>,
    #[serde(default)]
    pub openai_models: Vec<String>,
    pub openai_context: usize,
    pub model_parallel: usize,
    pub models_loaded: usize,
    pub model_memory_mb: u64,
    pub models_quota_mb: u64,
    pub model_queue: usize,
    pub model_queue_ms: u64,
    pub model_age_ms: u64,
    pub model_silence_ms: u64,
    pub model_cache_mb: u64,
    pub redis_url: Option<SecretString>,
    pub redis_prefix: String,
    pub redis_timeout_ms: u64,
    #[serde(default)]
    pub budgets: Budgets,
    #[serde(default)]
    pub model_fallbacks: Vec<String>,
    pub temperature: Option<f32>,
    pub max_tokens: Option<u32>,
    pub docs: PathBuf,
    #[serde(default)]
    pub allowed_hosts: Vec<String>,
    #[serde(default)]
    pub docs_roots: Vec<PathBuf>,
}

impl Settings {
    /// What a server cannot be started with, though each value alone is right.
    pub fn check(&self) -> Result<(), Refused> {
        let mut faults = Vec::new();
        if !self.listen.ip().is_loopback() {
            let listen = self.listen;
            faults.push(format!("listen: {listen} is reachable from outside, and there is no authentication yet; allowed is loopback, such as 127.0.0.1:10010"));
        }
        let letters = |c: char| c.is_ascii_alphabetic() || c == '_';
        let namespace = &self.prometheus_namespace;
        if !namespace.starts_with(letters) || !namespace.chars().all(|c| letters(c) || c.is_ascii_digit()) {
            faults.push(format!(
                "prometheus_namespace: found {namespace:?}; allowed are letters, digits and '_', no digit first"
            ));
        }
        if self.role != Role::All && self.store.expose_secret() == "sqlite" {
            let role = self.role.as_str();
            faults.push(format!("role: a server that is only {role} shares its store with others, and sqlite is for one process; allowed is all, or a store of postgres://…"));
        }
        if faults.is_empty() { Ok(()) } else { Err(Refused::new(faults)) }
    }
}

/// What a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    All,
    /// Takes tasks in and answers for them; others execute them.
    Api,
    /// Executes tasks; to operators alone it answers.
    Worker,
}

impl Role {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Api => "api",
            Self::Worker => "worker",
        }
    }
}

/// The vector index that is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VectorProvider {
    /// On disk, beside the tasks.
    Usearch,
    /// In memory, gone with the process.
    Memory,
}

/// When a stored task counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// When it is on the disk: survives the loss of power.
    Full,
    /// When it is with the operating system: survives the end of the process.
    Normal,
}
