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
    store::{Claim, Page, StateCounts, StoreInfo, TaskQuery, TaskStore, TaskWrite, WriteOutcome},
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
        if self.calls.fetch_add(1, Ordering::SeqCst) % 4 == 3 { Err(fault()) } else { self.inner.claim(claim).await }
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
    async fn counts(&self) -> Result<StateCounts> {
        self.inner.counts().await
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
