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
    store::{Claim, Page, QueueDepths, StoreInfo, TaskQuery, TaskStore, TaskWrite, WriteOutcome},
    task::{Event, NodeId, TaskId},
};

/// Fails every third write: in turn before the commit, and after it with the outcome lost.
struct Flaky {
    inner: Arc<MemoryTaskStore>,
    calls: AtomicU64,
}

fn fault() -> Error {
    Error::new(ErrorKind::Unavailable, "injected").with_code("store_unavailable")
}

#[async_trait]
impl TaskStore for Flaky {
    fn info(&self) -> StoreInfo {
        self.inner.info()
    }
    async fn write(&self, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
        match self.calls.fetch_add(1, Ordering::SeqCst) % 6 {
            2 => Err(fault()),
            5 => {
                self.inner.write(batch).await?;
                Err(fault())
            }
            _ => self.inner.write(batch).await,
        }
    }
    async fn claim(&self, claim: &Claim) -> Result<Vec<Task>> {
        match self.calls.fetch_add(1, Ordering::SeqCst) % 16 {
            3 | 7 | 11 => Err(fault()),
            // The grant is committed and nobody hears of it.
            15 => {
                self.inner.claim(claim).await?;
                Err(fault())
            }
            _ => self.inner.claim(claim).await,
        }
    }
    async fn load(&self, ids: &[TaskId]) -> Result<Vec<Option<Task>>> {
        if self.calls.fetch_add(1, Ordering::SeqCst) % 7 == 6 { Err(fault()) } else { self.inner.load(ids).await }
    }
    async fn list(&self, query: &TaskQuery) -> Result<Page<Task>> {
        self.inner.list(query).await
    }
    async fn events(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Event>> {
        self.inner.events(task, after, limit).await
    }
    async fn held_by(&self, node: &NodeId, limit: usize) -> Result<Vec<Task>> {
        self.inner.held_by(node, limit).await
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
    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[tokio::test]
async fn what_was_acknowledged_ends_once_whatever_the_store_does() {
    let memory = Arc::new(MemoryTaskStore::new());
    let store = Flaky { inner: Arc::clone(&memory), calls: AtomicU64::new(0) };
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

/// Loses the answer of its first grant.
struct Deaf {
    inner: MemoryTaskStore,
    claims: AtomicU64,
}

#[async_trait]
impl TaskStore for Deaf {
    fn info(&self) -> StoreInfo {
        self.inner.info()
    }
    async fn write(&self, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
        self.inner.write(batch).await
    }
    async fn claim(&self, claim: &Claim) -> Result<Vec<Task>> {
        let granted = self.inner.claim(claim).await?;
        if granted.is_empty() || self.claims.fetch_add(1, Ordering::SeqCst) > 0 { Ok(granted) } else { Err(fault()) }
    }
    async fn load(&self, ids: &[TaskId]) -> Result<Vec<Option<Task>>> {
        self.inner.load(ids).await
    }
    async fn list(&self, query: &TaskQuery) -> Result<Page<Task>> {
        self.inner.list(query).await
    }
    async fn events(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Event>> {
        self.inner.events(task, after, limit).await
    }
    async fn held_by(&self, node: &NodeId, limit: usize) -> Result<Vec<Task>> {
        self.inner.held_by(node, limit).await
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
    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

/// Refuses for good whatever holds a poisoned task.
struct Picky {
    inner: MemoryTaskStore,
}

#[async_trait]
impl TaskStore for Picky {
    fn info(&self) -> StoreInfo {
        self.inner.info()
    }
    async fn write(&self, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
        tokio::time::sleep(Duration::from_millis(5)).await; // so that others gather behind the commit
        if batch.iter().any(|write| write.task().input.as_str() == "666") {
            return Err(Error::new(ErrorKind::Invalid, "this task cannot be stored"));
        }
        self.inner.write(batch).await
    }
    async fn claim(&self, claim: &Claim) -> Result<Vec<Task>> {
        self.inner.claim(claim).await
    }
    async fn load(&self, ids: &[TaskId]) -> Result<Vec<Option<Task>>> {
        self.inner.load(ids).await
    }
    async fn list(&self, query: &TaskQuery) -> Result<Page<Task>> {
        self.inner.list(query).await
    }
    async fn events(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Event>> {
        self.inner.events(task, after, limit).await
    }
    async fn held_by(&self, node: &NodeId, limit: usize) -> Result<Vec<Task>> {
        self.inner.held_by(node, limit).await
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
    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[tokio::test]
async fn one_task_that_cannot_be_stored_does_not_take_its_group_with_it() {
    let echo = agent_fn("echo", |_context, n: u64| async move { Ok(n) });
    let store = Picky { inner: MemoryTaskStore::new() };
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
    let store = Deaf { inner: MemoryTaskStore::new(), claims: AtomicU64::new(0) };
    let engine = Orchestrator::builder().agent(sleep).store(store).max_running(1).start().await.unwrap();
    let first = engine.submit("sleep", &10).await.unwrap();
    let second = engine.submit("sleep", &20).await.unwrap();
    assert_eq!(first.output::<u64>().await.unwrap(), 10);
    let task = second.result().await.unwrap();
    assert_eq!((task.state, task.attempt, task.recoveries), (TaskState::Completed, 1, 1));
}
