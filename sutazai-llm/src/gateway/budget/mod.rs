//! Budgets: what tasks, agents and tenants may spend on models. It is reserved before a call is made, and settled when it is over.
//!
//! A budget counts tokens, calls, time and cost, each as far as it is limited: of a task with everything it calls for, of an agent on a day, of a tenant
//! on a day. Days are those of UTC.

mod bill;
mod block;
mod book;
mod config;
mod driver;
mod families;
mod ledger;
mod need;
mod refusal;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sutazai_core::{
    Result,
    model::{ChatModel, ChatRequest, ChatStream, ModelInfo},
};

use self::{
    bill::{Bill, Billed},
    config::Want,
    need::Need,
    refusal::Denied,
};
pub use self::{
    config::{BudgetConfig, Price},
    ledger::Ledger,
};
use super::{
    TokenCounter,
    admission::estimate::{ANSWER, Mean},
    fit::{Prompt, measured},
    observer::GatewayObserver,
};

/// A model that is asked only within the budgets of whoever asks.
///
/// Before the call everything it may take is reserved: its prompt, counted by a [`TokenCounter`] where there is one and estimated otherwise, with
/// `max_tokens` or [`BudgetConfig::answer_tokens`]; one call; what such tokens cost; and as much time as calls of this model take on the average, a
/// sixty-fourth of the limit at most, since that is a guess. Where tokens or cost are limited, a request without `max_tokens` is sent with the tokens that are
/// reserved for its answer: a longer one is cut there.
///
/// When it is over, what it took is settled: the tokens that the backend says, prompt and answer each estimated where it says 0, and the time from the call
/// to the end of its answer, the wait for a turn included. Of a call that failed or was dropped, what the backend says counts if it says anything, else what
/// was seen of its answer, in tokens as an estimate, with the prompt if anything was answered, and the call and its time count too. A call that failed before its answer began, because it was
/// refused (the request is wrong, or the model or its backend is missing, full or not to be reached), costs nothing. What a call took beyond its reservation
/// is taken from whatever its accounts have next, and written down in the store at once.
///
/// * A call that is beyond a budget is not made. It fails with the code `budget_exceeded`, and says which account and which measure it is, how much the
///   call may take, how much is left, and when the account begins anew. The kind is [`ErrorKind::Full`](sutazai_core::ErrorKind::Full) where waiting helps,
///   with how long, and [`ErrorKind::Conflict`](sutazai_core::ErrorKind::Conflict) where it does not: a task has one budget, and no call may take more than
///   there is at all. Where other processes may hold what a task's account lacks, it is `Full` for a minute and a half. The observer is told.
/// * Without the store nobody knows what is left: a call that needs more than is drawn then fails as unavailable, with the code `budget_unavailable`.
/// * Calls of embedding models are not counted.
///
/// Of a caller without limits only the time is taken, for the guess.
pub struct Budget {
    inner: Arc<dyn ChatModel>,
    ledger: Arc<Ledger>,
    counter: Option<Arc<dyn TokenCounter>>,
    observer: Arc<dyn GatewayObserver>,
    price: Price,
    /// How long calls take.
    pace: Arc<Mutex<Mean>>,
}

impl Budget {
    /// Budgets before `inner`, kept in `ledger`, that estimate prompts.
    #[must_use]
    pub fn new(inner: Arc<dyn ChatModel>, ledger: Arc<Ledger>, observer: Arc<dyn GatewayObserver>) -> Self {
        let price = ledger.config().price(&inner.info().name);
        Self { inner, ledger, counter: None, observer, price, pace: Arc::default() }
    }

    /// The same with prompts counted by `counter`.
    #[must_use]
    pub fn with_counter(self, counter: Arc<dyn TokenCounter>) -> Self {
        Self { counter: Some(counter), ..self }
    }

    /// What the call may take.
    async fn need(&self, request: ChatRequest) -> Result<(ChatRequest, Need)> {
        let (info, counter) = (self.info(), self.counter.clone());
        let (context, answer_tokens) = (info.context_length, self.ledger.config().answer_tokens);
        let need = move |request: &ChatRequest| {
            Need::of(Prompt::of(request, counter.as_deref()), request, context, answer_tokens)
        };
        measured(&info.name, request, self.counter.is_some(), need).await
    }

    /// Whether it matters to one of these how long an answer is.
    fn limits_tokens(&self, wants: &[Want]) -> bool {
        let is_free = self.price == Price::default();
        wants.iter().any(|Want { limits, .. }| limits.tokens.is_some() || (limits.micros.is_some() && !is_free))
    }

    /// Asks the model, on this bill.
    async fn ask(&self, request: ChatRequest, bill: Bill) -> Result<ChatStream> {
        match self.inner.chat(request).await {
            Ok(answer) => Ok(answer.map_events(|events| Billed::new(events, bill))),
            Err(error) => {
                bill.failed(&error);
                Err(error)
            }
        }
    }

    fn expected(&self) -> Duration {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).or(ANSWER)
    }
}

#[async_trait]
impl ChatModel for Budget {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    async fn ready(&self) -> Result<()> {
        self.inner.ready().await
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        let (ledger, model) = (&self.ledger, &self.info().name);
        let wants = ledger.wants(&request.caller).await.map_err(|error| error.during("chat with").about(model))?;
        let bill = |hold, need| Bill::new(hold, need, self.price, ledger.clock(), &self.pace);
        if wants.is_empty() {
            return self.ask(request, bill(None, Need::NONE)).await;
        }
        let limits_tokens = self.limits_tokens(&wants);
        let (mut request, need) = self.need(request).await?;
        let amounts = need.amounts(self.price, self.expected());
        let hold = ledger.reserve(wants, amounts, request.caller.deadline).await.map_err(|denied| match denied {
            Denied::Refused(refusal) => {
                self.observer.refused(refusal.account.kind(), refusal.shortage.measure.as_str());
                refusal.error(model, need.exact, ledger.now())
            }
            Denied::Unknown(error) => error.during("chat with").about(model),
        })?;
        if limits_tokens {
            request.max_tokens = request.max_tokens.or(Some(need.max_tokens()));
        }
        self.ask(request, bill(Some(hold), need)).await
    }

    async fn load(&self) -> Result<()> {
        self.inner.load().await
    }

    async fn unload(&self) -> Result<()> {
        self.inner.unload().await
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("model", &self.info().name).field("price", &self.price).finish_non_exhaustive()
    }
}
