//! The process: how it ends, on which threads it works, and the signals that end it.

use std::{fmt, io, process::ExitCode, time::Duration};

use sutazai_core::{Error, ErrorKind};

/// How a command ended; the numbers are part of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what was asked.
    Done = 0,
    /// The work failed.
    Failed = 1,
    /// It was asked for wrongly, or is configured wrongly.
    Usage = 2,
    /// The server can't be reached.
    Unreachable = 3,
    /// What was named does not exist.
    NotFound = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what was asked: one clear line and, where there is one, a hint.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure that ends the process with `exit`. Of a message with several lines the first is kept: the others are a library's backtrace.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.find('\n').unwrap_or(message.len()));
        Self { exit, message, hint: None }
    }

    /// Wrong usage or configuration.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Gives the hint that belongs to errors of `code`, if there is one.
    #[must_use]
    pub fn for_code(mut self, code: &str) -> Self {
        self.hint = HINTS.iter().find(|(known, _)| *known == code).map(|(_, hint)| (*hint).to_owned()).or(self.hint);
        self
    }

    /// Ends the process with another code: at start every fault counts as configuration.
    #[must_use]
    pub fn exits(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Nobody reads the output any more: nothing to say, nothing went wrong.
    fn quiet() -> Self {
        Self::new(Exit::Done, "")
    }

    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.message.is_empty()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        self.hint.as_deref().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

/// What to do about errors of these codes.
const HINTS: &[(&str, &str)] = &[
    ("agent_not_found", "`sutazai-server agents list` shows the agents"),
    ("model_not_found", "`sutazai-server models list` shows the models, `models pull NAME` gets one"),
    ("model_unsupported", "`sutazai-server models list` shows the models that run in process"),
    ("newer_layout", "run the version that wrote this data directory, or name another one with --data-dir"),
    ("node_in_use", "stop the other server, or name another data directory with --data-dir"),
    ("no_documents", "name a file or folder of text, Markdown or source code with --docs PATH"),
    ("store_busy", "another program has the database open: stop it, or name another data directory with --data-dir"),
    ("store_damaged", "restore it, or name another data directory with --data-dir"),
    ("store_full", "free some space on its disk, or name another data directory with --data-dir"),
    ("store_in_use", "stop the process that has it open, or name another data directory with --data-dir"),
    (
        "store_unavailable",
        "see whether the data directory may be read and written, or whether the database that `store` names runs and lets you in",
    ),
    ("vectors_in_use", "stop the process that has the index open, or name another data directory with --data-dir"),
    ("model_damaged", "`sutazai-server models rm NAME` and `models pull NAME` bring it back"),
    ("model_pinned", "`sutazai-server models unpin NAME` lets it go"),
    ("models_quota_exceeded", "`sutazai-server models rm NAME` makes room, and --models-quota-mb N raises the quota"),
    ("bench_results_damaged", "once the file is moved away, `sutazai-server models bench NAME` measures anew"),
    ("dead_letter_not_found", "`sutazai-server tasks dead list` shows those there are"),
    ("schedule_not_found", "`sutazai-server schedules list` shows the schedules"),
    ("task_not_found", "`sutazai-server tasks list` shows the tasks"),
    ("store_version", "run the version that wrote this data directory, or name another one with --data-dir"),
];

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error.kind() {
            ErrorKind::NotFound => Exit::NotFound,
            ErrorKind::Invalid => Exit::Usage,
            _ => Exit::Failed,
        };
        let faults = error.faults().iter().map(|fault| format!("; {}: {}", fault.path, fault.message));
        Self::new(exit, error.report() + &faults.collect::<String>()).for_code(error.code())
    }
}

/// Faults of writing the result.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::quiet(),
            _ => Self::new(Exit::Failed, format!("cannot write the result: {error}")),
        }
    }
}

/// How long the end of a process waits for blocking calls, such as a write to a pipe that nobody reads.
const LEAVE: Duration = Duration::from_millis(200);

/// Runs `work` to its end on `threads` threads; 0 stands for one a core. Blocking calls that do not return by then are left behind.
pub fn run<T>(threads: usize, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = runtime(threads)?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(LEAVE);
    outcome
}

fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    let built = builder.enable_all().build();
    built.map_err(|error| {
        Failure::usage(format!("cannot start threads: {error}")).hint("try a smaller --worker-threads")
    })
}

/// The signals that ask a server to end.
pub struct Stop {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    /// Takes over SIGTERM and SIGINT from now on.
    pub fn new() -> Result<Self, Failure> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let take = |kind| signal(kind).map_err(|error| Failure::usage(format!("cannot handle signals: {error}")));
            Ok(Self { terminate: take(SignalKind::terminate())?, interrupt: take(SignalKind::interrupt())? })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the next one and returns its number.
    pub async fn wait(&mut self) -> i32 {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => 15,
            _ = self.interrupt.recv() => 2,
        }
        #[cfg(not(unix))]
        {
            // Without a handler this never ends, and the system's own way of stopping a process stays.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_become_exit_codes_of_the_contract() {
        let exit = |kind| Failure::from(Error::new(kind, "x")).exit() as u8;
        assert_eq!([exit(ErrorKind::Internal), exit(ErrorKind::Invalid), exit(ErrorKind::NotFound)], [1, 2, 4]);
        let broken = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(broken.is_quiet() && broken.exit() == Exit::Done);
    }
}
