//! What the goldens of stores store: a task with most of what a task can have, and a family.

use std::{sync::Arc, time::Duration};

use sutazai_core::{
    Payload,
    clock::Timestamp,
    engine::{self, Command, Transition},
    store::{
        Account, Amounts, BudgetStore, Child, Day, Draw, JournalCopy, Limits, ScheduleRecord, TaskStore, TaskWrite,
        WriteOutcome,
    },
    task::{
        Entry, EntryId, EntryKind, Failure, IdempotencyKey, NodeId, Outcome, Progress, Signal, TaskError, TaskId,
        TaskRequest, WaitReason,
    },
};

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_796_083_200_000 + millis)
}

pub(crate) fn key(name: &str, fingerprint: u8) -> IdempotencyKey {
    IdempotencyKey { tenant: "default".into(), key: name.into(), fingerprint: [fingerprint; 32] }
}

pub(crate) fn json(text: &str) -> Payload {
    Payload::from_text(text).unwrap()
}

pub(crate) fn update(step: &mut Transition, change: impl FnOnce(&mut Transition), entries: Vec<Entry>) -> TaskWrite {
    let expected = step.task.revision;
    change(step);
    let events = std::mem::take(&mut step.events);
    TaskWrite::Update { task: Arc::new(step.task.clone()), expected, events, entries, key: None }
}

/// A task with most of what a task can have.
pub(crate) async fn store_a_task(store: &dyn TaskStore) {
    let mut request = TaskRequest::new("echo", json(r#"{"text": "Grüße"}"#)).label("team", "a").deadline(at(60_000));
    request.parent_id = Some(TaskId::from_bytes([2; 16]));
    let mut step = engine::create(TaskId::from_bytes([1; 16]), "echo".into(), "1.2.3".into(), request, at(0));
    let node = NodeId::new("node-1/1");
    step.apply(Command::Claim { node: node.clone() }, at(1)).unwrap();
    step.apply(Command::Report(Progress { fraction: Some(0.25), message: "a quarter".into() }), at(2)).unwrap();
    step.apply(Command::Recover { journal: 0 }, at(3)).unwrap();
    step.apply(Command::Claim { node: node.clone() }, at(4)).unwrap();
    let error = TaskError::new("agent_failed", "not yet");
    step.apply(Command::Fail { error, retry: Some(Duration::from_millis(500)), random: 0 }, at(5)).unwrap();
    let events = std::mem::take(&mut step.events);
    let task = Arc::new(step.task.clone());
    store.write(&[TaskWrite::Insert { task, events, key: Some(key("order-1", 3)), journal: None }]).await.unwrap();
    let end = update(
        &mut step,
        |step| {
            step.apply(Command::Claim { node }, at(600)).unwrap();
            step.apply(Command::Complete { output: json("[1.0]") }, at(601)).unwrap();
        },
        Vec::new(),
    );
    store.write(&[end]).await.unwrap();
}

fn entry(index: u64, outcome: Outcome) -> Entry {
    let id = EntryId { path: "0.1".into(), name: "call".into(), occurrence: 2 };
    Entry { index, id, kind: EntryKind::Child, outcome, epoch: 1, at: at(7) }
}

/// A parent with a journal, a child, a signal and a webhook, and its fork.
pub(crate) async fn store_a_family(store: &dyn TaskStore) {
    let mut request = TaskRequest::new("parent", json("1")).webhook("https://example.org/hook");
    request.detached = true;
    let mut parent = engine::create(TaskId::from_bytes([7; 16]), "parent".into(), "0.3.1".into(), request, at(0));
    parent.apply(Command::Claim { node: NodeId::new("node-1/1") }, at(1)).unwrap();
    let of_parent = parent.task.id;
    let mut request = TaskRequest::new("echo", json("2"));
    request.parent_id = Some(of_parent);
    let mut child = engine::create(TaskId::from_bytes([8; 16]), "echo".into(), "1.2.3".into(), request, at(2));
    let born = Child { task: Arc::new(child.task.clone()), events: std::mem::take(&mut child.events) };
    let failure = Failure { error: TaskError::new("busy", "later"), temporary: true };
    let insert = TaskWrite::Insert {
        task: Arc::new(parent.task.clone()),
        events: std::mem::take(&mut parent.events),
        key: None,
        journal: None,
    };
    let append = TaskWrite::Append {
        task: of_parent,
        epoch: 1,
        era: 0,
        entries: vec![entry(0, Outcome::Open(json("8"))), entry(1, Outcome::Failed(failure))],
        children: vec![born],
    };
    let wait = Command::Suspend { reason: WaitReason::Child, until: None };
    let suspend =
        update(&mut parent, |step| step.apply(wait, at(9)).unwrap(), vec![entry(2, Outcome::Done(json("[]")))]);
    let end = update(&mut child, |step| step.apply(Command::Cancel, at(10)).unwrap(), Vec::new());
    let signal = Signal { name: "approved".into(), payload: json("true"), at: at(11) };
    let signal = TaskWrite::Signal { task: of_parent, signal, key: Some(key("signal-1", 4)) };
    let fork = engine::create(
        TaskId::from_bytes([9; 16]),
        "parent".into(),
        "0.3.1".into(),
        TaskRequest::new("parent", json("1")),
        at(12),
    );
    let journal = Some(JournalCopy { from: of_parent, era: 0, before: 1 });
    let fork = TaskWrite::Insert { task: Arc::new(fork.task), events: fork.events, key: None, journal };
    let outcomes = store.write(&[insert, append, suspend, end, signal, fork]).await.unwrap();
    assert_eq!(outcomes, vec![WriteOutcome::Applied; 6]);
    let schedule =
        r#"{"name":"daily","cron":"0 6 * * *","time_zone":"Europe/Berlin","task":{"agent":"echo","input":1}}"#;
    let record = ScheduleRecord {
        schedule: json(schedule).read().unwrap(),
        created_at: at(0),
        paused: false,
        last: Some(at(1)),
        next: Some(at(2)),
        revision: 3,
    };
    assert!(store.put_schedule(&record, None, None).await.unwrap());
    store.remember(&key("schedule-1", 5), &json("{}"), at(0)).await.unwrap();
}

/// Budgets of a task and of an agent, each drawn on twice, and a little given back.
pub(crate) async fn store_budgets(store: &dyn BudgetStore) {
    let day = Day::of(at(0));
    let wanted = Amounts { tokens: 70, calls: 1, millis: 250, micros: 12 };
    let draw =
        |account| Draw { account, limits: Limits { tokens: Some(100), ..Limits::NONE }, wanted, least: Amounts::ZERO };
    let agent = Account::Agent { name: "echo".into(), day };
    let draws = [draw(Account::Task(TaskId::from_bytes([7; 16]))), draw(agent.clone())];
    for _ in 0..2 {
        store.draw(&draws, day).await.unwrap();
    }
    store.give_back(&[(agent, Amounts { tokens: 5, ..Amounts::ZERO })]).await.unwrap();
}
