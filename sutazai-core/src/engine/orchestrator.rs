//! The engine from the outside: submit, watch, cancel, shut down.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures_core::Stream;
use futures_util::future::{BoxFuture, join_all};
use serde::Serialize;
use tokio::{sync::Notify, task::JoinHandle};

use super::{
    builder::OrchestratorBuilder,
    carry::to_its_end,
    catalogue::Registered,
    control::Stop,
    decide::{self, Requeue, Resolution},
    handle::{TaskHandle, cancel, end_of, events},
    inner::{Changed, Inner},
    replay::{self, Cassette, Replayed},
    schedules::{self, Note},
    submit::{Submitted, submit, submit_batch, submit_request},
    transition::create,
};
use crate::{
    agent::AgentDescriptor,
    error::{Error, ErrorKind, Result},
    model::Models,
    payload::Payload,
    schedule::Schedule,
    store::{NodeRecord, Page, QueueDepths, ScheduleRecord, StoreInfo, TaskQuery, TaskStore, VectorStore},
    task::{Entry, Event, IdempotencyKey, NumberedEvent, Task, TaskId, TaskRequest, TaskState},
};

/// How long the end of a shutdown may take, within its grace: first to give tasks back, then to close the store. A fifth of the grace, at most so much.
const TAIL: Duration = Duration::from_secs(6);

/// The least that each of both is given, also without a grace.
const LEAST: Duration = Duration::from_millis(500);

/// A running engine. Cheap to clone; every clone is the same engine, which runs until [`Orchestrator::shutdown`] or the end of the runtime.
#[derive(Clone)]
pub struct Orchestrator {
    pub(crate) inner: Arc<Inner>,
    pub(crate) service: Arc<Mutex<Option<Service>>>,
}

/// The loops of an engine.
pub(crate) struct Service {
    pub(crate) loops: Vec<JoinHandle<()>>,
    pub(crate) keeping_lease: JoinHandle<()>,
    pub(crate) writing: JoinHandle<()>,
    /// Ends the writing.
    pub(crate) end: Arc<Notify>,
    /// What is done before the store is closed.
    pub(crate) last: Vec<BoxFuture<'static, ()>>,
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
            .field("node", &self.inner.node())
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
        submit(&self.inner, TaskRequest::new(agent, Payload::of(input)?)).await
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
        Ok(self.cancel_keyed(id, None).await?.task)
    }

    /// Like [`Orchestrator::cancel`], under an idempotency key.
    pub async fn cancel_keyed(&self, id: TaskId, key: Option<IdempotencyKey>) -> Result<Changed> {
        cancel(&self.inner, id, key).await
    }

    /// Tells a task something, which [`Context::wait_for`](crate::context::Context::wait_for) receives; kept if it comes before the wait. Returns whether the
    /// key had been used for this before. One that has ended is `task_finished`.
    pub async fn signal(&self, id: TaskId, name: &str, payload: Payload, key: Option<IdempotencyKey>) -> Result<bool> {
        decide::signal(&self.inner, id, name, payload, key).await
    }

    /// Starts a dead letter again, from attempt 1 and under its own id. One that is none is `not_a_dead_letter`.
    pub async fn requeue(&self, id: TaskId, how: &Requeue, key: Option<IdempotencyKey>) -> Result<Changed> {
        let (inner, how) = (Arc::clone(&self.inner), how.clone());
        to_its_end(async move { decide::requeue(&inner, id, &how, key).await }).await
    }

    /// Starts all dead letters again that fit the query; how many. One that cannot be keeps no other from it.
    pub async fn requeue_all(&self, query: TaskQuery) -> Result<u64> {
        let inner = Arc::clone(&self.inner);
        to_its_end(async move { decide::requeue_all(&inner, query).await }).await
    }

    /// Gives a dead letter up for good. One that is none is `not_a_dead_letter`.
    pub async fn discard(&self, id: TaskId, key: Option<IdempotencyKey>) -> Result<Changed> {
        let inner = Arc::clone(&self.inner);
        to_its_end(async move { decide::discard(&inner, id, key).await }).await
    }

    /// Settles entry `index` of a task that waits for a decision. A task that waits for none is `nothing_to_resolve`.
    pub async fn resolve(
        &self,
        id: TaskId,
        index: u64,
        resolution: &Resolution,
        key: Option<IdempotencyKey>,
    ) -> Result<Changed> {
        let (inner, resolution) = (Arc::clone(&self.inner), resolution.clone());
        to_its_end(async move { decide::resolve(&inner, id, index, &resolution, key).await }).await
    }

    /// A new task whose journal holds what another one recorded before entry `from`; with that one's input unless another is given.
    pub async fn fork(
        &self,
        id: TaskId,
        from: u64,
        input: Option<Payload>,
        key: Option<IdempotencyKey>,
    ) -> Result<Submitted> {
        let inner = Arc::clone(&self.inner);
        to_its_end(async move { decide::fork(&inner, id, from, input, key).await }).await
    }

    /// Entries of a task's current journal from index `from` on, at most `limit`.
    pub async fn journal(&self, id: TaskId, from: u64, limit: usize) -> Result<Vec<Entry>> {
        let task = self.inner.load(id).await?;
        self.inner.store.journal(id, task.journal.era, from, limit).await
    }

    /// A task's recorded run, to be kept as a file.
    pub async fn record(&self, id: TaskId) -> Result<Cassette> {
        let task = self.inner.load(id).await?;
        let journal = decide::whole_journal(&self.inner, &task).await?;
        Ok(Cassette::of(&task, journal))
    }

    /// Runs a task's code against what it recorded: no model and no tool is asked, nothing is stored, and steps that were not recorded do not run.
    pub async fn replay(&self, id: TaskId) -> Result<Replayed> {
        let task = self.inner.load(id).await?;
        let journal = decide::whole_journal(&self.inner, &task).await?;
        let registered = self.registered(&task.agent)?;
        replay::replay(&self.inner, registered, task, journal).await
    }

    /// Like [`Orchestrator::replay`], of a recorded run from a file.
    pub async fn replay_cassette(&self, cassette: Cassette) -> Result<Replayed> {
        let registered = self.registered(&cassette.agent)?;
        let request = TaskRequest::new(&*registered.name, cassette.input);
        let version = cassette.agent_version.as_str().into();
        let mut task =
            create(cassette.task_id, Arc::clone(&registered.name), version, request, self.inner.clock.now()).task;
        task.state = match (&cassette.output, &cassette.error) {
            (Some(_), _) => TaskState::Completed,
            (None, Some(_)) => TaskState::Failed,
            (None, None) => TaskState::Waiting,
        };
        (task.output, task.error, task.attempt) = (cassette.output, cassette.error, cassette.attempt);
        task.journal.attempt_epoch = cassette.attempt_epoch;
        replay::replay(&self.inner, registered, task, cassette.journal).await
    }

    fn registered(&self, agent: &str) -> Result<&Registered> {
        self.inner.catalogue.get(agent).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the agent is not registered here")
                .with_code("agent_not_found")
                .about(agent)
        })
    }

    /// Makes a schedule, or with `replace` puts it in the place of the one of its name. One that is there already is `schedule_exists`.
    pub async fn put_schedule(&self, schedule: Schedule, replace: bool) -> Result<ScheduleRecord> {
        schedules::put(&self.inner, schedule, replace, None).await
    }

    /// Like [`Orchestrator::put_schedule`], under an idempotency key if there is one: what `answer` makes of the schedule is kept under it in the
    /// same commit. A key that was used is `idempotency_conflict`, also for the same request: [`TaskStore::recall`] has the answer.
    pub async fn put_schedule_keyed(
        &self,
        schedule: Schedule,
        replace: bool,
        key: Option<IdempotencyKey>,
        answer: impl Fn(&ScheduleRecord) -> Result<Payload> + Send + Sync,
    ) -> Result<ScheduleRecord> {
        let note = key.map(|key| Note { key, answer: &answer });
        schedules::put(&self.inner, schedule, replace, note.as_ref()).await
    }

    /// The schedule called `name`; an unknown one is `schedule_not_found`.
    pub async fn schedule(&self, name: &str) -> Result<ScheduleRecord> {
        schedules::get(&self.inner, name).await
    }

    /// Schedules by name, after the one called `after`.
    pub async fn schedules(&self, after: Option<&str>, limit: usize) -> Result<Page<ScheduleRecord>> {
        self.inner.store.schedules(after, limit).await
    }

    /// Removes a schedule; its tasks go on.
    pub async fn remove_schedule(&self, name: &str) -> Result<()> {
        schedules::remove(&self.inner, name).await
    }

    /// Pauses or resumes a schedule. What falls into a pause is not made up for.
    pub async fn pause_schedule(&self, name: &str, paused: bool) -> Result<ScheduleRecord> {
        schedules::pause(&self.inner, name, paused, None).await
    }

    /// Like [`Orchestrator::pause_schedule`], under an idempotency key as [`Orchestrator::put_schedule_keyed`] has it.
    pub async fn pause_schedule_keyed(
        &self,
        name: &str,
        paused: bool,
        key: Option<IdempotencyKey>,
        answer: impl Fn(&ScheduleRecord) -> Result<Payload> + Send + Sync,
    ) -> Result<ScheduleRecord> {
        let note = key.map(|key| Note { key, answer: &answer });
        schedules::pause(&self.inner, name, paused, note.as_ref()).await
    }

    /// Submits a schedule's task now, whatever the schedule says.
    pub async fn trigger_schedule(&self, name: &str, key: Option<IdempotencyKey>) -> Result<Submitted> {
        schedules::trigger(&self.inner, name, key).await
    }

    /// The processes that share the store.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>> {
        self.inner.store.nodes().await
    }

    /// Events of all tasks after number `after`, in one order in which a reader misses nothing.
    pub async fn feed(&self, after: u64, limit: usize) -> Result<Vec<NumberedEvent>> {
        self.inner.store.feed(after, limit).await
    }

    /// The store, for the parts of a program that work beside the engine: the outbox, keys of other requests.
    #[must_use]
    pub fn task_store(&self) -> &Arc<dyn TaskStore> {
        &self.inner.store
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
        if self.inner.membership.is_replaced() {
            let message = "another process that runs has this server's name and works on its tasks; give each a data directory of its own";
            return Err(Error::new(ErrorKind::Unavailable, message).with_code("node_in_use"));
        }
        if !self.inner.membership.holds() {
            let message = "this process has lost its lease: the store did not answer in time, or others took over; it joins again by itself";
            return Err(Error::new(ErrorKind::Unavailable, message).with_code("lease_lost"));
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

    /// Admits nothing more, lets what runs finish, gives the rest back to the queue, and closes the store, all within `grace`, or within a second if that is
    /// longer: what cannot be stored by then is taken over by the next start, or by others. A second call does nothing.
    pub async fn shutdown(&self, grace: Duration) -> Result<Drained> {
        self.inner.closing.store(true, Ordering::SeqCst);
        let Some(service) = self.service.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(Drained { finished: 0, released: 0 });
        };
        self.inner.runnable.notify_one();
        service.loops.iter().skip(1).for_each(JoinHandle::abort);
        let running = self.running();
        let tail = (grace / 5).min(TAIL);
        let _ = tokio::time::timeout(grace.saturating_sub(tail), self.inner.executions.drained()).await;
        let tail = (tail / 2).max(LEAST);
        let left = self.running();
        if left > 0 {
            tracing::info!(
                tasks = left,
                "the grace is over or nothing can end any more; running tasks go back to the queue"
            );
            self.inner.executions.stop_all(Stop::Release);
            let _ = tokio::time::timeout(tail, self.inner.executions.idle()).await;
        }
        let released = self.inner.executions.released();
        service.loops.iter().for_each(JoinHandle::abort);
        service.keeping_lease.abort();
        service.end.notify_one();
        let writing = service.writing.abort_handle();
        let last = tokio::time::timeout(tail / 2, join_all(service.last));
        let closed = tokio::time::timeout(tail, async {
            let (_, last) = tokio::join!(service.writing, last);
            if last.is_err() {
                tracing::warn!("what was to be done before the store is closed took too long and was left");
            }
            if let Err(error) = self.inner.store.part(&self.inner.node()).await {
                tracing::debug!(error = %error.report(), "this node could not strike itself off the list; its lease lapses");
            }
            self.inner.store.close().await
        });
        let closed = closed.await;
        writing.abort();
        self.inner.hub.close();
        closed.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, "the store could not be closed in time").during("shut down"))
        })?;
        Ok(Drained { finished: running.saturating_sub(released), released })
    }
}
