//! Journals, replays and cassettes on the wire.

use serde::{Deserialize, Serialize};
use sutazai_core::{
    Payload,
    clock::Timestamp,
    task::{Entry, EntryKind, Outcome, TaskError},
};
use utoipa::{
    ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, Type},
    },
};

use super::task::{ErrorView, any_schema};
use crate::http::strict::present;

/// One record of a journal.
#[derive(Serialize, ToSchema)]
#[schema(as = JournalEntry)]
pub(in crate::http) struct EntryView<'a> {
    /// Its place in the order of recording, from 0 without gaps.
    index: u64,
    /// What kind of outcome it records.
    #[schema(schema_with = kind_schema)]
    kind: EntryKind,
    /// The name that the code gives it; of a child its agent, of a signal its name.
    name: &'a str,
    /// What came of it: what a step or call gave, what a signal said, what a child gave; null for a timer, for a signal that did not come in time, and while it is
    /// open. Of what failed `{"error": {"code", "message"}}`.
    #[schema(schema_with = any_schema, required = true)]
    outcome: Option<Shown<'a>>,
    /// When it was recorded.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// `open`: it has begun; `done`; `failed`; `retracted`: somebody decided that it begins again.
    #[schema(example = "done")]
    stage: &'static str,
    /// The branch of the code: empty for the trunk, else numbers of `join_all` and `race` and of their branches, such as `0.2`.
    branch: &'a str,
    /// How many entries of this name came before it in its branch.
    occurrence: u32,
    /// While it is open: what it waits for, such as a timer's `until` or a child's `task_id`.
    #[schema(schema_with = any_schema, required = true)]
    begun: Option<&'a Payload>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Shown<'a> {
    Outcome(Payload),
    Failed { error: &'a TaskError },
}

/// What a journal keeps of a signal.
#[derive(Deserialize)]
struct Receipt {
    #[serde(default, deserialize_with = "present")]
    signal: Option<Payload>,
}

impl EntryView<'_> {
    /// A guess at the length of the JSON.
    pub(in crate::http) fn size(&self) -> usize {
        let outcome = match &self.outcome {
            Some(Shown::Outcome(outcome)) => outcome.as_str().len(),
            Some(Shown::Failed { error }) => error.message.len(),
            None => 0,
        };
        200 + outcome
    }
}

impl<'a> From<&'a Entry> for EntryView<'a> {
    fn from(entry: &'a Entry) -> Self {
        let outcome = match &entry.outcome {
            Outcome::Open(_) | Outcome::Retracted => None,
            Outcome::Failed(failure) => Some(Shown::Failed { error: &failure.error }),
            Outcome::Done(payload) if entry.kind == EntryKind::Signal => {
                payload.read::<Receipt>().ok().and_then(|receipt| receipt.signal).map(Shown::Outcome)
            }
            Outcome::Done(payload) => Some(Shown::Outcome(payload.clone())),
        };
        let begun = match &entry.outcome {
            Outcome::Open(payload) => Some(payload),
            _ => None,
        };
        Self {
            index: entry.index,
            kind: entry.kind,
            name: &entry.id.name,
            outcome,
            at: entry.at,
            stage: entry.outcome.stage(),
            branch: &entry.id.path,
            occurrence: entry.id.occurrence,
            begun,
        }
    }
}

/// A page of a journal.
#[derive(Serialize, ToSchema)]
#[schema(as = Journal)]
pub(in crate::http) struct JournalView<'a> {
    /// The entries, in the order of recording.
    pub(in crate::http) items: Vec<EntryView<'a>>,
    /// What to send as `cursor` for the next page; null at the end.
    #[schema(required = true)]
    pub(in crate::http) next_cursor: Option<String>,
}

/// What a replay found.
#[derive(ToSchema)]
#[schema(as = Replay)]
#[allow(dead_code, reason = "describes core's `Replayed`, which knows nothing of OpenAPI")]
pub(in crate::http) struct ReplayView {
    /// Whether the code did what was recorded, to the end.
    matches: bool,
    /// The first place where it did not.
    #[schema(required = true)]
    divergence: Option<String>,
    /// What the code would do next, if it did all that was recorded and has not come to an end.
    #[schema(required = true)]
    beyond: Option<String>,
    /// What the code gave, if it came to its end.
    #[schema(schema_with = any_schema, required = true)]
    output: Option<()>,
    /// The error that the code ended in, if it did.
    #[schema(required = true)]
    error: Option<ErrorView>,
    /// Entries of the journal.
    entries: u64,
}

/// A recorded run as a file. Its journal is for programs of this house; `version` grows when its shape changes.
#[derive(ToSchema)]
#[schema(as = Cassette)]
#[allow(dead_code, reason = "describes core's `Cassette`, which knows nothing of OpenAPI")]
pub(in crate::http) struct CassetteView {
    /// The format: 1.
    version: u32,
    /// Whose run.
    agent: String,
    /// The version of the agent that recorded it.
    agent_version: String,
    #[schema(format = Uuid)]
    task_id: String,
    /// The task's input.
    #[schema(schema_with = any_schema)]
    input: (),
    /// Its output, if it completed.
    #[schema(schema_with = any_schema, required = true)]
    output: Option<()>,
    /// Its error, if it failed.
    #[schema(required = true)]
    error: Option<ErrorView>,
    /// Which attempt this was.
    attempt: u32,
    /// Failures of epochs before this one do not count any more.
    attempt_epoch: u64,
    /// What it recorded.
    #[schema(value_type = Vec<Object>)]
    journal: (),
}

/// The names of the kinds.
fn kind_schema() -> RefOr<Schema> {
    let names = EntryKind::ALL.iter().map(|kind| kind.as_str());
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sutazai_core::task::{EntryId, Failure};

    use super::*;

    fn shown(kind: EntryKind, outcome: Outcome) -> Value {
        let id = EntryId { path: "0.1".into(), name: "n".into(), occurrence: 2 };
        let entry = Entry { index: 3, id, kind, outcome, epoch: 1, at: Timestamp::from_millis(0) };
        serde_json::to_value(EntryView::from(&entry)).unwrap()
    }

    fn payload(value: &Value) -> Payload {
        Payload::of(value).unwrap()
    }

    #[test]
    fn outcomes_are_shown_plainly() {
        let done = |kind, value| shown(kind, Outcome::Done(payload(&value)))["outcome"].clone();
        assert_eq!(done(EntryKind::Step, json!({"a": 1})), json!({"a": 1}));
        assert_eq!(done(EntryKind::Signal, json!({"signal": {"who": "me"}, "number": 0})), json!({"who": "me"}));
        assert_eq!(done(EntryKind::Signal, json!({"signal": null, "number": 0})), Value::Null);
        assert_eq!(done(EntryKind::Signal, json!({"timed_out": true})), Value::Null);
        let error = TaskError::new("broken", "m");
        let failed = shown(EntryKind::Call, Outcome::Failed(Failure { error, temporary: true }));
        assert_eq!(failed["outcome"], json!({"error": {"code": "broken", "message": "m"}}));
        assert_eq!(failed["stage"], "failed");
    }

    #[test]
    fn what_is_open_says_what_it_waits_for() {
        let open = shown(EntryKind::Child, Outcome::Open(payload(&json!({"task_id": "t"}))));
        let expected = json!({"index": 3, "kind": "child", "name": "n", "outcome": null, "at": "1970-01-01T00:00:00.000Z", "stage": "open",
            "branch": "0.1", "occurrence": 2, "begun": {"task_id": "t"}});
        assert_eq!(open, expected);
        assert_eq!(shown(EntryKind::Step, Outcome::Retracted)["stage"], "retracted");
    }
}
