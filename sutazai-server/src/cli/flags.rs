//! The flags of settings, made from the table of keys.

use clap::{Arg, ArgMatches, Command, CommandFactory, parser::ValueSource};

use super::grammar::Cli;
use crate::config::{Group, KEYS, Key, Kind};

/// The whole command line: the grammar with the flags of the settings that each command takes.
#[must_use]
pub(super) fn command() -> Command {
    let everywhere = KEYS.iter().filter(|key| key.group == Group::Everywhere);
    let root = Cli::command().args_override_self(true).args(everywhere.map(|key| arg(key).global(true)));
    let names: Vec<String> = root.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names.iter().fold(root, |root, name| {
        root.mut_subcommand(name, |command| {
            let mine = KEYS.iter().filter(|key| key.group != Group::Everywhere && key.group.fits(name));
            // `config print` and `config check` see what `serve` would see with the same flags.
            let global = command.has_subcommands();
            command.args(mine.map(|key| arg(key).global(global)))
        })
    })
}

fn arg(key: &'static Key) -> Arg {
    let mut help = format!("{} [env: {}]", key.help, key.variable());
    if !key.default.is_empty() && key.kind != Kind::Flag {
        help.push_str(&format!(" [default: {}]", key.default));
    }
    let heading = if key.group == Group::Everywhere { "Settings of every command" } else { "Settings" };
    let arg = Arg::new(key.name).long(key.flag()).help(help).help_heading(heading);
    match key.kind {
        Kind::Flag => arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL"),
        Kind::Path => arg.value_name("PATH").value_hint(clap::ValueHint::AnyPath),
        Kind::Integer(..) | Kind::Number(..) => arg.value_name("N").allow_negative_numbers(true),
        Kind::Address => arg.value_name("HOST:PORT"),
        Kind::Url => arg.value_name("URL").value_hint(clap::ValueHint::Url),
        _ => arg.value_name("TEXT"),
    }
}

/// The settings that the command line gave.
#[must_use]
pub(super) fn given(matches: &ArgMatches) -> Vec<(&'static Key, String)> {
    let mut found = Vec::new();
    let mut level = Some(matches);
    while let Some(matches) = level {
        for key in KEYS {
            let value = matches.try_get_one::<String>(key.name).ok().flatten();
            let typed = || matches.value_source(key.name) == Some(ValueSource::CommandLine);
            if let Some(value) = value.filter(|_| typed()) {
                found.push((key, value.clone()));
            }
        }
        level = matches.subcommand().map(|(_, inner)| inner);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound_and_settings_may_stand_anywhere() {
        command().debug_assert();
        let line = ["s", "--json", "tasks", "--server", "http://a", "list", "--data-dir=x"];
        let matches = command().try_get_matches_from(line).unwrap();
        let mut found: Vec<_> = given(&matches).into_iter().map(|(key, value)| (key.name, value)).collect();
        found.sort();
        found.dedup();
        let expected = [("data_dir", "x"), ("json", "true"), ("server", "http://a")];
        assert_eq!(found, expected.map(|(key, value)| (key, value.to_owned())));
    }

    #[test]
    fn commands_take_only_the_settings_they_read() {
        assert!(command().try_get_matches_from(["s", "serve", "--listen", "127.0.0.1:1", "--dev-agents"]).is_ok());
        assert!(command().try_get_matches_from(["s", "config", "print", "--max-running", "3"]).is_ok());
        assert!(command().try_get_matches_from(["s", "tasks", "list", "--listen", "127.0.0.1:1"]).is_err());
    }
}
