//! Runs code against a recorded journal: no model, no tool, no clock is asked, and nothing is stored.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    at_work::{poll, work},
    catalogue::Registered,
    control::Control,
    inner::Inner,
    journal::{Journal, Verdict, describe},
};
use crate::{
    agent::AgentError,
    error::{Error, ErrorKind, Result},
    payload::Payload,
    task::{Entry, Task, TaskError, TaskId, TaskState},
};

/// How long the code may do nothing at all before it counts as stuck.
const STUCK: Duration = Duration::from_secs(10);

/// A recorded run as a file: what a test needs to run the same code again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cassette {
    /// The format of this file: 1.
    pub version: u32,
    /// Whose run.
    pub agent: String,
    /// The version of the agent that recorded it.
    pub agent_version: String,
    /// The task.
    pub task_id: TaskId,
    /// Its input.
    pub input: Payload,
    /// Its output, if it completed.
    pub output: Option<Payload>,
    /// Its error, if it failed.
    pub error: Option<TaskError>,
    /// Which attempt this was.
    pub attempt: u32,
    /// Failures of epochs before this one do not count any more.
    #[serde(default)]
    pub attempt_epoch: u64,
    /// What it recorded.
    pub journal: Vec<Entry>,
}

impl Cassette {
    /// The format that this version writes.
    pub const VERSION: u32 = 1;

    pub(crate) fn of(task: &Task, journal: Vec<Entry>) -> Self {
        Self {
            version: Self::VERSION,
            agent: task.agent.to_string(),
            agent_version: task.agent_version.to_string(),
            task_id: task.id,
            input: task.input.clone(),
            output: task.output.clone(),
            error: task.error.clone().filter(|_| task.state == TaskState::Failed),
            attempt: task.attempt,
            attempt_epoch: task.journal.attempt_epoch,
            journal,
        }
    }

    /// Reads a file's text; fails as invalid if it is no cassette, and as unsupported if a newer version wrote it.
    pub fn from_json(text: &str) -> Result<Self> {
        let cassette: Self = Payload::from_text(text)?.read()?;
        if cassette.version != Self::VERSION {
            let message = format!("the cassette has format {}, this version reads {}", cassette.version, Self::VERSION);
            return Err(Error::new(ErrorKind::Unsupported, message)
                .with_code("cassette_version")
                .during("read cassette"));
        }
        Ok(cassette)
    }
}

/// What a replay found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replayed {
    /// Whether the code did what was recorded, to the end.
    pub matches: bool,
    /// The first place where it did not.
    pub divergence: Option<String>,
    /// What the code would do next, if it did all that was recorded and has not come to an end.
    pub beyond: Option<String>,
    /// What the code gave, if it came to its end.
    pub output: Option<Payload>,
    /// The error that the code ended in, if it did.
    pub error: Option<TaskError>,
    /// Entries of the journal.
    pub entries: usize,
}

/// Runs an agent's code against a recorded run.
pub(crate) async fn replay(
    engine: &Arc<Inner>,
    registered: &Registered,
    task: Task,
    entries: Vec<Entry>,
) -> Result<Replayed> {
    let recorded = Recorded::of(&task);
    let count = entries.len();
    let journal = Journal::new(None, task.id, entries, task.journal.attempt_epoch);
    journal.open();
    let control = Control::detached();
    let mut agent = work(engine, registered, Arc::new(task), &control, &journal);
    let mut end = tokio::select! {
        biased;
        verdict = journal.verdict() => End::Judged(verdict),
        outcome = poll(&mut agent, &journal) => End::Done(outcome),
        () = tokio::time::sleep(STUCK) => End::Stuck,
    };
    if let Some(verdict) = journal.judged() {
        end = End::Judged(verdict); // it may have ended because of that
    }
    let mut report =
        Replayed { matches: false, divergence: None, beyond: None, output: None, error: None, entries: count };
    let left = journal.left_over();
    let beyond = match end {
        End::Judged(Verdict::Halt { error, .. } | Verdict::Fail(error)) => {
            report.divergence = Some(error.message);
            None
        }
        End::Judged(Verdict::Beyond(message)) => Some(message),
        End::Judged(Verdict::Continue(_)) => Some("the code continues as new".to_owned()),
        End::Stuck => Some("the code waits for something outside its journal".to_owned()),
        End::Done(outcome) => {
            report.divergence = recorded.differs(&outcome);
            match outcome {
                Ok(output) => report.output = Some(output),
                Err(error) => report.error = Some(error.into_task_error()),
            }
            None
        }
    };
    if let (None, Some((index, id))) = (&report.divergence, left) {
        let what = beyond.as_deref().unwrap_or("the code ended");
        let entry = describe(journal.kind_of(&id), &id);
        report.divergence = Some(format!("{what} before it has asked for entry {index} of its journal, {entry}"));
    } else if recorded.is_by_code() && report.divergence.is_none() {
        report.divergence = beyond;
    } else {
        report.beyond = beyond;
    }
    report.matches = report.divergence.is_none();
    Ok(report)
}

/// How a run ended that was recorded.
enum Recorded {
    Completed(Option<Payload>),
    /// Its code gave this error.
    Failed(String),
    /// It goes on, or somebody else ended it.
    Cut,
}

impl Recorded {
    fn of(task: &Task) -> Self {
        // What the engine fails a task for, whatever its code would have done next.
        const NOT_BY_CODE: [&str; 4] = ["deadline_exceeded", "crash_loop", "journal_full", "non_determinism"];
        match (task.state, &task.error) {
            (TaskState::Completed, _) => Self::Completed(task.output.clone()),
            (TaskState::Failed, Some(error)) if !NOT_BY_CODE.contains(&error.code.as_str()) => {
                Self::Failed(error.code.clone())
            }
            _ => Self::Cut,
        }
    }

    fn is_by_code(&self) -> bool {
        !matches!(self, Self::Cut)
    }

    /// Where what the code came to now is not what was recorded.
    fn differs(&self, outcome: &Result<Payload, AgentError>) -> Option<String> {
        match (self, outcome) {
            (Self::Completed(recorded), Ok(output)) => {
                let same = recorded.as_ref().is_some_and(|recorded| same(recorded, output));
                (!same).then(|| "the code gave another output than was recorded".to_owned())
            }
            (Self::Failed(code), Ok(_)) => Some(format!("the code gave an output where it had failed with {code}")),
            (Self::Failed(code), Err(error)) if *code == error.task_error().code => None,
            (Self::Completed(_) | Self::Failed(_), Err(error)) => {
                Some(format!("the code ended in another way than was recorded: {}", error.task_error()))
            }
            (Self::Cut, _) => None,
        }
    }
}

enum End {
    Judged(Verdict),
    Done(Result<Payload, AgentError>),
    Stuck,
}

/// Whether two documents say the same.
fn same(a: &Payload, b: &Payload) -> bool {
    a == b || matches!((a.read::<serde_json::Value>(), b.read::<serde_json::Value>()), (Ok(a), Ok(b)) if a == b)
}
