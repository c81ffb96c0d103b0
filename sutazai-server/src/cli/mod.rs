//! The command line: parse, load the settings, run one command.

mod agents;
mod config;
mod dead;
mod documents;
mod feed;
mod flags;
mod grammar;
mod journal;
mod models;
mod output;
mod progress;
mod quickstart;
mod replay;
mod schedules;
mod serve;
mod tasks;
mod webhooks;

use clap::FromArgMatches;

use self::{
    documents::Request,
    grammar::{Cli, Command},
    output::{Output, say},
};
use crate::{
    client::Client,
    config::{Configuration, environment, load},
    http::{self, BuildInfo},
    logging::Logger,
    process::{self, Exit, Failure},
};

/// Runs the command line of this process and says how it ended.
#[must_use]
pub fn main() -> Exit {
    let matches = match flags::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version come this way too: they are no error, and a closed pipe is none either.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let run = || {
        let cli = Cli::from_arg_matches(&matches).map_err(|error| Failure::usage(error.to_string()))?;
        let (flags, environment) = (flags::given(&matches), environment());
        match (load(&flags, &environment), &cli.command) {
            (Ok(configuration), _) => dispatch(cli.command, configuration),
            (Err(refused), Command::Config(grammar::Config::Check)) => {
                let asked = |value: &str| matches!(value, "true" | "1");
                let json = flags.iter().any(|(key, value)| key.name == "json" && asked(value))
                    || environment.get("SUTAZAI_JSON").is_some_and(|value| asked(value));
                Err(config::unreadable(refused, Output::new(json)))
            }
            (Err(refused), _) => Err(refused.into()),
        }
    };
    run().unwrap_or_else(|failure| {
        if !failure.is_quiet() {
            say(&failure.to_string());
        }
        failure.exit()
    })
}

fn dispatch(command: Command, configuration: Configuration) -> Result<Exit, Failure> {
    let out = Output::new(configuration.settings.json);
    let level = configuration.settings.log_level.as_deref();
    match command {
        Command::Config(command) => return config::run(&command, &configuration, out),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut flags::command(), "sutazai-server", &mut script);
            out.line(String::from_utf8_lossy(&script).trim_end())?;
            return Ok(Exit::Done);
        }
        Command::Openapi => {
            out.document(&http::openapi())?;
            return Ok(Exit::Done);
        }
        Command::Version => {
            out.answer(&BuildInfo::current(), |build| {
                let BuildInfo { name, version, git_sha, build_time } = build;
                out.line(&format!("{name} {version} ({git_sha}, built {build_time})"))
            })?;
            return Ok(Exit::Done);
        }
        Command::Serve => return serve::run(&configuration, out),
        _ => {}
    }
    Logger::Command.start(level);
    let settings = &configuration.settings;
    let client = || Client::new(&settings.server);
    process::run(settings.worker_threads, async {
        match command {
            Command::Tasks(grammar::Tasks::Replay(replay)) => replay::run(replay, settings, out).await,
            Command::Schedules(command) => schedules::run(command, client()?, out).await,
            Command::Webhooks(command) => webhooks::run(command, client()?, out).await,
            Command::Nodes(command) => feed::nodes(command, client()?, out).await,
            Command::Events(events) => feed::events(events, client()?, out).await,
            Command::Tasks(command) => tasks::run(command, client()?, out).await,
            Command::Agents(command) => agents::run(command, client()?, out).await,
            Command::Models(command) => models::run(command, settings, out).await,
            Command::Ask(ask) => documents::run(Request::Ask(ask.question), &configuration, out).await,
            Command::Search(search) => {
                documents::run(Request::Search(search.query, search.limit), &configuration, out).await
            }
            Command::Quickstart(quickstart) => quickstart::run(quickstart, &configuration, out).await,
            _ => Ok(Exit::Usage),
        }
    })
}
