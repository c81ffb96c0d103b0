//! Steps: effects whose outcome is recorded once.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use super::Context;
use crate::{
    agent::{AgentError, Effects},
    clock::Timestamp,
    engine::journal::{Begun, Draft, Verdict, describe},
    payload::Payload,
    task::{EntryId, EntryKind, Failure, MAX_OUTCOME, Outcome, RetryPolicy, TaskError, WaitReason},
};

/// A step that is about to run: await it. Made by [`Context::step`] and its like.
#[must_use = "a step runs when it is awaited"]
pub struct Step<'c, F> {
    context: &'c Context,
    kind: EntryKind,
    name: String,
    effects: Effects,
    retry: RetryPolicy,
    timeout: Option<Duration>,
    run: F,
}

impl<F> fmt::Debug for Step<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("name", &self.name).field("effects", &self.effects).finish_non_exhaustive()
    }
}

impl<'c, F> Step<'c, F> {
    pub(super) fn new(
        context: &'c Context,
        kind: EntryKind,
        name: impl Into<String>,
        effects: Effects,
        run: F,
    ) -> Self {
        Self { context, kind, name: name.into(), effects, retry: RetryPolicy::NEVER, timeout: None, run }
    }

    /// Runs it again after a temporary error, by this policy, before the error reaches the agent; default: once.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Gives each run at most so long; beyond, it failed with the temporary error `step_timeout`. A destructive step that runs out of time leaves its task
    /// waiting for a decision.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Running it twice would do harm: its intent is recorded first, and if it is cut short the task waits for somebody to decide.
    pub fn destructive(mut self) -> Self {
        self.effects = Effects::Destructive;
        self
    }
}

impl<'c, F, Fut, T> IntoFuture for Step<'c, F>
where
    F: FnMut(String) -> Fut + Send + 'c,
    Fut: Future<Output = Result<T, AgentError>> + Send + 'c,
    T: Serialize + DeserializeOwned + Send + 'c,
{
    type Output = Result<T, AgentError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.perform())
    }
}

impl<F, Fut, T> Step<'_, F>
where
    F: FnMut(String) -> Fut + Send,
    Fut: Future<Output = Result<T, AgentError>> + Send,
    T: Serialize + DeserializeOwned + Send,
{
    async fn perform(mut self) -> Result<T, AgentError> {
        let context = self.context;
        let journal = context.journal();
        let (id, begun) = journal.begin(context.path(), self.kind, &self.name).await;
        match begun {
            Begun::Recorded(_) => return context.recorded(self.kind, &id).await,
            Begun::Open(index, _) => return context.undecided(self.kind, &id, index).await,
            Begun::New => {}
        }
        let live = journal.live();
        let working = context.control().work().await;
        context.may_act().await;
        if self.effects == Effects::Destructive {
            let open = Outcome::Open(Payload::null());
            context
                .record(Draft { id: id.clone(), kind: self.kind, outcome: open, at: context.time(), child: None })
                .await;
            context.may_act().await; // the commit may have taken long
        }
        let result = self.run(&id).await;
        let (outcome, result) = settle(result);
        context.record(Draft { id, kind: self.kind, outcome, at: context.time(), child: None }).await;
        drop((live, working));
        result
    }

    /// Runs the closure, again after temporary errors while the policy says so.
    async fn run(&mut self, id: &EntryId) -> Result<T, AgentError> {
        let key = self.context.key(id);
        let mut attempt = 1;
        loop {
            let run = (self.run)(key.clone());
            let result = match self.timeout {
                None => run.await,
                Some(limit) => match tokio::time::timeout(limit, run).await {
                    Ok(result) => result,
                    Err(_) if self.effects == Effects::Destructive => {
                        let message = format!(
                            "the step {:?} ran longer than {limit:?}; nobody knows whether it happened",
                            self.name
                        );
                        return self
                            .context
                            .halt(WaitReason::EffectUnknown, TaskError::new("effect_unknown", message))
                            .await;
                    }
                    Err(_) => Err(AgentError::temporary(
                        "step_timeout",
                        format!("the step {:?} ran longer than {limit:?}", self.name),
                    )),
                },
            };
            match result {
                Err(error) if error.is_temporary() && attempt < self.retry.max_attempts => {
                    let least = error.delay().unwrap_or_default();
                    tracing::debug!(task = %self.context.id(), step = self.name, attempt, %error, "a step runs again");
                    tokio::time::sleep(self.retry.delay(attempt, self.context.draw()).max(least)).await;
                    attempt += 1;
                    self.context.may_act().await;
                }
                result => return result,
            }
        }
    }
}

/// What to record of a result, and the result as its author sees it.
fn settle<T: Serialize>(result: Result<T, AgentError>) -> (Outcome, Result<T, AgentError>) {
    match result {
        Ok(value) => match Payload::of(&value) {
            Ok(payload) if payload.as_str().len() <= MAX_OUTCOME => (Outcome::Done(payload), Ok(value)),
            Ok(payload) => {
                let found = payload.as_str().len();
                let message = format!(
                    "the outcome has {found} bytes, {MAX_OUTCOME} are allowed; store it elsewhere and return where"
                );
                failed(AgentError::permanent("outcome_too_large", message))
            }
            Err(error) => failed(error.into()),
        },
        Err(error) => failed(error),
    }
}

fn failed<T>(error: AgentError) -> (Outcome, Result<T, AgentError>) {
    let failure = Failure { error: error.task_error().clone(), temporary: error.is_temporary() };
    (Outcome::Failed(failure), Err(error))
}

impl Context {
    /// Runs `f` once and records its outcome. When the code runs again the recorded outcome is returned and `f` is not run; it runs again only if its outcome
    /// was never recorded, so it should be idempotent.
    ///
    /// `name` and the order in which a branch asks for entries of that name are what the outcome is found by. Steps do not nest. An outcome has at most
    /// [`MAX_OUTCOME`] bytes of JSON. An error that is left after the step's own [retries](Step::retry) is recorded too; a new attempt of the task forgets it.
    pub fn step<F, Fut, T>(&self, name: impl Into<String>, mut f: F) -> Step<'_, impl FnMut(String) -> Fut + Send>
    where
        F: FnMut() -> Fut + Send,
        Fut: Future<Output = Result<T, AgentError>> + Send,
        T: Serialize + DeserializeOwned + Send,
    {
        Step::new(self, EntryKind::Step, name, Effects::Idempotent, move |_| f())
    }

    /// Like [`Context::step`], and gives `f` a key that is the same whenever this very step runs again, in any attempt: for services that take idempotency keys.
    pub fn keyed_step<F, Fut, T>(&self, name: impl Into<String>, f: F) -> Step<'_, F>
    where
        F: FnMut(String) -> Fut + Send,
        Fut: Future<Output = Result<T, AgentError>> + Send,
        T: Serialize + DeserializeOwned + Send,
    {
        Step::new(self, EntryKind::Step, name, Effects::Keyed, f)
    }

    /// The time, recorded: the same whenever the code runs again.
    pub async fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.noted("now", |context| context.time().as_millis()).await)
    }

    /// 64 random bits, recorded: the same whenever the code runs again. Not for secrets.
    pub async fn random(&self) -> u64 {
        self.noted("random", Self::draw).await
    }

    /// Whether this run is to behave in the new way of a changed code: false for runs that were already past this place before the change, true for all others, and
    /// the same whenever the code runs again. `id` names the change.
    pub async fn patched(&self, id: &str) -> bool {
        let name = format!("patched:{id}");
        if !self.journal().is_recorded(self.path(), &name) && self.journal().is_behind(self.path()) {
            return false;
        }
        self.noted(&name, |_| true).await
    }

    /// A value that is drawn at once and recorded with whatever is recorded next.
    async fn noted<T: Serialize + DeserializeOwned>(&self, name: &str, draw: impl FnOnce(&Self) -> T) -> T {
        let journal = self.journal();
        let (id, begun) = journal.begin(self.path(), EntryKind::Step, name).await;
        if matches!(begun, Begun::Recorded(_)) {
            return match self.recorded(EntryKind::Step, &id).await {
                Ok(value) => value,
                Err(_) => std::future::pending().await, // judged: such an entry is never a failure
            };
        }
        let value = draw(self);
        if let Ok(payload) = Payload::of(&value) {
            journal.keep(Draft {
                id,
                kind: EntryKind::Step,
                outcome: Outcome::Done(payload),
                at: self.time(),
                child: None,
            });
        }
        value
    }

    /// Ends this execution and starts the task again from the top with another input and an empty journal, at its first attempt: for work that goes on for so long
    /// that its journal would grow too large. Its children go on. Returns only if the input does not fit the agent.
    pub async fn continue_as_new<I: Serialize + ?Sized, T>(&self, input: &I) -> Result<T, AgentError> {
        let input = Payload::of(input)?;
        if let Some(registered) = self.0.engine.catalogue.get(&self.task().agent) {
            registered.agent.check(&input)?;
        }
        if !self.journal().flush().await {
            return std::future::pending().await;
        }
        self.journal().judge(Verdict::Continue(input));
        std::future::pending().await
    }

    /// The recorded outcome of an entry, as the code's type. One that no longer decodes is divergence.
    pub(super) async fn recorded<T: DeserializeOwned>(&self, kind: EntryKind, id: &EntryId) -> Result<T, AgentError> {
        match self.journal().outcome(id).await {
            Outcome::Done(payload) => match payload.read() {
                Ok(value) => Ok(value),
                Err(error) => {
                    let found: Vec<_> =
                        error.faults().iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
                    let message =
                        format!("the outcome of {} no longer decodes: {}", describe(kind, id), found.join(", "));
                    self.journal().diverge(message);
                    std::future::pending().await
                }
            },
            Outcome::Failed(failure) => Err(AgentError::from_failure(failure)),
            Outcome::Open(_) | Outcome::Retracted => std::future::pending().await, // neither is an outcome
        }
    }

    /// A destructive effect was begun, and nobody knows whether it happened.
    pub(super) async fn undecided<T>(&self, kind: EntryKind, id: &EntryId, index: u64) -> T {
        let message = format!(
            "{} was begun and cut short, entry {index}; find out whether it happened, then resolve that entry with its outcome, a retry or a failure",
            describe(kind, id)
        );
        self.halt(WaitReason::EffectUnknown, TaskError::new("effect_unknown", message)).await
    }

    pub(super) async fn halt<T>(&self, reason: WaitReason, error: TaskError) -> T {
        self.journal().judge(Verdict::Halt { reason, error });
        std::future::pending().await
    }

    /// Records an entry; returns only if the task is still this execution's.
    pub(super) async fn record(&self, draft: Draft) {
        if !self.journal().record(draft).await {
            std::future::pending::<()>().await;
        }
    }

    /// What makes an effect keyed: the task and the entry, whatever the attempt.
    fn key(&self, id: &EntryId) -> String {
        let EntryId { path, name, occurrence } = id;
        format!("{}/{}/{path}/{name}/{occurrence}", self.id(), self.task().journal.era)
    }
}
