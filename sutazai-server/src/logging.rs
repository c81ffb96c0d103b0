//! Where log lines go: JSON or text on stdout for a server, text on stderr for every other command.

use std::io::{self, IsTerminal};

use tracing_subscriber::{
    filter::EnvFilter,
    fmt::{self, format::JsonFields},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Where the ready line is logged. Programs wait for it, so no level hides it.
pub const READY: &str = "sutazai_server::ready";

/// Who logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logger {
    /// A server: stdout is its log.
    Server,
    /// Any other command: stdout is its result.
    Command,
}

impl Logger {
    /// Whether lines are for people, not for programs.
    #[must_use]
    pub fn is_for_people(self) -> bool {
        self == Self::Command || io::stdout().is_terminal()
    }

    /// Starts logging. Does nothing if the process logs already.
    pub fn start(self, level: Option<&str>) {
        let default = if self == Self::Server { "info" } else { "warn" };
        let filter = EnvFilter::new(level.unwrap_or(default));
        let filter = match format!("{READY}=info").parse() {
            Ok(directive) => filter.add_directive(directive),
            Err(_) => filter,
        };
        let registry = tracing_subscriber::registry().with(filter);
        // An error means that a subscriber is set, by a program that embeds this crate or by a test: it stays.
        let _ = match (self, self.is_for_people()) {
            (Self::Server, false) => {
                registry.with(fmt::layer().json().flatten_event(true).fmt_fields(JsonFields::new())).try_init()
            }
            (Self::Server, true) => registry.with(fmt::layer().compact().with_target(false)).try_init(),
            (Self::Command, _) => {
                let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
                let layer = fmt::layer().compact().without_time().with_target(false);
                registry.with(layer.with_ansi(colour).with_writer(io::stderr)).try_init()
            }
        };
    }
}
