//! The command line: parse, load the settings, run one command.

mod agents;
mod config;
mod flags;
mod grammar;
mod output;
mod progress;
mod tasks;

use clap::FromArgMatches;

use self::{
    grammar::{Cli, Command},
    output::{Output, say},
};
use crate::{
    client::Client,
    config::{Configuration, environment, load},
    logging::Logger,
    process::{Exit, Failure, runtime},
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
        dispatch(cli.command, load(&flags::given(&matches), &environment())?)
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
        _ => {}
    }
    Logger::Command.start(level);
    let runtime = runtime(configuration.settings.worker_threads)?;
    let server = configuration.settings.server.as_str();
    match command {
        Command::Tasks(command) => runtime.block_on(tasks::run(command, Client::new(server)?, out)),
        Command::Agents(command) => runtime.block_on(agents::run(command, Client::new(server)?, out)),
        _ => Ok(Exit::Usage),
    }
}
