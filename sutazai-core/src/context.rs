//! What an agent can reach while it works on a task.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{
    agent::{AgentDescriptor, AgentError},
    clock::Timestamp,
    engine::{Control, Inner, Stop, TaskHandle, cut, submit},
    error::{Error, ErrorKind, Result},
    model::{ChatEvent, ChatReply, ChatRequest, ChatStream, Models, collect},
    payload::Payload,
    store::{VectorHit, VectorQuery, VectorStore},
    task::{IdempotencyKey, Progress, Task, TaskId, TaskRequest, TaskState},
};

/// Bytes of a report's message that are kept.
const MAX_PROGRESS: usize = 1 << 10;

/// An agent's view of the engine during one execution. Cheap to clone.
#[derive(Clone)]
pub struct Context(Arc<Shared>);

struct Shared {
    engine: Arc<Inner>,
    task: Arc<Task>,
    control: Arc<Control>,
    calls: AtomicU64,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("task", &self.id()).field("attempt", &self.attempt()).finish_non_exhaustive()
    }
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
    /// replaces an older one that was not stored yet. A message is cut to 1 KiB.
    pub fn progress(&self, fraction: Option<f64>, message: impl Into<String>) {
        let fraction = fraction.filter(|f| f.is_finite()).map(|f| f.clamp(0.0, 1.0));
        let mut message = message.into();
        cut(&mut message, MAX_PROGRESS);
        self.0.control.report(Progress { fraction, message });
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
    /// calls, whatever their input, so calls must come in the same order each time; a new attempt calls anew.
    pub async fn call<I, O>(&self, agent: &str, input: &I) -> Result<O, AgentError>
    where
        I: Serialize + ?Sized,
        O: DeserializeOwned,
    {
        let task = self.task();
        let number = self.0.calls.fetch_add(1, Ordering::SeqCst);
        let mut request = TaskRequest::new(agent, Payload::of(input)?).priority(task.priority);
        request.tenant = Arc::clone(&task.tenant);
        request.deadline = task.deadline;
        request.parent_id = Some(task.id);
        // Boxed: an agent that calls an agent that calls an agent would otherwise be a type of infinite size.
        let called: std::pin::Pin<Box<dyn Future<Output = Result<TaskHandle>> + Send + '_>> =
            Box::pin(submit(&self.0.engine, request, Some(call_key(task, agent, number))));
        let child = match called.await {
            Err(error) if error.code() == "shutting_down" => return self.given_back().await,
            child => child?,
        };
        let waiting = self.0.control.wait();
        let ended = child.result().await;
        waiting.over().await;
        let ended = match ended {
            Err(error) if error.code() == "shutting_down" => return self.given_back().await,
            ended => ended?,
        };
        match (ended.state, &ended.output, &ended.error) {
            (TaskState::Completed, Some(output), _) => Ok(output.read()?),
            (TaskState::Failed, _, Some(error)) => {
                Err(AgentError::permanent(error.code.clone(), format!("{agent}: {}", error.message)))
            }
            _ => Err(AgentError::permanent("child_cancelled", format!("{agent}: the task was cancelled"))),
        }
    }

    /// The engine shuts down and takes no more work: that is no fault of this task, which goes on at the next start.
    async fn given_back<T>(&self) -> T {
        self.0.control.stop(Stop::Release);
        std::future::pending().await
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

/// Makes a call one child however often the execution is cut short. The spaces keep it apart from every key that a request may carry; of what is called for
/// only the agent counts: another input, drawn anew by the model, must not spend what was done.
fn call_key(task: &Task, agent: &str, number: u64) -> IdempotencyKey {
    IdempotencyKey {
        tenant: Arc::clone(&task.tenant),
        key: format!("call {} {} {number}", task.id, task.attempt).into(),
        fingerprint: Sha256::digest(agent).into(),
    }
}
