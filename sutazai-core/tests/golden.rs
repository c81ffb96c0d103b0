//! What core gives stores and files to keep, as text: a change of it is one that everything stored out there meets. `SUTAZAI_BLESS=1` writes it anew.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

use std::fmt::{Debug, Write as _};

use serde::{Serialize, de::DeserializeOwned};
use sutazai_core::{
    Payload,
    clock::Timestamp,
    engine::Cassette,
    task::{
        Entry, EntryId, EntryKind, Event, EventKind, Failure, NodeId, Outcome, Progress, Signal, TaskError, TaskId,
        WaitReason,
    },
};

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_796_083_200_000 + millis)
}

fn json(text: &str) -> Payload {
    Payload::from_text(text).unwrap()
}

/// Its text, from which the same comes back.
fn kept<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) -> String {
    let text = serde_json::to_string(value).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{text}");
    text
}

fn events() -> Vec<EventKind> {
    let error = || TaskError::new("agent_failed", "not \"yet\"");
    let waiting = |reason| EventKind::Waiting { reason, until: None, error: None };
    let mut kinds = vec![
        EventKind::Created { agent: "echo".into() },
        EventKind::Assigned { node: NodeId::new("node-1/1"), epoch: 3 },
        EventKind::Running { attempt: 2 },
        EventKind::Progress(Progress { fraction: Some(0.25), message: "a quarter".into() }),
        EventKind::Progress(Progress { fraction: None, message: String::new() }),
        EventKind::Retrying { attempt: 1, error: error(), due_at: at(500) },
        EventKind::Recovered { recoveries: 1 },
        EventKind::Waiting { reason: WaitReason::Timer, until: Some(at(1)), error: None },
        EventKind::Waiting { reason: WaitReason::EffectUnknown, until: None, error: Some(error()) },
        EventKind::Resolved {},
        EventKind::Continued {},
        EventKind::Requeued { new_input: true },
        EventKind::Discarded {},
        EventKind::Completed {},
        EventKind::Failed { error: error() },
        EventKind::Cancelled {},
    ];
    kinds.extend([WaitReason::Signal, WaitReason::Child, WaitReason::NonDeterminism].map(waiting));
    kinds
}

fn outcomes() -> [Outcome; 4] {
    let failure = Failure { error: TaskError::new("busy", "later"), temporary: true };
    [
        Outcome::Open(json("\"2026-12-01T00:00:00.505Z\"")),
        Outcome::Done(json(r#"{"text": "Grüße", "n": 1.0}"#)),
        Outcome::Failed(failure),
        Outcome::Retracted,
    ]
}

fn journal() -> Vec<Entry> {
    let of = |(place, outcome): (usize, Outcome)| {
        let id = EntryId { path: "0.2".into(), name: "call".into(), occurrence: place as u32 };
        Entry { index: place as u64, id, kind: EntryKind::ALL[place], outcome, epoch: 4, at: at(7) }
    };
    let last = Entry {
        index: 4,
        id: EntryId { path: String::new(), name: "ask".into(), occurrence: 0 },
        kind: EntryKind::Child,
        outcome: Outcome::Done(Payload::null()),
        epoch: 5,
        at: at(8),
    };
    outcomes().into_iter().enumerate().map(of).chain([last]).collect()
}

fn cassette() -> Cassette {
    Cassette {
        version: Cassette::VERSION,
        agent: "echo".into(),
        agent_version: "1.2.3".into(),
        task_id: TaskId::from_bytes([7; 16]),
        input: json(r#"{"text":"hi"}"#),
        output: None,
        error: Some(TaskError::new("agent_failed", "not yet")),
        attempt: 2,
        attempt_epoch: 4,
        journal: journal(),
    }
}

#[test]
fn stored_forms_are_those_that_were_released() {
    let mut text = String::new();
    for (seq, kind) in (1..).zip(events()) {
        let event = Event { seq, task_id: TaskId::from_bytes([1; 16]), at: at(0), kind };
        writeln!(text, "event     {}", kept(&event)).unwrap();
    }
    for outcome in outcomes() {
        let (stage, body) = (outcome.stage(), outcome.body());
        assert_eq!(Outcome::from_parts(stage, body.clone()).as_ref(), Some(&outcome));
        writeln!(text, "outcome   {stage} {}", body.as_str()).unwrap();
    }
    for entry in journal() {
        writeln!(text, "entry     {}", kept(&entry)).unwrap();
    }
    let signal = Signal { name: "approved".into(), payload: json("true"), at: at(11) };
    writeln!(text, "signal    {}", kept(&signal)).unwrap();
    let file = kept(&cassette());
    assert_eq!(Cassette::from_json(&file).unwrap(), cassette());
    writeln!(text, "cassette  {file}").unwrap();

    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/stored.txt");
    if std::env::var_os("SUTAZAI_BLESS").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).unwrap();
        std::fs::write(golden, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(golden).unwrap(), "a stored form has changed");
}
