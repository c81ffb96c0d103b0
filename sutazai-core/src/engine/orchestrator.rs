//! The engine from the outside: submit, watch, cancel, shut down.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures_core::Stream;
use serde::Serialize;
use tokio::{sync::Notify, task::JoinHandle};

use super::{
    builder::OrchestratorBuilder,
    control::Stop,
    handle::{TaskHandle, cancel, end_of, events},
    inner::Inner,
    submit::{Submitted, submit, submit_batch, submit_request},
};
use crate::{
    agent::AgentDescriptor,
    error::{Error, ErrorKind, Result},
    model::Models,
    payload::Payload,
    store::{Page, QueueDepths, StoreInfo, TaskQuery, VectorStore},
    task::{Event, Task, TaskId, TaskRequest},
};

/// How long released executions may take to give their tasks back.
const RELEASE: Duration = Duration::from_secs(5);

/// A running engine. Cheap to clone; every clone is the same engine, which runs until [`Orchestrator::shutdown`] or the end of the runtime.
#[derive(Clone)]
pub struct Orchestrator {
    pub(crate) inner: Arc<Inner>,
    pub(crate) service: Arc<Mutex<Option<Service>>>,
}

/// The loops of an engine.
pub(crate) struct Service {
    pub(crate) dispatching: JoinHandle<()>,
    pub(crate) keeping_time: JoinHandle<()>,
    pub(crate) writing: JoinHandle<()>,
    /// Ends the writing.
    pub(crate) end: Arc<Notify>,
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Tasks that were running and came to an end within the grace.
    pub finished: usize,
    /// Tasks that were given back and run again at the next start.
    pub released: usize,
}

impl fmt::Debug for Orchestrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orchestrator")
            .field("node", &self.inner.node)
            .field("store", &self.inner.store.info())
            .finish_non_exhaustive()
    }
}

impl Orchestrator {
    /// Begins to put an engine together.
    #[must_use]
    pub fn builder() -> OrchestratorBuilder {
        OrchestratorBuilder::default()
    }

    /// Submits a task for `agent`; it is stored when this returns.
    pub async fn submit<I: Serialize + ?Sized>(&self, agent: &str, input: &I) -> Result<TaskHandle> {
        submit(&self.inner, TaskRequest::new(agent, Payload::of(input)?), None).await
    }

    /// Submits a task; it is stored when this returns.
    ///
    /// A refused request is [`ErrorKind::Invalid`] with the fields at fault (codes `agent_not_found`, `capability_not_found`, `agent_required`,
    /// `invalid_input`), a used key with another request `idempotency_conflict`, an engine that shuts down `shutting_down`.
    pub async fn submit_request(&self, request: TaskRequest) -> Result<Submitted> {
        submit_request(&self.inner, request).await
    }

    /// Submits many tasks, each answered on its own and in order; what is accepted is stored when this returns, in one commit.
    pub async fn submit_batch(&self, requests: Vec<TaskRequest>) -> Vec<Result<Submitted>> {
        submit_batch(&self.inner, requests).await
    }

    /// A handle to any task of the store.
    #[must_use]
    pub fn handle(&self, id: TaskId) -> TaskHandle {
        TaskHandle::of(Arc::clone(&self.inner), id)
    }

    /// A task as it is now; an unknown one is `task_not_found`.
    pub async fn task(&self, id: TaskId) -> Result<Arc<Task>> {
        self.inner.load(id).await.map(Arc::new)
    }

    /// Lists tasks, newest first.
    pub async fn tasks(&self, query: TaskQuery) -> Result<Page<Task>> {
        self.inner.store.list(&query).await
    }

    /// A task at its end, or as it is after `at_most`.
    pub async fn wait(&self, id: TaskId, at_most: Duration) -> Result<Arc<Task>> {
        match tokio::time::timeout(at_most, end_of(&self.inner, id)).await {
            Ok(ended) => ended,
            Err(_) => self.task(id).await,
        }
    }

    /// A task's events after number `after`: first those that have happened, then the others as they come. Ends after a terminal event that is the task's
    /// newest.
    pub fn events(&self, id: TaskId, after: u64) -> impl Stream<Item = Result<Event>> + Send + 'static {
        events(Arc::clone(&self.inner), id, after)
    }

    /// Cancels a task and everything it called for. When this returns the task never completes. One that has ended is `task_finished`.
    pub async fn cancel(&self, id: TaskId) -> Result<Arc<Task>> {
        cancel(&self.inner, id).await
    }

    /// Every registered agent, by name.
    #[must_use]
    pub fn agents(&self) -> &[AgentDescriptor] {
        &self.inner.catalogue.descriptors
    }

    /// The agent called `name`.
    #[must_use]
    pub fn agent(&self, name: &str) -> Option<&AgentDescriptor> {
        self.inner.catalogue.get(name).map(|registered| registered.agent.descriptor())
    }

    /// The models that agents can call.
    #[must_use]
    pub fn models(&self) -> &Models {
        &self.inner.models
    }

    /// The vector store, if there is one.
    #[must_use]
    pub fn vectors(&self) -> Option<&Arc<dyn VectorStore>> {
        self.inner.vectors.as_ref()
    }

    /// What keeps the tasks.
    #[must_use]
    pub fn store(&self) -> StoreInfo {
        self.inner.store.info()
    }

    /// Whether tasks can be submitted: the store answers and the engine is not shutting down.
    pub async fn ping(&self) -> Result<()> {
        if self.inner.is_closing() {
            return Err(Error::new(ErrorKind::Unavailable, "the engine is shutting down").with_code("shutting_down"));
        }
        if !self.inner.writer.is_open() || self.inner.broken.load(Ordering::SeqCst) {
            let message = "a part of the engine has stopped; its log says why; start the process again";
            return Err(Error::new(ErrorKind::Unavailable, message).with_code("engine_broken"));
        }
        self.inner.store.ping().await
    }

    /// How many tasks no worker has (`created` or `waiting`), by agent; agents without any are left out.
    pub async fn queue_depths(&self) -> Result<QueueDepths> {
        self.inner.store.queue_depths().await
    }

    /// How many tasks this process is executing.
    #[must_use]
    pub fn running(&self) -> usize {
        self.inner.executions.len()
    }

    /// Admits nothing more, lets what runs finish within `grace`, gives the rest back to the queue, and closes the store. A second call does nothing.
    pub async fn shutdown(&self, grace: Duration) -> Result<Drained> {
        self.inner.closing.store(true, Ordering::SeqCst);
        let Some(service) = self.service.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(Drained { finished: 0, released: 0 });
        };
        self.inner.runnable.notify_one();
        service.keeping_time.abort();
        let running = self.running();
        let _ = tokio::time::timeout(grace, self.inner.executions.drained()).await;
        let left = self.running();
        if left > 0 {
            tracing::info!(
                tasks = left,
                "the grace is over or nothing can end any more; running tasks go back to the queue"
            );
            self.inner.executions.stop_all(Stop::Release);
            let _ = tokio::time::timeout(RELEASE, self.inner.executions.idle()).await;
        }
        let released = self.inner.executions.released();
        service.dispatching.abort();
        service.end.notify_one();
        let _ = service.writing.await;
        let closed = self.inner.store.close().await;
        self.inner.hub.close();
        closed?;
        Ok(Drained { finished: running.saturating_sub(released), released })
    }
}
