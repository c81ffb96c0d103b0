//! What an agent can reach while it works on a task.
//!
//! Its effects go through the journal: [steps](Context::step), [timers](Context::sleep), [signals](Context::wait_for), [other agents](Context::call), models. When
//! its code runs again (after a crash, a suspension, a failed attempt) it finds what was recorded. The guide "Writing agents that replay" says what may stand
//! between.

mod branch;
mod child;
mod step;
mod wait;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU32},
};

use futures_util::StreamExt;

pub(crate) use self::child::Born;
pub use self::{child::Child, step::Step};
use crate::{
    agent::{AgentDescriptor, AgentError, Effects},
    clock::Timestamp,
    engine::{
        Control, Inner, Stop, cut,
        journal::{Journal, Verdict},
    },
    error::{Error, ErrorKind, Result},
    model::{Caller, ChatEvent, ChatReply, ChatRequest, ChatStream, Models, collect},
    store::{VectorHit, VectorQuery, VectorStore},
    task::{EntryKind, Progress, Task, TaskId},
};

/// Bytes of a report's message that are kept.
const MAX_PROGRESS: usize = 1 << 10;

/// An agent's view of the engine during one execution. Cheap to clone.
#[derive(Clone)]
pub struct Context(Arc<Shared>, Arc<Branch>);

struct Shared {
    engine: Arc<Inner>,
    task: Arc<Task>,
    control: Arc<Control>,
    journal: Arc<Journal>,
    /// What there is to call while a recorded run is replayed.
    no_models: Models,
}

/// Where in the code this context is: entries are known by it.
struct Branch {
    path: Arc<str>,
    /// How many groups of branches it has started.
    groups: AtomicU32,
}

impl Branch {
    fn new(path: impl Into<Arc<str>>) -> Self {
        Self { path: path.into(), groups: AtomicU32::new(0) }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("task", &self.id()).field("attempt", &self.attempt()).finish_non_exhaustive()
    }
}

impl Context {
    pub(crate) fn new(engine: Arc<Inner>, task: Arc<Task>, control: Arc<Control>, journal: Arc<Journal>) -> Self {
        let no_models = Models::default();
        Self(Arc::new(Shared { engine, task, control, journal, no_models }), Arc::new(Branch::new("")))
    }

    fn journal(&self) -> &Arc<Journal> {
        &self.0.journal
    }

    fn control(&self) -> &Arc<Control> {
        &self.0.control
    }

    fn path(&self) -> &Arc<str> {
        &self.1.path
    }

    /// Random bits that nobody records.
    fn draw(&self) -> u64 {
        self.0.engine.clock.random()
    }

    /// Returns when an effect may happen: everything it could depend on is stored, and the lease still holds.
    async fn may_act(&self) {
        if !self.journal().flush().await {
            return std::future::pending().await;
        }
        // A grant of a former life of this process is as good as lost: whoever declared that dead takes the task over.
        let membership = &self.0.engine.membership;
        if !membership.holds() || self.task().node.as_ref() != Some(&membership.node()) {
            self.control().stop(Stop::Void);
            std::future::pending::<()>().await;
        }
    }

    /// The task as it was when this execution began.
    #[must_use]
    pub fn task(&self) -> &Task {
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

    /// The engine's clock as it is: another time whenever the code runs again. [`Context::now`] is the recorded one.
    #[must_use]
    pub fn time(&self) -> Timestamp {
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

    /// The whole answer of a chat model: the one the request names, or the default one. Recorded: when the code runs again the model is not asked again.
    pub async fn chat(&self, request: ChatRequest) -> Result<ChatReply, AgentError> {
        let request = &request;
        let ask = move |_key| async move { Ok(collect(self.chat_stream(request.clone()).await?).await?) };
        Step::new(self, EntryKind::Call, "chat", Effects::Idempotent, ask).await
    }

    /// The answer of a chat model as it comes. Not recorded: when the code runs again the model is asked again, unless a step is around. Where a recorded run is
    /// only replayed, this and the like end the replay.
    pub async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        self.not_replayed("a model")?;
        let model = self.models().chat(request.model.as_deref())?;
        let stream = model.chat(ChatRequest { caller: self.caller(), ..request }).await?;
        let name = stream.served().model.clone();
        let shared = Arc::clone(&self.0);
        Ok(stream.map_events(|events| {
            events.inspect(move |event| {
                if let Ok(ChatEvent::Finish(finish)) = event {
                    shared.engine.observer.model_called(&shared.task.agent, &name, finish.usage);
                }
            })
        }))
    }

    /// Who asks where this execution asks a model.
    #[must_use]
    pub fn caller(&self) -> Caller {
        let task = &self.0.task;
        Caller {
            task: Some(task.id),
            parent: task.parent_id,
            agent: Some(Arc::clone(&task.agent)),
            tenant: Some(Arc::clone(&task.tenant)),
            priority: task.priority,
            deadline: task.deadline,
        }
    }

    /// The vectors of `texts` by the default embedding model, in order, of unit length. Not recorded: the same texts give the same vectors.
    pub async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        self.not_replayed("a model")?;
        Ok(self.models().embedding(None)?.embed_for(&self.caller(), texts).await?.vectors)
    }

    /// The vector store.
    pub fn vectors(&self) -> Result<&Arc<dyn VectorStore>> {
        self.not_replayed("the vector store")?;
        self.0.engine.vectors.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "no vector store is configured").with_code("vectors_unavailable")
        })
    }

    /// The records of `collection` most similar to a query.
    pub async fn search(&self, collection: &str, query: VectorQuery) -> Result<Vec<VectorHit>> {
        Ok(self.vectors()?.search(collection, &[query]).await?.pop().unwrap_or_default())
    }

    /// The models that can be called; none where a recorded run is only replayed.
    #[must_use]
    pub fn models(&self) -> &Models {
        if self.journal().is_replay() { &self.0.no_models } else { &self.0.engine.models }
    }

    /// A replay asks nobody: what is outside the journal ends it.
    fn not_replayed(&self, what: &str) -> Result<()> {
        if !self.journal().is_replay() {
            return Ok(());
        }
        let message = format!("the code asks {what} outside its steps, which is not recorded; a replay asks nobody");
        self.journal().judge(Verdict::Beyond(message.clone()));
        Err(Error::new(ErrorKind::Unsupported, message).with_code("not_recorded"))
    }

    /// Every registered agent, by name.
    #[must_use]
    pub fn agents(&self) -> &[AgentDescriptor] {
        &self.0.engine.catalogue.descriptors
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
