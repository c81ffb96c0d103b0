//! The engine over a store that fails before and after its commits.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sutazai_core::{
    clock::Timestamp,
    memory::MemoryTaskStore,
    prelude::*,
    store::{
        Claim, Delivery, Ended, Granted, Held, KeptAnswer, NodeRecord, Page, Posted, QueueDepths, Recalled,
        ScheduleRecord, StoreInfo, TaskQuery, TaskStore, TaskWrite, WriteOutcome,
    },
    task::{Entry, Event, IdempotencyKey, NodeId, NumberedEvent, Signal, TaskId},
};

/// What a store is asked to do.
enum Asked<'a> {
    Write(&'a [TaskWrite]),
    Claim,
    Load,
}

/// What becomes of it.
enum Fate {
    Done,
    Refused(Error),
    /// Done, and nobody hears of it.
    Lost,
    /// Done, but not at once.
    Late(Duration),
}

/// Memory behind faults: what is asked, how many calls there were before, and how many grants were lost so far decide.
struct Faulty {
    inner: Arc<MemoryTaskStore>,
    parallel_writes: usize,
    calls: AtomicU64,
    lost: AtomicU64,
    fate: fn(Asked<'_>, u64, u64) -> Fate,
}

impl Faulty {
    fn new(inner: &Arc<MemoryTaskStore>, fate: fn(Asked<'_>, u64, u64) -> Fate) -> Self {
        Self { inner: Arc::clone(inner), parallel_writes: 1, calls: AtomicU64::new(0), lost: AtomicU64::new(0), fate }
    }

    fn fate(&self, asked: Asked<'_>) -> Fate {
        (self.fate)(asked, self.calls.fetch_add(1, Ordering::SeqCst), self.lost.load(Ordering::SeqCst))
    }
}

/// Whether the batch has a write of the task with this input.
fn has(batch: &[TaskWrite], input: &str) -> bool {
    batch.iter().any(|write| write.image().is_some_and(|task| task.input.as_str() == input))
}

fn fault() -> Error {
    Error::new(ErrorKind::Unavailable, "injected").with_code("store_unavailable")
}

#[async_trait]
impl TaskStore for Faulty {
    fn info(&self) -> StoreInfo {
        StoreInfo { parallel_writes: self.parallel_writes, ..self.inner.info() }
    }
    async fn write(&self, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
        tokio::task::yield_now().await; // so that others gather behind the commit
        match self.fate(Asked::Write(batch)) {
            Fate::Done => self.inner.write(batch).await,
            Fate::Refused(error) => Err(error),
            Fate::Lost => {
                self.inner.write(batch).await?;
                Err(fault())
            }
            Fate::Late(pause) => {
                tokio::time::sleep(pause).await;
                self.inner.write(batch).await
            }
        }
    }
    async fn claim(&self, claim: &Claim) -> Result<Granted> {
        match self.fate(Asked::Claim) {
            Fate::Done | Fate::Late(_) => self.inner.claim(claim).await,
            Fate::Refused(error) => Err(error),
            Fate::Lost => {
                let granted = self.inner.claim(claim).await?;
                if granted.tasks.is_empty() {
                    return Ok(granted);
                }
                self.lost.fetch_add(1, Ordering::SeqCst);
                Err(fault())
            }
        }
    }
    async fn load(&self, ids: &[TaskId]) -> Result<Vec<Option<Task>>> {
        match self.fate(Asked::Load) {
            Fate::Done => self.inner.load(ids).await,
            _ => Err(fault()),
        }
    }
    async fn list(&self, query: &TaskQuery) -> Result<Page<Task>> {
        self.inner.list(query).await
    }
    async fn held_by(&self, node: &NodeId, limit: usize) -> Result<Vec<Held>> {
        self.inner.held_by(node, limit).await
    }
    async fn ended_parents(&self, limit: usize) -> Result<Vec<TaskId>> {
        self.inner.ended_parents(limit).await
    }
    async fn overdue(&self, now: Timestamp, limit: usize) -> Result<Vec<Task>> {
        self.inner.overdue(now, limit).await
    }
    async fn next_due(&self, after: Timestamp) -> Result<Option<Timestamp>> {
        self.inner.next_due(after).await
    }
    async fn queue_depths(&self) -> Result<QueueDepths> {
        self.inner.queue_depths().await
    }
    async fn queued(&self) -> Result<u64> {
        self.inner.queued().await
    }
    async fn events(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Event>> {
        self.inner.events(task, after, limit).await
    }
    async fn feed(&self, after: u64, limit: usize) -> Result<Vec<NumberedEvent>> {
        self.inner.feed(after, limit).await
    }
    async fn journal(&self, task: TaskId, era: u32, from: u64, limit: usize) -> Result<Vec<Entry>> {
        self.inner.journal(task, era, from, limit).await
    }
    async fn signals(&self, task: TaskId, name: &str, from: u64, limit: usize) -> Result<Vec<Signal>> {
        self.inner.signals(task, name, from, limit).await
    }
    async fn join(&self, node: &NodeRecord, lease: Duration) -> Result<()> {
        self.inner.join(node, lease).await
    }
    async fn renew(&self, node: &NodeId, running: u64, lease: Duration) -> Result<bool> {
        self.inner.renew(node, running, lease).await
    }
    async fn lapsed(&self) -> Result<Vec<NodeId>> {
        self.inner.lapsed().await
    }
    async fn part(&self, node: &NodeId) -> Result<()> {
        self.inner.part(node).await
    }
    async fn nodes(&self) -> Result<Vec<NodeRecord>> {
        self.inner.nodes().await
    }
    async fn put_schedule(
        &self,
        record: &ScheduleRecord,
        expected: Option<u64>,
        answer: Option<&KeptAnswer>,
    ) -> Result<bool> {
        self.inner.put_schedule(record, expected, answer).await
    }
    async fn schedule(&self, name: &str) -> Result<Option<ScheduleRecord>> {
        self.inner.schedule(name).await
    }
    async fn schedules(&self, after: Option<&str>, limit: usize) -> Result<Page<ScheduleRecord>> {
        self.inner.schedules(after, limit).await
    }
    async fn due_schedules(&self, now: Timestamp, limit: usize) -> Result<Vec<ScheduleRecord>> {
        self.inner.due_schedules(now, limit).await
    }
    async fn drop_schedule(&self, name: &str) -> Result<bool> {
        self.inner.drop_schedule(name).await
    }
    async fn deliveries(&self, now: Timestamp, limit: usize, hold: Duration) -> Result<Vec<Delivery>> {
        self.inner.deliveries(now, limit, hold).await
    }
    async fn posted(&self, taken: &Delivery, what: &Posted, now: Timestamp) -> Result<bool> {
        self.inner.posted(taken, what, now).await
    }
    async fn revive(&self, task: TaskId, skip: bool, now: Timestamp) -> Result<bool> {
        self.inner.revive(task, skip, now).await
    }
    async fn undelivered(&self, before: Option<TaskId>, limit: usize) -> Result<Page<Delivery>> {
        self.inner.undelivered(before, limit).await
    }
    async fn recall(&self, key: &IdempotencyKey) -> Result<Recalled> {
        self.inner.recall(key).await
    }
    async fn remember(&self, key: &IdempotencyKey, answer: &Payload, now: Timestamp) -> Result<()> {
        self.inner.remember(key, answer, now).await
    }
    async fn ended(&self, after: Option<TaskId>, created_before: Timestamp, limit: usize) -> Result<Vec<Ended>> {
        self.inner.ended(after, created_before, limit).await
    }
    async fn nth_newest(&self, state: TaskState, n: u64) -> Result<Option<TaskId>> {
        self.inner.nth_newest(state, n).await
    }
    async fn purge(&self, tasks: &[TaskId], now: Timestamp) -> Result<u64> {
        self.inner.purge(tasks, now).await
    }
    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

/// A third of the writes fails, some before the commit and some after it with the outcome lost; so do grants and reads now and then. Drawn by the number of
/// the call: whoever tries again and again in one rhythm does not meet the same fault for ever.
fn flaky(asked: Asked<'_>, call: u64, _lost: u64) -> Fate {
    let draw = call.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    match (asked, (draw ^ (draw >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 60) {
        (Asked::Write(_), 0..3) | (Asked::Claim, 0..4) | (Asked::Load, 0..2) => Fate::Refused(fault()),
        (Asked::Write(_), 3..6) | (Asked::Claim, 4) => Fate::Lost,
        _ => Fate::Done,
    }
}

#[tokio::test]
async fn what_was_acknowledged_ends_once_whatever_the_store_does() {
    let memory = Arc::new(MemoryTaskStore::new());
    let store = Faulty::new(&memory, flaky);
    let free = agent_fn("free", |_context, n: u64| async move { Ok(n) }).describe(|agent| agent.effects(Effects::None));
    let other = agent_fn("other", |_context, n: u64| async move {
        tokio::time::sleep(Duration::from_millis(n % 5)).await;
        Ok(n)
    });
    let engine = Orchestrator::builder().agent(free).agent(other).store(store).max_running(16).start().await.unwrap();
    let submits = (0..400u64).map(|n| {
        let engine = engine.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(n / 4)).await; // so that there are many commits
            let agent = if n % 2 == 0 { "free" } else { "other" };
            let mut request = TaskRequest::new(agent, Payload::of(&n).unwrap());
            if n % 3 == 0 {
                request = request.idempotency_key(format!("k{n}"));
            }
            engine.submit_request(request).await.ok().map(|submitted| (submitted.task.id, n))
        }
    });
    let acknowledged: Vec<_> = futures_util::future::join_all(submits).await.into_iter().flatten().collect();
    assert!(
        (1..400).contains(&acknowledged.len()),
        "some submits must have been refused, {} were not",
        acknowledged.len()
    );
    for (id, n) in acknowledged {
        let end = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                // The engine's own reads fail too; what counts is what the store holds.
                let task = memory.load(&[id]).await.unwrap().pop().flatten().unwrap();
                if task.state.is_terminal() {
                    return task;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        let task = end.await.unwrap();
        assert_eq!((task.state, task.output.unwrap().as_str()), (TaskState::Completed, n.to_string().as_str()));
        let events = memory.events(id, 0, 100).await.unwrap();
        let ends = events.iter().filter(|event| event.kind.is_terminal()).count();
        assert_eq!(ends, 1, "{events:?}");
        assert!(events.iter().map(|event| event.seq).eq(1..=events.len() as u64), "{events:?}");
    }
    let listed: Vec<_> = engine
        .events(engine.tasks(TaskQuery { limit: 1, ..TaskQuery::default() }).await.unwrap().items[0].id, 0)
        .try_collect()
        .await
        .unwrap();
    assert!(!listed.is_empty());
}

#[tokio::test]
async fn one_task_that_cannot_be_stored_does_not_take_its_group_with_it() {
    let echo = agent_fn("echo", |_context, n: u64| async move { Ok(n) });
    let store = Faulty::new(&Arc::default(), |asked, _, _| match asked {
        Asked::Write(batch) if has(batch, "666") => {
            Fate::Refused(Error::new(ErrorKind::Invalid, "this task cannot be stored"))
        }
        _ => Fate::Done,
    });
    let engine = Orchestrator::builder().agent(echo).store(store).start().await.unwrap();
    let submits = (660..670_u64).map(|n| {
        let engine = engine.clone();
        async move { engine.submit("echo", &n).await?.output::<u64>().await }
    });
    for (n, answer) in (660..).zip(futures_util::future::join_all(submits).await) {
        match answer {
            Ok(output) => assert!(output == n && n != 666),
            Err(error) => assert_eq!((n, error.kind()), (666, ErrorKind::Invalid)),
        }
    }
}

#[tokio::test]
async fn a_grant_whose_answer_is_lost_runs_all_the_same() {
    let sleep = agent_fn("sleep", |_context, ms: u64| async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok(ms)
    });
    // The first grant is lost.
    let store = Faulty::new(&Arc::default(), |asked, _, lost| match asked {
        Asked::Claim if lost == 0 => Fate::Lost,
        _ => Fate::Done,
    });
    let engine = Orchestrator::builder().agent(sleep).store(store).max_running(1).start().await.unwrap();
    let first = engine.submit("sleep", &10).await.unwrap();
    let second = engine.submit("sleep", &20).await.unwrap();
    assert_eq!(first.output::<u64>().await.unwrap(), 10);
    let task = second.result().await.unwrap();
    assert_eq!((task.state, task.attempt, task.recoveries), (TaskState::Completed, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_told_while_a_task_is_suspended_wakes_it_at_once() {
    let wait = agent_fn("wait", |context: Context, (): ()| async move { context.wait_for::<u32>("go", None).await });
    let echo = agent_fn("echo", |_context, n: u64| async move { Ok(n) });
    // One commit takes so long that the suspension and the signal come together into the next.
    let store = Faulty::new(&Arc::default(), |asked, _, _| match asked {
        Asked::Write(batch) if has(batch, "77") => Fate::Late(Duration::from_millis(40)),
        _ => Fate::Done,
    });
    let engine = Orchestrator::builder().agent(wait).agent(echo).store(store).start().await.unwrap();
    let began = tokio::time::Instant::now();
    let task = engine.submit("wait", &()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(40)).await;
    let slow = tokio::spawn({
        let engine = engine.clone();
        async move { engine.submit("echo", &77).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(25)).await;
    engine.signal(task.id(), "go", Payload::of(&5).unwrap(), None).await.unwrap();
    let ended = engine.wait(task.id(), Duration::from_secs(60)).await.unwrap();
    assert_eq!(ended.output.as_ref().map(Payload::as_str), Some("5"), "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "no poll woke it: {:?}", began.elapsed());
    let events: Vec<_> = task.events().try_collect().await.unwrap();
    assert!(events.iter().any(|event| event.kind.name() == "task.waiting"), "it was suspended: {events:?}");
    slow.await.unwrap();
}

#[tokio::test]
async fn one_dead_letter_that_cannot_be_requeued_keeps_no_other_from_it() {
    let bad =
        agent_fn("bad", |_context, _n: u64| async move { Err::<(), _>(AgentError::permanent("broken", "it is")) });
    let store = Faulty::new(&Arc::default(), |asked, _, _| match asked {
        Asked::Write(batch) => {
            let requeued = |write: &TaskWrite| write.events().iter().any(|event| event.kind.name() == "task.requeued");
            let hit =
                |write: &TaskWrite| write.image().is_some_and(|task| task.input.as_str() == "2") && requeued(write);
            if batch.iter().any(hit) {
                return Fate::Refused(Error::new(ErrorKind::Invalid, "this task cannot be stored"));
            }
            Fate::Done
        }
        _ => Fate::Done,
    });
    let engine = Orchestrator::builder().agent(bad).store(store).start().await.unwrap();
    for n in 0..5 {
        assert_eq!(engine.submit("bad", &n).await.unwrap().result().await.unwrap().state, TaskState::Failed);
    }
    assert_eq!(engine.requeue_all(TaskQuery::default()).await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_commit_goes_beside_a_slow_one_only_where_the_store_takes_both() {
    const SLOW: Duration = Duration::from_secs(40);
    for (parallel_writes, waits) in [(1, true), (2, false)] {
        let echo = agent_fn("echo", |_context, n: u64| async move { Ok(n) });
        let store = Faulty::new(&Arc::default(), |asked, _, _| match asked {
            Asked::Write(batch) if has(batch, "77") => Fate::Late(SLOW),
            _ => Fate::Done,
        });
        let store = Faulty { parallel_writes, ..store };
        let engine = Orchestrator::builder().agent(echo).store(store).start().await.unwrap();
        let began = tokio::time::Instant::now();
        let late = tokio::spawn({
            let engine = engine.clone();
            async move { engine.submit("echo", &77).await.unwrap().output::<u64>().await.unwrap() }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        for n in 0..10 {
            assert_eq!(engine.submit("echo", &n).await.unwrap().output::<u64>().await.unwrap(), n);
        }
        assert_eq!(began.elapsed() >= SLOW, waits, "{parallel_writes}: {:?}", began.elapsed());
        assert_eq!(late.await.unwrap(), 77);
    }
}
