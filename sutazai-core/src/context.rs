//! What an agent can reach while it works on a task.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    agent::{AgentDescriptor, AgentError},
    clock::Timestamp,
    engine::{Control, Inner, TaskHandle, submit},
    error::{Error, ErrorKind, Result},
    model::{ChatEvent, ChatReply, ChatRequest, ChatStream, Models, collect},
    payload::Payload,
    store::{VectorHit, VectorQuery, VectorStore},
    task::{Progress, Task, TaskId, TaskRequest, TaskState},
};

/// An agent's view of the engine during one execution. Cheap to clone.
#[derive(Clone)]
pub struct Context(Arc<Shared>);

struct Shared {
    engine: Arc<Inner>,
    task: Arc<Task>,
    control: Arc<Control>,
    calls: AtomicU64,
}

impl Context {
    pub(crate) fn new(engine: Arc<Inner>, task: Arc<Task>, control: Arc<Control>) -> Self {
        Self(Arc::new(Shared { engine, task, control, calls: AtomicU64::new(0) }))
    }

    /// The task as it was when this execution began.
    #[must_use]
    pub fn task(&self) -> &Task {
        &self.0.task
    }

    pub(crate) fn task_image(&self) -> &Arc<Task> {
        &self.0.task
    }

    /// The task's id: the key for effects that must not happen twice.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.0.task.id
    }

    /// The attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.task.attempt
    }

    /// When the task fails unless it has finished.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.0.task.deadline
    }

    /// The engine's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.engine.clock.now()
    }

    /// Says how far the work is: `fraction` from 0 to 1 where that is known. Returns at once; reports are stored at most five times a second and a newer one
    /// replaces an older one that was not stored yet.
    pub fn progress(&self, fraction: Option<f64>, message: impl Into<String>) {
        let fraction = fraction.filter(|f| f.is_finite()).map(|f| f.clamp(0.0, 1.0));
        self.0.control.report(Progress { fraction, message: message.into() });
    }

    /// The whole answer of a chat model: the one the request names, or the default one.
    pub async fn chat(&self, request: ChatRequest) -> Result<ChatReply> {
        collect(self.chat_stream(request).await?).await
    }

    /// The answer of a chat model as it comes.
    pub async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        let model = self.models().chat(request.model.as_deref())?;
        let name = model.info().name.clone();
        let shared = Arc::clone(&self.0);
        let stream = model.chat(request).await?;
        Ok(Box::pin(stream.inspect(move |event| {
            if let Ok(ChatEvent::Finish(finish)) = event {
                shared.engine.observer.model_called(&shared.task.agent, &name, finish.usage);
            }
        })))
    }

    /// The vectors of `texts` by the default embedding model, in order, of unit length.
    pub async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        Ok(self.models().embedding(None)?.embed(texts).await?.vectors)
    }

    /// The vector store.
    pub fn vectors(&self) -> Result<&Arc<dyn VectorStore>> {
        self.0.engine.vectors.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "no vector store is configured").with_code("vectors_unavailable")
        })
    }

    /// The records of `collection` most similar to a query.
    pub async fn search(&self, collection: &str, query: VectorQuery) -> Result<Vec<VectorHit>> {
        Ok(self.vectors()?.search(collection, &[query]).await?.pop().unwrap_or_default())
    }

    /// The models that can be called.
    #[must_use]
    pub fn models(&self) -> &Models {
        &self.0.engine.models
    }

    /// Every registered agent, by name.
    #[must_use]
    pub fn agents(&self) -> &[AgentDescriptor] {
        &self.0.engine.catalogue.descriptors
    }

    /// Hands work to another agent and waits for its output.
    ///
    /// The work is a durable task of its own, a child of this one with its priority, tenant and deadline; it is cancelled when this task ends before it. While
    /// an execution waits here it holds no slot. An execution that is cut short and taken up again finds the children it had called by the order of its
    /// calls, so calls must come in the same order each time; a new attempt calls anew.
    pub async fn call<I, O>(&self, agent: &str, input: &I) -> Result<O, AgentError>
    where
        I: Serialize + ?Sized,
        O: DeserializeOwned,
    {
        let task = self.task();
        let number = self.0.calls.fetch_add(1, Ordering::SeqCst);
        let mut request = TaskRequest::new(agent, Payload::of(input)?)
            .priority(task.priority)
            .idempotency_key(format!("call:{}:{}:{number}", task.id, task.attempt));
        request.tenant = Arc::clone(&task.tenant);
        request.deadline = task.deadline;
        request.parent_id = Some(task.id);
        // Boxed: an agent that calls an agent that calls an agent would otherwise be a type of infinite size.
        let called: std::pin::Pin<Box<dyn Future<Output = Result<TaskHandle>> + Send + '_>> =
            Box::pin(submit(&self.0.engine, request));
        let child = called.await?;
        let waiting = self.0.control.wait();
        let ended = child.result().await?;
        waiting.over().await;
        match (&ended.output, &ended.error) {
            (Some(output), _) => Ok(output.read()?),
            (None, Some(error)) => {
                Err(AgentError::permanent(error.code.clone(), format!("{agent}: {}", error.message)))
            }
            (None, None) => {
                Err(AgentError::permanent("child_cancelled", format!("{agent}: the task was {}", TaskState::Cancelled)))
            }
        }
    }

    pub(crate) fn has_called(&self) -> bool {
        self.0.calls.load(Ordering::SeqCst) > 0
    }

    /// Whether this execution should stop. The agent's future is dropped all the same; this is for work it has handed to threads.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.control.stop_wanted().is_some()
    }

    /// Returns when this execution should stop.
    pub async fn cancelled(&self) {
        self.0.control.stopped().await;
    }
}
