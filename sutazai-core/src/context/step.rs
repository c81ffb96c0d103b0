//! Steps: effects whose outcome is recorded once.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;

use super::Context;
use crate::{
    agent::{AgentError, Effects},
    clock::Timestamp,
    engine::journal::{Begun, Draft, Journal, PATCHED, Verdict, describe},
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
            Begun::Open(index, _) => return context.undecided(self.kind, &id, index, "was begun and cut short").await,
            Begun::New => {}
        }
        let live = journal.live(context.path());
        let working = context.control().work().await;
        context.may_act().await;
        let mut intent = None;
        if self.effects == Effects::Destructive {
            let open = Outcome::Open(Payload::null());
            let index = context
                .begin(Draft { id: id.clone(), kind: self.kind, outcome: open, at: context.time(), child: None })
                .await;
            context.may_act().await; // the commit may have taken long
            intent = Some(Intent { journal, kind: self.kind, id: id.clone(), index, settled: false });
        }
        let result = self.run(&id, intent.as_ref().map(|intent| intent.index)).await;
        let (outcome, result) = match (settle(result), &intent) {
            (Ok(settled), _) => settled,
            (Err(error), None) => failed(error),
            // It happened, and running it again would do harm.
            (Err(error), Some(Intent { index, .. })) => {
                let why = format!("ended with an outcome that cannot be recorded ({error})");
                return context.undecided(self.kind, &id, *index, &why).await;
            }
        };
        let stored = journal.send(Draft { id, kind: self.kind, outcome, at: context.time(), child: None });
        if let Some(intent) = intent {
            intent.settle();
        }
        context.seen(stored).await;
        drop((live, working));
        result
    }

    /// Runs the closure, again after temporary errors while the policy says so. `intent` is the entry of a destructive one.
    async fn run(&mut self, id: &EntryId, intent: Option<u64>) -> Result<T, AgentError> {
        let key = self.context.key(id);
        let mut attempt = 1;
        loop {
            let run = (self.run)(key.clone());
            let result = match self.timeout {
                None => run.await,
                Some(limit) => match tokio::time::timeout(limit, run).await {
                    Ok(result) => result,
                    Err(_) => {
                        if let Some(index) = intent {
                            let why = format!("ran longer than {limit:?}");
                            return self.context.undecided(self.kind, id, index, &why).await;
                        }
                        let message = format!("the step {:?} ran longer than {limit:?}", self.name);
                        Err(AgentError::temporary("step_timeout", message))
                    }
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

/// A destructive effect under way. Whoever drops it in the middle leaves a task that must not go on before somebody has looked.
struct Intent<'j> {
    journal: &'j Journal,
    kind: EntryKind,
    id: EntryId,
    index: u64,
    settled: bool,
}

impl Intent<'_> {
    /// Its outcome is on its way into the journal.
    fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Intent<'_> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        self.journal.judge(unknown(self.kind, &self.id, self.index, "was begun and cut short"));
    }
}

fn unknown(kind: EntryKind, id: &EntryId, index: u64, why: &str) -> Verdict {
    let message = format!(
        "{}, entry {index}, {why}; find out whether it happened, then resolve that entry with its outcome, a retry or a failure",
        describe(kind, id)
    );
    Verdict::Halt { reason: WaitReason::EffectUnknown, error: TaskError::new("effect_unknown", message) }
}

/// The code does not fit its journal, and the execution has a verdict.
pub(super) struct Diverged;

/// What to record of a result, and the result as its author sees it; an error if it cannot be recorded.
fn settle<T: Serialize>(result: Result<T, AgentError>) -> Result<(Outcome, Result<T, AgentError>), AgentError> {
    match result {
        Ok(value) => Ok((Outcome::Done(fitting(Payload::of(&value)?)?), Ok(value))),
        Err(error) => Ok(failed(error)),
    }
}

/// Refuses an outcome that is too large for a journal.
pub(super) fn fitting(outcome: Payload) -> Result<Payload, AgentError> {
    let found = outcome.as_str().len();
    if found <= MAX_OUTCOME {
        return Ok(outcome);
    }
    let message =
        format!("the outcome has {found} bytes, {MAX_OUTCOME} are allowed; store it elsewhere and return where");
    Err(AgentError::permanent("outcome_too_large", message))
}

pub(super) fn failed<T>(error: AgentError) -> (Outcome, Result<T, AgentError>) {
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

    /// Whether this run is to behave in the new way of a changed code: false for runs that were already past this place before the change, true for all others.
    /// `id` names the change. The first answer holds in every branch and every turn of a loop, and whenever the code runs again, until the task begins another
    /// journal.
    pub async fn patched(&self, id: &str) -> bool {
        let name = format!("{PATCHED}{id}");
        match self.journal().patch(self.path(), &name) {
            Some(answer) => answer,
            None => self.noted(&name, |_| true).await,
        }
    }

    /// A value that is drawn at once and recorded with whatever is recorded next.
    async fn noted<T: Serialize + DeserializeOwned>(&self, name: &str, draw: impl FnOnce(&Self) -> T) -> T {
        let journal = self.journal();
        let (id, begun) = journal.begin_noted(self.path(), name).await;
        if matches!(begun, Begun::Recorded(_)) {
            return match journal.noted(&id).map(|outcome| self.decoded(EntryKind::Step, &id, outcome)) {
                Some(Ok(Ok(value))) => value,
                _ => std::future::pending().await, // judged: such an entry is never a failure
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
        let journal = self.journal();
        if !journal.flush().await {
            return std::future::pending().await;
        }
        journal.judge(match journal.left_over() {
            Some(left) => journal.skipped("continues as new", left),
            None => Verdict::Continue(input),
        });
        std::future::pending().await
    }

    /// The recorded outcome of an entry, as the code's type. One that no longer decodes is divergence.
    pub(super) async fn recorded<T: DeserializeOwned>(&self, kind: EntryKind, id: &EntryId) -> Result<T, AgentError> {
        match self.decoded(kind, id, self.journal().outcome(id).await) {
            Ok(result) => result,
            Err(Diverged) => std::future::pending().await,
        }
    }

    /// An outcome as the code's type.
    pub(super) fn decoded<T: DeserializeOwned>(
        &self,
        kind: EntryKind,
        id: &EntryId,
        outcome: Outcome,
    ) -> Result<Result<T, AgentError>, Diverged> {
        match outcome {
            Outcome::Done(payload) => payload.read().map(Ok).map_err(|error| {
                let found: Vec<_> =
                    error.faults().iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
                let message = format!("the outcome of {} no longer decodes: {}", describe(kind, id), found.join(", "));
                self.journal().diverge(message);
                Diverged
            }),
            Outcome::Failed(failure) => Ok(Err(AgentError::from_failure(failure))),
            Outcome::Open(_) | Outcome::Retracted => Err(Diverged), // neither is an outcome
        }
    }

    /// A destructive effect was begun, and nobody knows whether it happened, or how it ended.
    async fn undecided<T>(&self, kind: EntryKind, id: &EntryId, index: u64, why: &str) -> T {
        self.journal().judge(unknown(kind, id, index, why));
        std::future::pending().await
    }

    /// Records what the code is to see; returns only if the task is still this execution's.
    pub(super) async fn record(&self, draft: Draft) {
        self.seen(self.journal().send(draft)).await;
    }

    /// Returns when the code is to see what was sent for recording.
    pub(super) async fn seen(&self, sent: oneshot::Receiver<Option<u64>>) {
        if !matches!(sent.await, Ok(Some(_))) {
            std::future::pending::<()>().await;
        }
    }

    /// Records a beginning, which the code does not see; where.
    pub(super) async fn begin(&self, draft: Draft) -> u64 {
        match self.journal().record_beginning(draft).await {
            Some(index) => index,
            None => std::future::pending().await,
        }
    }

    /// What makes an effect keyed: the task and the entry, whatever the attempt.
    fn key(&self, id: &EntryId) -> String {
        let EntryId { path, name, occurrence } = id;
        format!("{}/{}/{path}/{name}/{occurrence}", self.id(), self.task().journal.era)
    }
}
