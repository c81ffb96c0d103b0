//! Context fit: whether prompt and answer fit the model's context together, and what to do where they do not.

mod count;
mod plan;
mod summary;
#[cfg(test)]
mod tests;
mod turns;

use std::{fmt, mem, sync::Arc};

use async_trait::async_trait;
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatModel, ChatModelExt, ChatRequest, ChatStream, Message, ModelInfo},
};
use tracing::warn;

pub(super) use self::count::{Prompt, measured, spoken, tokens};
use self::{
    plan::{Plan, Refusal, Ruler},
    turns::split,
};
use super::observer::GatewayObserver;

/// Counts what a request takes of a model's context.
pub trait TokenCounter: Send + Sync + 'static {
    /// The tokens of the whole prompt: messages, tools and what the model's template adds. `None` where it cannot say, such as with pictures.
    ///
    /// Leaving messages out must not make it more. It may compute for a while: long requests are counted on a thread where that holds up nobody.
    fn count(&self, request: &ChatRequest) -> Option<u32>;

    /// Whether the backend would count the same. Requests are refused for such a number, and never for an estimate.
    fn is_exact(&self) -> bool;
}

/// What to do with a request that does not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fit {
    /// It is refused.
    #[default]
    Refuse,
    /// Its oldest messages are left out.
    TrimOldest,
    /// Its oldest messages are left out, and a summary stands in their place. The same model makes it, in one more call under the same caller each time
    /// that a conversation does not fit.
    Summarise,
}

/// How requests are made to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FitConfig {
    /// What to do with one that does not. Default [`Fit::Refuse`].
    pub policy: Fit,
    /// Tokens that are left for an answer at least; a request's own `max_tokens` count if they are more. Default 1.
    pub answer_room: u32,
    /// Tokens of a summary at most. Default 256.
    pub summary_tokens: u32,
}

impl Default for FitConfig {
    fn default() -> Self {
        Self { policy: Fit::Refuse, answer_room: 1, summary_tokens: 256 }
    }
}

/// How often what is to be summed up is halved, where it proves too long.
const HALVINGS: usize = 6;

/// A model that is sent only what fits its context: the prompt, and the answer that the request wants.
///
/// The prompt is counted by a [`TokenCounter`] where there is one, else estimated: a token for 3 bytes, at least 4 for a message, 768 for a picture.
/// An estimate is on the safe side, and so decides what is left out; what it cannot do is refuse. Then only a prompt is refused that is longer than
/// the context by any count (a token for 32 bytes, with runs of one character as a single one, since vocabularies have tokens for whole lines of
/// blanks or dashes, but no text of words keeps to their longest), and whether `max_tokens` can be had is left to the backend, which may well give
/// a shorter answer.
///
/// * What is refused is an error of the kind [`ErrorKind::Invalid`] and the code `context_length_exceeded`, with the numbers.
/// * What is left out goes from the oldest on, and whole: a turn from one user message to the next; of the last turn, a round of tool calls with their
///   results. A result never stays without its call, nor the other way round. System messages, the last user message and the last round always
///   stay, in their order. No more is left out than has to be, and the observer is told how many messages it was.
/// * Where that is not enough, the request is refused, if it is known not to fit; else what is left is sent, and the backend has the last word.
/// * A summary that cannot be made, or does not fit, is left out too, and its failure logged. It is marked as what it is: what users said does not
///   become instructions by it.
///
/// A model of context length 0 says that it does not know its own; everything is sent.
pub struct ContextFit {
    inner: Arc<dyn ChatModel>,
    config: FitConfig,
    counter: Option<Arc<dyn TokenCounter>>,
    observer: Arc<dyn GatewayObserver>,
}

impl ContextFit {
    /// A fit around `inner` that estimates.
    #[must_use]
    pub fn new(inner: Arc<dyn ChatModel>, config: FitConfig, observer: Arc<dyn GatewayObserver>) -> Self {
        Self { inner, config, counter: None, observer }
    }

    /// The same with prompts counted by `counter`.
    #[must_use]
    pub fn with_counter(self, counter: Arc<dyn TokenCounter>) -> Self {
        Self { counter: Some(counter), ..self }
    }

    fn ruler(&self) -> Ruler {
        Ruler {
            counter: self.counter.clone(),
            context: self.info().context_length,
            policy: self.config.policy,
            answer_room: tokens(self.config.answer_room),
            summary_room: tokens(self.config.summary_tokens).saturating_add(summary::MARK),
        }
    }

    /// What `measure` finds, computed where it may take its time.
    async fn measured<T: Send + 'static>(
        &self,
        request: ChatRequest,
        measure: impl FnOnce(&Ruler, &ChatRequest) -> T + Send + 'static,
    ) -> Result<(ChatRequest, T)> {
        let (ruler, counts) = (self.ruler(), self.counter.is_some());
        measured(&self.info().name, request, counts, move |request| measure(&ruler, request)).await
    }

    fn refuse(&self, refusal: &Refusal) -> Error {
        let Refusal { prompt, answer, exact } = refusal;
        let (about, context) = (if *exact { "" } else { "at least " }, self.info().context_length);
        let message = format!(
            "the prompt has {about}{prompt} tokens and its answer may have {answer}; the model takes {context} together"
        );
        Error::new(ErrorKind::Invalid, message)
            .with_code("context_length_exceeded")
            .during("chat with")
            .about(&self.info().name)
    }

    /// The request without these messages, and with what stands in their place.
    async fn shortened(&self, mut request: ChatRequest, numbers: &[usize], summarise: bool) -> Result<ChatRequest> {
        let (kept, left_out) = split(mem::take(&mut request.messages), numbers);
        self.observer.trimmed(&self.info().name, left_out.len());
        request.messages = kept;
        // Whatever stands before the first one that is left out has stayed.
        let place = numbers.first().copied().unwrap_or_default().min(request.messages.len());
        let summary = if summarise { self.summary(&request, &left_out).await } else { None };
        if let Some(summary) = summary {
            request.messages.insert(place, summary);
            let (mut with, fits) = self.measured(request, |ruler, request| !ruler.is_too_long(request)).await?;
            if !fits {
                warn!(model = %self.info().name, "a summary does not fit and is left out");
                with.messages.remove(place);
            }
            request = with;
        }
        Ok(request)
    }

    async fn summary(&self, request: &ChatRequest, left_out: &[Message]) -> Option<Message> {
        let info = self.info();
        let mut room = summary::room(info.context_length, self.config.summary_tokens)?;
        for _ in 0..HALVINGS {
            let ask = summary::ask(request, left_out, room, self.config.summary_tokens, info.capabilities.thinking);
            let (ask, fits) = self.measured(ask, Ruler::fits).await.ok()?;
            if fits {
                let reply = self.inner.complete(ask).await;
                let text = reply
                    .inspect_err(|error| warn!(model = %info.name, error = %error.report(), "no summary was made"))
                    .ok()?
                    .text;
                return summary::note(&text);
            }
            room /= 2;
        }
        None
    }
}

#[async_trait]
impl ChatModel for ContextFit {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    async fn ready(&self) -> Result<()> {
        self.inner.ready().await
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        let (request, plan) = self.measured(request, Ruler::plan).await?;
        let request = match plan {
            Plan::Send => request,
            Plan::LeaveOut { messages, summarise } => self.shortened(request, &messages, summarise).await?,
            Plan::Refuse(refusal) => return Err(self.refuse(&refusal)),
        };
        self.inner.chat(request).await
    }

    async fn load(&self) -> Result<()> {
        self.inner.load().await
    }

    async fn unload(&self) -> Result<()> {
        self.inner.unload().await
    }
}

impl fmt::Debug for ContextFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextFit")
            .field("model", &self.info().name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
