//! What can be typed about journals, dead letters, schedules and nodes.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use sutazai_core::clock::Timestamp;

use super::{key, pair, time};

/// What makes a change that is asked for twice one change.
#[derive(Debug, Args)]
pub(in crate::cli) struct Keyed {
    /// Makes a repetition of this command, such as after a lost answer, one change
    #[arg(long, value_name = "KEY", value_parser = key)]
    idempotency_key: Option<String>,
}

impl Keyed {
    /// The key, if one is given.
    pub(in crate::cli) fn get(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }
}

/// Arguments of `tasks fork`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Fork {
    /// The task's id
    pub(in crate::cli) id: String,
    /// The first entry that is not taken over
    #[arg(long, value_name = "INDEX")]
    pub(in crate::cli) from: u64,
    /// Another input: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-")]
    pub(in crate::cli) input: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) key: Keyed,
}

/// Arguments of `tasks replay`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("run").required(true).args(["id", "cassette"])))]
pub(in crate::cli) struct Replay {
    /// The task's id
    pub(in crate::cli) id: Option<String>,
    /// Also write the recorded run to this file
    #[arg(long, value_name = "FILE", conflicts_with = "cassette")]
    pub(in crate::cli) save: Option<PathBuf>,
    /// Run against this recorded run instead
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) cassette: Option<PathBuf>,
}

/// Arguments of `tasks resolve`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("resolution").required(true).args(["outcome", "retry", "fail"])))]
pub(in crate::cli) struct Resolve {
    /// The task's id
    pub(in crate::cli) id: String,
    /// The entry's index
    pub(in crate::cli) index: u64,
    /// It happened, and this came out: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-")]
    pub(in crate::cli) outcome: Option<String>,
    /// It did not happen: do it again
    #[arg(long)]
    pub(in crate::cli) retry: bool,
    /// It counts as failed
    #[arg(long, value_name = "WHY")]
    pub(in crate::cli) fail: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) key: Keyed,
}

/// What to do with tasks that failed.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Dead {
    /// List them, newest first
    #[command(after_help = "Examples:\n  sutazai-server tasks dead list --agent dev.fail --json")]
    List(Letters),
    /// Show one with the error of each attempt
    #[command(after_help = "Examples:\n  sutazai-server tasks dead show 019f3c2a-7d41-7000-8000-000000000000")]
    Show {
        /// The task's id
        id: String,
    },
    /// Start one again, or all that fit
    #[command(
        after_help = "A task keeps its id and begins at attempt 1. Without another input, steps that succeeded do not run again.\n\nExamples:\n  sutazai-server tasks dead requeue 019f3c2a-7d41-7000-8000-000000000000 --input '{\"times\":0}'\n  sutazai-server tasks dead requeue --agent dev.fail --label team=search\n  sutazai-server tasks dead requeue --all"
    )]
    Requeue(Requeue),
    /// Give one up for good
    #[command(after_help = "Examples:\n  sutazai-server tasks dead discard 019f3c2a-7d41-7000-8000-000000000000")]
    Discard {
        /// The task's id
        id: String,
        #[command(flatten)]
        key: Keyed,
    },
}

/// Arguments of `tasks dead list`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Letters {
    /// Only of this agent
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) agent: Option<String>,
    /// Only of this tenant
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) tenant: Option<String>,
    /// Only with this label
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(in crate::cli) label: Option<(String, String)>,
    /// Tasks at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(in crate::cli) limit: u32,
    /// Where the page before ended
    #[arg(long)]
    pub(in crate::cli) cursor: Option<String>,
}

/// Arguments of `tasks dead requeue`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).multiple(true).args(["id", "all", "agent", "tenant", "label"])))]
pub(in crate::cli) struct Requeue {
    /// The task's id
    #[arg(conflicts_with_all = ["all", "agent", "tenant", "label"])]
    pub(in crate::cli) id: Option<String>,
    /// All there are, or all that fit the conditions given
    #[arg(long)]
    pub(in crate::cli) all: bool,
    /// Another input: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-", conflicts_with_all = ["all", "agent", "tenant", "label"])]
    pub(in crate::cli) input: Option<String>,
    /// When it fails unless finished; without one, a deadline that has passed is dropped
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with_all = ["all", "agent", "tenant", "label"])]
    pub(in crate::cli) deadline: Option<Timestamp>,
    /// All of this agent
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) agent: Option<String>,
    /// All of this tenant
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) tenant: Option<String>,
    /// All with this label
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(in crate::cli) label: Option<(String, String)>,
    #[command(flatten)]
    pub(in crate::cli) key: Keyed,
}

/// What to do with schedules.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Schedules {
    /// List them by name
    #[command(after_help = "Examples:\n  sutazai-server schedules list")]
    List {
        /// Schedules at most
        #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Show one
    #[command(after_help = "Examples:\n  sutazai-server schedules show nightly --json")]
    Show {
        /// Its name
        name: String,
    },
    /// Make one
    #[command(
        after_help = "Examples:\n  sutazai-server schedules create nightly --cron \"0 3 * * *\" --time-zone Europe/Berlin --agent dev.echo --input '{}'\n  sutazai-server schedules create tick --every 30s --agent dev.echo --input '{}' --overlap queue\n  sutazai-server schedules create once --at 2027-01-01T00:00:00Z --agent dev.echo --input '{}'"
    )]
    Create {
        #[command(flatten)]
        define: Box<Define>,
        #[command(flatten)]
        key: Keyed,
    },
    /// Put another one in the place of one
    #[command(
        after_help = "Examples:\n  sutazai-server schedules update nightly --cron \"30 3 * * *\" --agent dev.echo --input '{}'"
    )]
    Update(Box<Define>),
    /// Remove one; its tasks go on
    #[command(after_help = "Examples:\n  sutazai-server schedules delete nightly")]
    Delete {
        /// Its name
        name: String,
    },
    /// Let one rest; what falls into the rest is not made up for
    #[command(after_help = "Examples:\n  sutazai-server schedules pause nightly")]
    Pause {
        /// Its name
        name: String,
        #[command(flatten)]
        key: Keyed,
    },
    /// Let one go on
    #[command(after_help = "Examples:\n  sutazai-server schedules resume nightly")]
    Resume {
        /// Its name
        name: String,
        #[command(flatten)]
        key: Keyed,
    },
    /// Submit its task now
    #[command(after_help = "Examples:\n  sutazai-server schedules trigger nightly")]
    Trigger {
        /// Its name
        name: String,
        #[command(flatten)]
        key: Keyed,
    },
}

/// Arguments of `schedules create` and `update`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("timing").required(true).args(["cron", "every", "at"])))]
pub(in crate::cli) struct Define {
    /// Its name: 1 to 64 of a-z A-Z 0-9 . - _
    pub(in crate::cli) name: String,
    /// Five fields: minute, hour, day of month, month, day of week; or @hourly, @daily, @weekly, @monthly, @yearly
    #[arg(long, value_name = "EXPRESSION")]
    pub(in crate::cli) cron: Option<String>,
    /// An interval such as 300ms, 30s, 5m, 1h or 2d, first after one interval
    #[arg(long, value_name = "INTERVAL")]
    pub(in crate::cli) every: Option<Every>,
    /// Once, at this moment
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(in crate::cli) at: Option<Timestamp>,
    /// The zone in which --cron is read, such as Europe/Berlin; UTC without one
    #[arg(long, value_name = "ZONE", requires = "cron")]
    pub(in crate::cli) time_zone: Option<String>,
    /// What becomes of firings that were missed
    #[arg(long, value_parser = ["last", "none", "all"])]
    pub(in crate::cli) catch_up: Option<String>,
    /// What happens while the task of the firing before has not ended
    #[arg(long, value_parser = ["skip", "queue", "cancel"])]
    pub(in crate::cli) overlap: Option<String>,
    /// The agent that handles its tasks
    #[arg(long, value_name = "NAME", conflicts_with = "capability")]
    pub(in crate::cli) agent: Option<String>,
    /// The best agent with this capability handles them
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) capability: Option<String>,
    /// Their input: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-")]
    pub(in crate::cli) input: String,
    /// 0 to 9, 9 goes first
    #[arg(long, value_name = "0-9", value_parser = clap::value_parser!(u8).range(0..=9))]
    pub(in crate::cli) priority: Option<u8>,
    /// Executions of one task that may end in an error
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) max_attempts: Option<u32>,
    /// A label of its tasks; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    pub(in crate::cli) labels: Vec<(String, String)>,
    /// Whose tasks they are
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) tenant: Option<String>,
    /// Where each event of its tasks is posted to, signed
    #[arg(long, value_name = "URL", value_hint = clap::ValueHint::Url)]
    pub(in crate::cli) webhook: Option<String>,
}

/// An interval as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Every {
    /// In milliseconds.
    pub(in crate::cli) ms: u64,
}

impl std::str::FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let factor = match &text[end..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err("an interval is a number with ms, s, m, h or d, such as 30s".into()),
        };
        let ms = text[..end].parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        ms.map(|ms| Self { ms }).ok_or_else(|| "an interval is a whole number with its unit, such as 30s".into())
    }
}

/// What to do with webhooks.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Webhooks {
    /// Show those that were given up, have their events posted again or leave them out
    #[command(subcommand, after_help = "Examples:\n  sutazai-server webhooks dead list")]
    Dead(Undelivered),
}

/// What to do with webhooks that were given up.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Undelivered {
    /// List them, newest task first
    #[command(after_help = "Examples:\n  sutazai-server webhooks dead list --json")]
    List {
        /// Tasks at most
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Have a task's events posted again, from the one at which they were given up
    #[command(after_help = "Examples:\n  sutazai-server webhooks dead requeue 019f3c2a-7d41-7000-8000-000000000000")]
    Requeue {
        /// The task's id
        id: String,
        #[command(flatten)]
        key: Keyed,
    },
    /// Leave out what a task has not posted; its later events are posted
    #[command(after_help = "Examples:\n  sutazai-server webhooks dead discard 019f3c2a-7d41-7000-8000-000000000000")]
    Discard {
        /// The task's id
        id: String,
        #[command(flatten)]
        key: Keyed,
    },
}

/// What to do with servers.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Nodes {
    /// List the servers that share the store
    #[command(after_help = "Examples:\n  sutazai-server nodes list --json")]
    List {
        /// Servers at most
        #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<String>,
    },
}

/// Arguments of `events`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Events {
    /// Only those after this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(in crate::cli) after: u64,
    /// Events at most; without it, all there are
    #[arg(long, value_name = "N", conflicts_with = "follow", value_parser = clap::value_parser!(u64).range(1..))]
    pub(in crate::cli) limit: Option<u64>,
    /// Go on with those that come
    #[arg(long)]
    pub(in crate::cli) follow: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_a_unit() {
        let ms = |text: &str| text.parse::<Every>().ok().map(|every| every.ms);
        assert_eq!(
            ["300ms", "30s", "5m", "1h", "2d"].map(ms),
            [300, 30_000, 300_000, 3_600_000, 172_800_000].map(Some)
        );
        assert_eq!(["30", "s", "", "-1s", "1.5h", "1 h", "18446744073709551615d"].map(ms), [None; 7]);
    }
}
