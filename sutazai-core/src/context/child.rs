//! Other agents' tasks, called for by this one.

use std::{future::Future, marker::PhantomData, pin::Pin, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Context,
    step::{Diverged, failed, fitting},
    wait::answered,
};
use crate::{
    agent::AgentError,
    engine::{
        Stop,
        hub::Subscription,
        inner::SLOW_POLL,
        journal::{Begun, Draft},
        submit,
    },
    error::{ErrorKind, Result},
    payload::Payload,
    task::{EntryId, EntryKind, Failure, Outcome, Task, TaskError, TaskId, TaskRequest, TaskState, WaitReason},
};

/// What a child's entry begins with.
#[derive(Serialize, Deserialize)]
pub(crate) struct Born {
    pub(crate) task_id: TaskId,
}

/// A task that this one has called for: it goes on by itself, and [`Child::result`] waits for it.
pub struct Child<O> {
    context: Context,
    entry: EntryId,
    agent: String,
    task: TaskId,
    /// The index of its beginning; none if it was born in this execution.
    born: Option<u64>,
    recorded: bool,
    subscription: Option<Subscription>,
    output: PhantomData<fn() -> O>,
}

impl<O> std::fmt::Debug for Child<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Child").field("agent", &self.agent).field("task", &self.task).finish_non_exhaustive()
    }
}

impl Context {
    /// Hands work to another agent and waits for its output, durably.
    ///
    /// The work is a task of its own, a child of this one with its priority, tenant and deadline, stored together with the entry of the journal that names it. It is
    /// cancelled when this task ends before it. While an execution waits here it holds no slot. When the code runs again it finds the same child, until that has
    /// failed and a new attempt calls anew.
    pub async fn call<I, O>(&self, agent: &str, input: &I) -> Result<O, AgentError>
    where
        I: Serialize + ?Sized,
        O: DeserializeOwned,
    {
        self.spawn(agent, input).await?.result().await
    }

    /// Like [`Context::call`], and returns as soon as the child is stored.
    pub async fn spawn<I, O>(&self, agent: &str, input: &I) -> Result<Child<O>, AgentError>
    where
        I: Serialize + ?Sized,
        O: DeserializeOwned,
    {
        self.spawn_request(TaskRequest::new(agent, Payload::of(input)?)).await
    }

    /// Like [`Context::spawn`], with more to say about the child: another priority or deadline, labels, retries, or that it is
    /// [detached](TaskRequest::detached) and goes on when this task ends. Where the request keeps the default, this task's priority, tenant and deadline hold.
    pub async fn spawn_request<O: DeserializeOwned>(&self, mut request: TaskRequest) -> Result<Child<O>, AgentError> {
        let agent = request.target.name();
        let journal = self.journal();
        let (entry, begun) = journal.begin(self.path(), EntryKind::Child, &agent).await;
        let recorded = matches!(begun, Begun::Recorded(_));
        let (task, born, subscription) = match begun {
            Begun::Open(index, payload) | Begun::Recorded(Some((index, payload))) => {
                journal.turn(index, &entry).await;
                (payload.read::<Born>()?.task_id, Some(index), None)
            }
            Begun::Recorded(None) => {
                // It was refused, or there never was such a child.
                self.recorded::<()>(EntryKind::Child, &entry).await?;
                return Err(AgentError::permanent("journal_damaged", "a child's entry does not say which task it is"));
            }
            Begun::New => {
                let _live = journal.live(self.path());
                self.may_act().await;
                self.inherit(&mut request);
                let id = self.child_id(&entry);
                let subscription = self.0.engine.hub.subscribe(id);
                self.bear(&entry, id, request).await?;
                (id, None, Some(subscription))
            }
        };
        Ok(Child { context: self.clone(), entry, agent, task, born, recorded, subscription, output: PhantomData })
    }

    fn inherit(&self, request: &mut TaskRequest) {
        let task = self.task();
        if request.priority == crate::task::Priority::default() {
            request.priority = task.priority;
        }
        if *request.tenant == *crate::task::DEFAULT_TENANT {
            request.tenant = Arc::clone(&task.tenant);
        }
        request.deadline = match (request.deadline, task.deadline) {
            (None, deadline) if !request.detached => deadline,
            (own, _) => own,
        };
        request.parent_id = Some(task.id);
        request.idempotency_key = None; // its entry is what makes it one
    }

    /// Stores the child with its entry, and sees to it that it runs even if this branch is dropped meanwhile. That it cannot be born is an outcome too.
    async fn bear(&self, entry: &EntryId, id: TaskId, request: TaskRequest) -> Result<(), AgentError> {
        // Boxed: an agent that calls an agent that calls an agent would otherwise be a type of infinite size.
        let called: Pin<Box<dyn Future<Output = Result<submit::Newborn>> + Send + '_>> =
            Box::pin(submit::newborn(&self.0.engine, request, id));
        let newborn = match called.await {
            Err(error) if error.code() == "shutting_down" => return self.given_back().await,
            Err(error) => {
                let (outcome, result) = failed(error.into());
                let draft = Draft { id: entry.clone(), kind: EntryKind::Child, outcome, at: self.time(), child: None };
                self.record(draft).await;
                return result;
            }
            Ok(newborn) => newborn,
        };
        let draft = Draft {
            id: entry.clone(),
            kind: EntryKind::Child,
            outcome: Outcome::Open(Payload::of(&Born { task_id: id })?),
            at: self.time(),
            child: Some(newborn.child()),
        };
        let [stored, seen] = self.journal().send_child(draft);
        newborn.run_after(stored);
        self.seen(seen).await;
        Ok(())
    }

    /// Sorts by time, like every id; the rest is drawn from what the entry is known by.
    fn child_id(&self, entry: &EntryId) -> TaskId {
        use sha2::{Digest, Sha256};
        let task = self.task();
        let EntryId { path, name, occurrence } = entry;
        let seed = format!("{}/{}/{}/{path}/{name}/{occurrence}", task.id, task.journal.era, task.revision.epoch);
        let hash: [u8; 32] = Sha256::digest(seed).into();
        TaskId::from_hash(self.time(), hash)
    }

    /// The engine shuts down and takes no more work: that is no fault of this task, which goes on at the next start.
    async fn given_back<T>(&self) -> T {
        self.control().stop(Stop::Release);
        std::future::pending().await
    }
}

impl<O: DeserializeOwned> Child<O> {
    /// The child's id.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.task
    }

    /// The child's output; waits for its end, durably. A child that failed is its error, one that was cancelled `child_cancelled`.
    pub async fn result(mut self) -> Result<O, AgentError> {
        let context = self.context.clone();
        if self.recorded {
            return context.recorded(EntryKind::Child, &self.entry).await;
        }
        if let Some(born) = self.born {
            context.journal().may_go_on(EntryKind::Child, &self.entry, born).await;
        }
        let ended = self.ended().await?;
        let agent = &self.agent;
        let cancelled = || TaskError::new("child_cancelled", "the task was cancelled");
        let its = |error: &TaskError| {
            let error = TaskError::new(error.code.clone(), format!("{agent}: {}", error.message));
            Outcome::Failed(Failure { error, temporary: false })
        };
        let outcome = match (ended.state, &ended.output, &ended.error) {
            (TaskState::Completed, Some(output), _) => {
                fitting(output.clone()).map_or_else(|error| its(error.task_error()), Outcome::Done)
            }
            (TaskState::Failed, _, Some(error)) => its(error),
            _ => its(&cancelled()),
        };
        let draft = Draft {
            id: self.entry.clone(),
            kind: EntryKind::Child,
            outcome: outcome.clone(),
            at: context.time(),
            child: None,
        };
        context.record(draft).await;
        match context.decoded(EntryKind::Child, &self.entry, outcome) {
            Ok(result) => result,
            Err(Diverged) => std::future::pending().await,
        }
    }

    /// The child at its end; one that is no longer stored counts as cancelled.
    async fn ended(&mut self) -> Result<Arc<Task>, AgentError> {
        let context = &self.context;
        let engine = &context.0.engine;
        let mut foreign = None;
        let mut subscription = match self.subscription.take() {
            Some(subscription) => subscription,
            None => {
                let subscription = engine.hub.subscribe(self.task); // before the look, so that an end right after it is not missed
                let task = {
                    let _live = context.journal().live(context.path()); // nobody knows yet whether this is a wait
                    answered(|| look(context, self.task)).await?
                };
                if task.state.is_terminal() {
                    return Ok(task);
                }
                // The child of the run that this one was forked from wakes that one: this one stays and looks.
                foreign = (task.parent_id != Some(context.id())).then(|| context.journal().live(context.path()));
                subscription
            }
        };
        let slot = context.control().wait();
        let waits = context.journal().wait(context.path(), WaitReason::Child, None);
        let ended = loop {
            if let Ok(Some(task)) = tokio::time::timeout(SLOW_POLL, subscription.ended()).await {
                break task;
            }
            if engine.is_closing() {
                return context.given_back().await;
            }
            match look(context, self.task).await {
                Ok(task) if task.state.is_terminal() => break task,
                Ok(_) => {}
                Err(error) if error.is_temporary() => {}
                Err(error) => return Err(error.into()),
            }
        };
        let _live = context.journal().live(context.path());
        drop((waits, foreign));
        slot.over().await;
        Ok(ended)
    }
}

/// The task as it is; one that is no longer stored counts as cancelled.
async fn look(context: &Context, id: TaskId) -> Result<Arc<Task>> {
    match context.0.engine.load(id).await {
        Ok(task) => Ok(Arc::new(task)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut gone = context.task().clone();
            (gone.state, gone.output, gone.error) = (TaskState::Cancelled, None, None);
            Ok(Arc::new(gone))
        }
        Err(error) => Err(error),
    }
}
