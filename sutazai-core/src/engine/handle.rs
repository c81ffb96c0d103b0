//! A submitted task, from its submitter's side.

use std::sync::Arc;

use futures_core::Stream;
use serde::de::DeserializeOwned;

use super::{hub::Subscription, inner::Inner};
use crate::{
    error::{Error, ErrorKind, Result},
    task::{Event, Task, TaskId, TaskState},
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
            Some(subscription) => ended(subscription).await,
            None => end_of(&self.engine, self.id).await,
        }
    }

    /// The agent's output; waits for it. A task that fails or is cancelled is an error with the task's code in its message.
    pub async fn output<T: DeserializeOwned>(self) -> Result<T> {
        let task = self.result().await?;
        match (&task.output, &task.error) {
            (Some(output), _) => output.read(),
            (None, Some(error)) => {
                let message = format!("{}: {}", error.code, error.message);
                Err(Error::new(ErrorKind::Internal, message).with_code("task_failed").during("run task").about(task.id))
            }
            (None, None) => {
                let message = format!("the task was {}", TaskState::Cancelled);
                Err(Error::new(ErrorKind::Cancelled, message)
                    .with_code("task_cancelled")
                    .during("run task")
                    .about(task.id))
            }
        }
    }

    /// The task's events from the first on, as they come; see [`Orchestrator::events`](super::Orchestrator::events).
    pub fn events(&self) -> impl Stream<Item = Result<Event>> + Send + 'static {
        events(Arc::clone(&self.engine), self.id, 0)
    }

    /// Cancels the task; see [`Orchestrator::cancel`](super::Orchestrator::cancel).
    pub async fn cancel(&self) -> Result<Arc<Task>> {
        self.engine.cancel(self.id).await
    }
}

async fn ended(mut subscription: Subscription) -> Result<Arc<Task>> {
    subscription.ended().await.ok_or_else(|| Error::new(ErrorKind::Internal, "the engine lost a subscription"))
}

/// The task at its end.
pub(crate) async fn end_of(engine: &Arc<Inner>, id: TaskId) -> Result<Arc<Task>> {
    let subscription = engine.hub.subscribe(id); // before the look, so that an end right after it is not missed
    let task = engine.load(id).await?;
    if task.state.is_terminal() { Ok(Arc::new(task)) } else { ended(subscription).await }
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
                reader.ended = event.kind.is_terminal();
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
                reader.subscription.changed().await;
            } else {
                reader.page = page.into_iter();
            }
        }
    })
}
