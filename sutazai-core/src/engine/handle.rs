//! A submitted task, from its submitter's side.

use std::{fmt, sync::Arc};

use futures_core::Stream;
use serde::de::DeserializeOwned;

use super::{
    carry::to_its_end,
    hub::Subscription,
    inner::{Changed, Inner, SLOW_POLL, shut_down},
};
use crate::{
    error::{Error, ErrorKind, Result},
    task::{Event, IdempotencyKey, Task, TaskId, TaskState},
};

/// Events read from the store at once.
const PAGE: usize = 256;

/// A task that was submitted. Dropping it changes nothing: the task goes on.
pub struct TaskHandle {
    engine: Arc<Inner>,
    id: TaskId,
    last: Option<Arc<Task>>,
    subscription: Option<Subscription>,
}

impl TaskHandle {
    pub(crate) fn new(engine: Arc<Inner>, task: Arc<Task>, subscription: Option<Subscription>) -> Self {
        Self { engine, id: task.id, last: Some(task), subscription }
    }

    pub(crate) fn of(engine: Arc<Inner>, id: TaskId) -> Self {
        Self { engine, id, last: None, subscription: None }
    }

    /// The task's id.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The task at its end, however that is; waits for it.
    pub async fn result(mut self) -> Result<Arc<Task>> {
        if let Some(task) = self.last.take_if(|task| task.state.is_terminal()) {
            return Ok(task);
        }
        match self.subscription.take() {
            Some(subscription) => ended(&self.engine, self.id, subscription).await,
            None => end_of(&self.engine, self.id).await,
        }
    }

    /// The agent's output; waits for it.
    ///
    /// A task that fails is an error of [`ErrorKind::Failed`] with code `task_failed`; its source is the [`TaskError`](crate::task::TaskError), with the
    /// agent's own code. One that is cancelled is `task_cancelled`.
    pub async fn output<T: DeserializeOwned>(self) -> Result<T> {
        let task = self.result().await?;
        let (kind, code, message) = match (task.state, &task.output) {
            (TaskState::Completed, Some(output)) => return output.read(),
            (TaskState::Cancelled, _) => (ErrorKind::Cancelled, "task_cancelled", "the task was cancelled"),
            _ => (ErrorKind::Failed, "task_failed", "the task failed"),
        };
        let error = Error::new(kind, message).with_code(code).during("run task").about(task.id);
        Err(match (&task.error, kind) {
            (Some(cause), ErrorKind::Failed) => error.because(cause.clone()),
            _ => error,
        })
    }

    /// The task's events from the first on, as they come; see [`Orchestrator::events`](super::Orchestrator::events).
    pub fn events(&self) -> impl Stream<Item = Result<Event>> + Send + 'static {
        events(Arc::clone(&self.engine), self.id, 0)
    }

    /// Cancels the task; see [`Orchestrator::cancel`](super::Orchestrator::cancel).
    pub async fn cancel(&self) -> Result<Arc<Task>> {
        Ok(cancel(&self.engine, self.id, None).await?.task)
    }
}

impl fmt::Debug for TaskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TaskHandle").field(&self.id).finish()
    }
}

/// Cancels a task and what it called for, to the end even if the caller goes away in between.
pub(crate) async fn cancel(engine: &Arc<Inner>, id: TaskId, key: Option<IdempotencyKey>) -> Result<Changed> {
    let engine = Arc::clone(engine);
    to_its_end(async move { engine.cancel(id, key).await }).await
}

/// Waits for the end. A publication that got lost, and an end by another process, are found by a look now and then.
async fn ended(engine: &Inner, id: TaskId, mut subscription: Subscription) -> Result<Arc<Task>> {
    loop {
        if let Ok(Some(task)) = tokio::time::timeout(SLOW_POLL, subscription.ended()).await {
            return Ok(task);
        }
        match engine.load(id).await {
            Ok(task) if task.state.is_terminal() => return Ok(Arc::new(task)),
            Ok(_) => {}
            Err(_) if engine.is_closing() => return Err(shut_down()),
            Err(error) if !error.is_temporary() => return Err(error),
            Err(_) => {}
        }
    }
}

/// The task at its end.
pub(crate) async fn end_of(engine: &Arc<Inner>, id: TaskId) -> Result<Arc<Task>> {
    let subscription = engine.hub.subscribe(id); // before the look, so that an end right after it is not missed
    let task = engine.load(id).await?;
    if task.state.is_terminal() { Ok(Arc::new(task)) } else { ended(engine, id, subscription).await }
}

/// History, then live, until a terminal event that is the task's newest.
pub(crate) fn events(engine: Arc<Inner>, id: TaskId, after: u64) -> impl Stream<Item = Result<Event>> + Send + 'static {
    struct Reader {
        engine: Arc<Inner>,
        subscription: Subscription,
        page: std::vec::IntoIter<Event>,
        after: u64,
        ended: bool,
        known: bool,
    }
    let subscription = engine.hub.subscribe(id);
    let reader = Reader { engine, subscription, page: Vec::new().into_iter(), after, ended: false, known: false };
    futures_util::stream::try_unfold(reader, move |mut reader| async move {
        loop {
            if let Some(event) = reader.page.next() {
                reader.after = event.seq;
                reader.ended = event.kind.is_last();
                return Ok(Some((event, reader)));
            }
            let page = reader.engine.store.events(id, reader.after, PAGE).await?;
            if page.is_empty() {
                if reader.ended {
                    return Ok(None);
                }
                if !reader.known {
                    let task = reader.engine.load(id).await?;
                    reader.known = true;
                    if task.state.is_terminal() && reader.after >= task.revision.seq {
                        return Ok(None);
                    }
                    if reader.after < task.revision.seq {
                        continue; // it moved between the two reads
                    }
                }
                let _ = tokio::time::timeout(SLOW_POLL, reader.subscription.changed()).await;
            } else {
                reader.page = page.into_iter();
            }
        }
    })
}
