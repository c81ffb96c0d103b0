//! The one table of settings: key, variable and flag of each follow from its name.

/// One setting. Its key in the file is `name`, its variable `SUTAZAI_` and the name in capitals, its flag `--` and the name with dashes.
#[derive(Debug)]
pub struct Key {
    /// `snake_case`.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Its value when nobody gives one; empty for none, or for one that depends on the machine.
    pub default: &'static str,
    /// Which commands take its flag.
    pub group: Group,
    /// A variable that the users' documents give for it.
    pub alias: Option<Alias>,
    /// One line for people.
    pub help: &'static str,
}

/// A variable of another name that sets a key; `SUTAZAI_*` wins over it.
#[derive(Debug)]
pub struct Alias {
    /// The variable.
    pub variable: &'static str,
    /// How its value becomes the key's: `{}` stands for it.
    pub template: &'static str,
}

/// What values a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path.
    Path,
    /// `true` or `false`.
    Flag,
    /// A whole number in this range.
    Integer(i64, i64),
    /// A number in this range.
    Number(f64, f64),
    /// `HOST:PORT`.
    Address,
    /// An `http` or `https` URL.
    Url,
    /// A filter of log lines: a level, or `target=level` pairs.
    Filter,
    /// Texts with commas between them.
    List,
    /// The built ones of these names, and the ones that are named in the plans but do not exist yet.
    Choice(&'static [&'static str], &'static [&'static str]),
    /// The name of the embedded store, or the URL of a shared one; may hold a password.
    Store,
    /// The name of a schema of PostgreSQL.
    Schema,
    /// The URL of a Redis; may hold a password.
    Redis,
    /// A table of tenants; JSON where it is one text.
    Tenants,
    /// A table of agents' limits; JSON where it is one text.
    Limits,
    /// A table of budgets; JSON where it is one text.
    Budgets,
    /// A text that is never shown.
    Secret,
    /// A setting of a part that does not exist yet: reported and ignored. It may hold a secret.
    NotBuilt,
}

/// Which commands take a key's flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// All.
    Everywhere,
    /// Those that run models: `serve`, `quickstart`, `ask`, `search`, `models`.
    Models,
    /// Those that read documents: `quickstart`, `ask`, `search`.
    Documents,
    /// Those that serve: `serve`, `quickstart`.
    Serving,
    /// None: there is only a variable and a key, since nothing reads it yet, or since every process sees what is on a command line.
    Nowhere,
}

impl Group {
    /// Whether the command called `command` takes flags of this group.
    #[must_use]
    pub fn fits(self, command: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Models => matches!(command, "serve" | "quickstart" | "ask" | "search" | "models" | "config"),
            Self::Documents => matches!(command, "quickstart" | "ask" | "search" | "config"),
            Self::Serving => matches!(command, "serve" | "quickstart" | "config"),
            Self::Nowhere => false,
        }
    }
}

impl Key {
    const fn new(name: &'static str, kind: Kind, default: &'static str, group: Group, help: &'static str) -> Self {
        Self { name, kind, default, group, alias: None, help }
    }

    const fn not_built(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::NotBuilt, "", Group::Nowhere, help)
    }

    const fn also(mut self, variable: &'static str) -> Self {
        self.alias = Some(Alias { variable, template: "{}" });
        self
    }

    const fn also_as(mut self, variable: &'static str, template: &'static str) -> Self {
        self.alias = Some(Alias { variable, template });
        self
    }

    /// Its variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.to_uppercase())
    }

    /// Its flag, without the dashes before it.
    #[must_use]
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Whether its value may hold a secret.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Store | Kind::Redis | Kind::Secret | Kind::NotBuilt)
    }
}

/// What all our variables begin with.
pub const PREFIX: &str = "SUTAZAI_";

use Group::{Documents, Everywhere, Models, Nowhere, Serving};
use Kind::{
    Address, Budgets, Choice, Filter, Flag, Integer, Limits, List, Number, Path, Redis, Schema, Secret, Store, Tenants,
    Text, Url,
};

/// Every setting there is.
#[rustfmt::skip]
pub static KEYS: &[Key] = &[
    // name, kind, default, group, help
    Key::new("config", Path, "", Everywhere, "A TOML file with settings"),
    Key::new("data_dir", Path, "", Everywhere, "Where tasks and indexes live"),
    Key::new("models_dir", Path, "", Everywhere, "Where model files live"),
    Key::new("server", Url, "http://127.0.0.1:10010", Everywhere, "The server to talk to"),
    Key::new("json", Flag, "false", Everywhere, "Print JSON, and nothing else, on stdout"),
    Key::new("log_level", Filter, "", Everywhere, "What to log: error, warn, info, debug, trace, or target=level pairs").also("LOG_LEVEL"),

    Key::new("listen", Address, "127.0.0.1:10010", Serving, "The address to serve on; port 0 is any free one").also_as("AGENT_PORT", "127.0.0.1:{}"),
    Key::new("store", Store, "sqlite", Serving, "Where tasks are kept: sqlite, or postgres://USER:PASSWORD@HOST/DATABASE, better in the variable").also("PG_DSN"),
    Key::new("sqlite_synchronous", Choice(&["full", "normal"], &[]), "full", Serving, "full survives the loss of power, normal the end of the process"),
    Key::new("postgres_schema", Schema, "sutazai", Serving, "The schema of PostgreSQL that holds the tables"),
    Key::new("postgres_connections", Integer(1, 1_000), "10", Serving, "Connections to PostgreSQL at most, beside one for the lease and one that listens"),
    Key::new("postgres_acquire_ms", Integer(100, 600_000), "10000", Serving, "How long a call waits for a connection"),
    Key::new("postgres_statement_ms", Integer(100, 600_000), "30000", Serving, "How long a statement may take"),
    Key::new("postgres_lock_ms", Integer(100, 600_000), "10000", Serving, "How long a statement waits for locks"),
    Key::new("postgres_idle_ms", Integer(100, 600_000), "10000", Serving, "How long a transaction may stand still before PostgreSQL ends it"),
    Key::new("postgres_slow_ms", Integer(1, 600_000), "1000", Serving, "Statements that take longer are logged"),
    Key::new("role", Choice(&["all", "api", "worker"], &[]), "all", Serving,
        "What this server does: api takes tasks in, worker executes them, all does both"),
    Key::new("max_running", Integer(1, 1_000_000), "512", Serving, "Tasks that run at once").also("AGENT_MAX_WORKERS"),
    Key::new("queue_max", Integer(1, 1_000_000_000), "1000000", Serving, "Queued tasks at most; beyond them, submits are answered 429"),
    Key::new("lease_ms", Integer(100, 600_000), "5000", Serving, "How long this server may be silent before others take over its tasks"),
    Key::new("tenants", Tenants, "", Serving, r#"Shares and limits of tenants, such as {"big": {"weight": 2, "concurrency": 10}}; * is every other"#),
    Key::new("agent_limits", Limits, "", Serving, r#"Limits in place of those that agents declare, such as {"NAME": {"concurrency": 4, "per_minute": "none"}}"#),
    Key::new("keep_completed_days", Integer(0, 36_500), "30", Serving, "Days that completed tasks are kept; 0 is for good"),
    Key::new("keep_completed", Integer(0, i64::MAX), "0", Serving, "Completed tasks that are kept, the newest; 0 is all"),
    Key::new("keep_cancelled_days", Integer(0, 36_500), "30", Serving, "Days that cancelled tasks are kept; 0 is for good"),
    Key::new("keep_cancelled", Integer(0, i64::MAX), "0", Serving, "Cancelled tasks that are kept, the newest; 0 is all"),
    Key::new("keep_failed_days", Integer(0, 36_500), "0", Serving, "Days that failed tasks are kept; 0 is for good"),
    Key::new("keep_failed", Integer(0, i64::MAX), "0", Serving, "Failed tasks that are kept, the newest; 0 is all"),
    Key::new("worker_threads", Integer(0, 1_024), "0", Serving, "Threads that serve; 0 is one for each core"),
    Key::new("drain_ms", Integer(0, 24_000), "24000", Serving, "How long running tasks may go on after SIGTERM"),
    Key::new("allowed_hosts", List, "", Serving, "Names besides localhost that requests may be addressed to, with commas between them"),
    Key::new("dev_agents", Flag, "false", Serving, "Add the dev.* agents for smoke and load tests"),
    Key::new("agent_name", Text, "", Serving, "What this server calls itself in its log").also("AGENT_NAME"),
    Key::new("prometheus_namespace", Text, "sutazai", Serving, "What the names of metrics begin with").also("PROMETHEUS_NAMESPACE"),
    Key::new("webhook_secret", Secret, "", Nowhere, "Signs what webhooks are sent; without it no task may have one"),
    Key::new("webhook_allow_private", Flag, "false", Serving, "Let webhooks call private and loopback addresses"),
    Key::new("vector_provider", Choice(&["usearch", "memory"], &["qdrant", "chroma", "chromadb", "faiss", "pgvector", "neo4j"]), "usearch", Models,
        "The vector index: usearch (on disk) or memory").also("VECTOR_PROVIDER"),

    Key::new("ollama_base_url", Url, "", Models, "An Ollama server; unset, ports 11434 and 10104 of this machine are tried").also("OLLAMA_BASE_URL"),
    Key::new("model_id", Text, "tinyllama", Models, "The chat model, where an Ollama server holds it; an embedded one otherwise").also("MODEL_ID"),
    Key::new("ollama_context", Integer(128, 1_048_576), "4096", Models, "Tokens of context of Ollama's models; the same in every call, since another value makes it load anew")
        .also("OLLAMA_CONTEXT_LENGTH"),
    Key::new("ollama_keep_alive_s", Integer(0, 31_536_000), "1800", Models, "Seconds that Ollama keeps a model in memory when nobody asks it"),
    Key::new("openai_base_url", Url, "", Models, "A server that speaks OpenAI's wire format, such as http://127.0.0.1:8000/v1").also("OPENAI_BASE_URL"),
    Key::new("openai_api_key", Secret, "", Nowhere, "The key of that server").also("OPENAI_API_KEY"),
    Key::new("openai_models", List, "", Models, "The chat models of that server that are used, with commas between them; unset: all that it lists at the start of this one"),
    Key::new("openai_context", Integer(128, 16_777_216), "8192", Models, "Tokens of context of those models, which do not say it themselves"),
    Key::new("model_parallel", Integer(1, 10_000), "1", Models, "Calls that a model server answers at a time; the model in this process answers 4 to 64").also("OLLAMA_NUM_PARALLEL"),
    Key::new("models_loaded", Integer(1, 1_000), "1", Models, "Models that a model server has in memory at a time").also("OLLAMA_MAX_LOADED_MODELS"),
    Key::new("model_memory_mb", Integer(0, 100_000_000), "0", Models, "Megabytes that a model server has for models; 0 is not bounded"),
    Key::new("models_quota_mb", Integer(0, 100_000_000), "0", Models, "Megabytes that model files may take on the disk; 0 is not bounded"),
    Key::new("model_queue", Integer(1, 1_000_000), "1024", Models, "Calls that wait for a model server at most; more are refused"),
    Key::new("model_queue_ms", Integer(1, 86_400_000), "60000", Models, "How long a call waits for its turn at most"),
    Key::new("model_age_ms", Integer(1, 86_400_000), "30000", Models, "How long a call waits while calls of the model in memory go first"),
    Key::new("model_silence_ms", Integer(1, 86_400_000), "30000", Models, "How long a model may say nothing, beyond loading and reading the prompt"),
    Key::new("model_cache_mb", Integer(0, 1_000_000), "64", Models, "Megabytes of answers that are kept for requests with temperature 0; 0 is none, in Redis neither"),
    Key::new("redis_url", Redis, "", Nowhere, "A Redis that keeps these answers for all servers, instead of each for itself").also("REDIS_URL"),
    Key::new("redis_prefix", Text, "sutazai", Models, "What the names of keys in Redis begin with"),
    Key::new("redis_timeout_ms", Integer(1, 60_000), "250", Models, "How long Redis may take to answer; then the model is asked"),
    Key::new("budgets", Budgets, "", Models, r#"What may be spent on models, such as {"task": {"tokens": 100000}, "agent": {"*": {"calls": 500}}, "tenant": {"NAME": {"cost": 2.5}}}"#),
    Key::new("model_fallbacks", List, "", Models, "Models that are asked in this order in place of one that fails, with commas between them"),
    Key::new("temperature", Number(0.0, 2.0), "", Models, "Sampling temperature of chats; 0 is greedy").also("TEMPERATURE"),
    Key::new("max_tokens", Integer(1, 1_000_000), "", Models, "Tokens of an answer at most").also("MAX_TOKENS"),

    Key::new("docs_roots", List, "", Models, "Folders that documents may be read from, with commas between them; unset: any"),
    Key::new("docs", Path, "docs", Documents, "A file or folder of documents"),

    Key::not_built("neo4j_uri", "Neo4j, as a graph").also("NEO4J_URI"),
];

/// The key called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The known name nearest to `name`, if one is near enough to be what was meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|known| (strsim::damerau_levenshtein(name, known), known));
    scored.min().filter(|(distance, known)| *distance <= (known.len() / 3).max(2)).map(|(_, known)| known)
}
