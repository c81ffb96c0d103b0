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
    let ended = task.state.is_terminal();
    let (recorded_output, recorded_error) =
        (task.output.clone(), task.error.clone().filter(|_| task.state == TaskState::Failed));
    let count = entries.len();
    let journal = Journal::new(None, entries, task.journal.attempt_epoch);
    journal.open();
    let control = Control::detached();
    let mut agent = work(engine, registered, Arc::new(task), &control, &journal);
    let end = tokio::select! {
        biased;
        verdict = journal.verdict() => End::Judged(verdict),
        outcome = poll(&mut agent, &journal) => End::Done(outcome),
        () = tokio::time::sleep(STUCK) => End::Stuck,
    };
    let mut report = Replayed { matches: false, divergence: None, output: None, error: None, entries: count };
    report.divergence = match end {
        End::Judged(Verdict::Halt { error, .. } | Verdict::Fail(error)) if ended => Some(error.message),
        // A run that is not over goes as far as it was recorded.
        End::Judged(Verdict::Halt { error, .. } | Verdict::Fail(error)) => {
            let at_end = journal.left_over().is_none();
            (!at_end).then_some(error.message)
        }
        End::Judged(Verdict::Continue(_)) => None,
        End::Stuck => Some(match journal.left_over() {
            Some((index, id)) => format!(
                "the code waits for something outside its journal before it asks for entry {index}, {:?}",
                id.name
            ),
            None => "the code waits for something outside its journal".to_owned(),
        }),
        End::Done(outcome) => {
            let left = journal.left_over().map(|(index, id)| {
                let kind = journal.kind_of(&id);
                format!("the code ended without asking for entry {index} of its journal, {}", describe(kind, &id))
            });
            match outcome {
                Ok(output) => {
                    let other = ended && recorded_output.as_ref().is_none_or(|recorded| !same(recorded, &output));
                    report.output = Some(output);
                    left.or_else(|| other.then(|| "the code gave another output than was recorded".to_owned()))
                }
                Err(error) => {
                    let error = error.into_task_error();
                    let other = ended && recorded_error.as_ref().is_none_or(|recorded| recorded.code != error.code);
                    let message = format!("the code ended in another way than was recorded: {error}");
                    report.error = Some(error);
                    left.or_else(|| other.then_some(message))
                }
            }
        }
    };
    report.matches = report.divergence.is_none();
    Ok(report)
}

enum End {
    Judged(Verdict),
    Done(Result<Payload, crate::agent::AgentError>),
    Stuck,
}

/// Whether two documents say the same.
fn same(a: &Payload, b: &Payload) -> bool {
    a == b || matches!((a.read::<serde_json::Value>(), b.read::<serde_json::Value>()), (Ok(a), Ok(b)) if a == b)
}
