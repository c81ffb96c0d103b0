//! Falling back: another model answers where the one that was asked for cannot.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use sutazai_core::{
    Error, ErrorKind, Result,
    clock::Clock,
    model::{ChatModel, ChatRequest, ChatStream, ModelInfo},
};
use tokio::time::timeout;

use super::{first::begin, observer::GatewayObserver};

/// A model, and those that answer in its place.
///
/// * The next one is asked only if the former failed before the first piece of its answer: because it is missing, unavailable (an open breaker
///   included), out of time, out of memory or its queue is full; and one with a longer context if the prompt was too long. A request that is wrong,
///   cancelled or beyond its budget is not tried elsewhere.
/// * A model that cannot do what the request asks for (tools, a schema, pictures) is passed over.
/// * [`Served::fallback`](sutazai_core::model::Served::fallback) of an answer by another model is the name of the first and the code of its error, such as
///   `smollm2:135m: model_unavailable`.
/// * If none answers, the error is the first model's, with what became of the others in its message.
/// * All of it together, up to the first piece of an answer, ends by the caller's deadline, with kind `Timeout` if it is the first model that was cut off.
///
/// It presents itself as the first model, and is ready while any of them is.
pub struct Fallback {
    first: Arc<dyn ChatModel>,
    others: Vec<Arc<dyn ChatModel>>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn GatewayObserver>,
}

impl Fallback {
    /// `first`, and in its place `others` in this order. Deadlines are the clock's.
    ///
    /// The observer is told of every other model that is asked: after which one, and the code of that one's error.
    #[must_use]
    pub fn new(
        first: Arc<dyn ChatModel>,
        others: Vec<Arc<dyn ChatModel>>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn GatewayObserver>,
    ) -> Self {
        Self { first, others, clock, observer }
    }

    /// The answer of one model, if it begins before the caller's deadline.
    async fn ask(&self, model: &dyn ChatModel, request: &ChatRequest) -> Result<ChatStream> {
        let answer = begin(model, request.clone());
        match self.left(request) {
            None => answer.await,
            Some(left) if left.is_zero() => Err(late(model)),
            Some(left) => timeout(left, answer).await.unwrap_or_else(|_| Err(late(model))),
        }
    }

    fn left(&self, request: &ChatRequest) -> Option<Duration> {
        request.caller.deadline.map(|deadline| self.clock.now().until(deadline))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<dyn ChatModel>> {
        [&self.first].into_iter().chain(&self.others)
    }
}

#[async_trait]
impl ChatModel for Fallback {
    fn info(&self) -> &ModelInfo {
        self.first.info()
    }

    async fn ready(&self) -> Result<()> {
        let Err(error) = self.first.ready().await else { return Ok(()) };
        for other in &self.others {
            if other.ready().await.is_ok() {
                return Ok(());
            }
        }
        Err(error)
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        let error = match self.ask(&*self.first, &request).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let asked = self.info();
        let (mut from, mut code) = (asked, error.code());
        let mut search = Search::default();
        search.learn(&error, asked);
        for other in &self.others {
            if search.over || self.left(&request).is_some_and(|left| left.is_zero()) {
                break;
            }
            let info = other.info();
            if !search.fits(&request, info) {
                continue;
            }
            self.observer.fell_back(&from.name, &info.name, code);
            match self.ask(&**other, &request).await {
                Ok(answer) => {
                    let reason = format!("{}: {}", asked.name, error.code());
                    return Ok(answer.serving(|served| served.fallback = Some(reason)));
                }
                Err(cancelled) if cancelled.kind() == ErrorKind::Cancelled => return Err(cancelled),
                Err(error) => {
                    (from, code) = (info, error.code());
                    search.learn(&error, info);
                    search.report(info, &error);
                }
            }
        }
        Err(search.failed(asked, error))
    }

    /// Loads the first model: the others are loaded when they are needed.
    async fn load(&self) -> Result<()> {
        self.first.load().await
    }

    /// Unloads the first model: the others have callers of their own.
    async fn unload(&self) -> Result<()> {
        self.first.unload().await
    }
}

impl fmt::Debug for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.all().map(|model| &model.info().name).collect();
        f.debug_struct("Fallback").field("models", &names).finish_non_exhaustive()
    }
}

/// What the models that failed say about who may be asked next.
#[derive(Default)]
struct Search {
    /// The last failure is no reason to ask anybody else.
    over: bool,
    /// The prompt is too long for so many tokens of context.
    too_short: Option<usize>,
    /// What became of the others.
    reports: Vec<String>,
}

impl Search {
    fn learn(&mut self, error: &Error, info: &ModelInfo) {
        match (error.code(), error.kind()) {
            ("budget_exceeded" | "budget_unavailable", _) => self.over = true,
            ("context_length_exceeded", _) => self.too_short = self.too_short.max(Some(info.context_length)),
            ("model_not_found" | "model_unavailable" | "out_of_memory", _)
            | (_, ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Full) => {}
            _ => self.over = true,
        }
    }

    /// Whether this model can do what is asked; if not, that is what became of it.
    fn fits(&mut self, request: &ChatRequest, info: &ModelInfo) -> bool {
        if self.too_short >= Some(info.context_length) {
            self.reports.push(format!("{}: its context is no longer", info.name));
            return false;
        }
        let checked = request.check(info);
        if let Err(error) = &checked {
            self.report(info, error);
        }
        checked.is_ok()
    }

    fn report(&mut self, info: &ModelInfo, error: &Error) {
        let report = error.report();
        self.reports.push(if error.subject() == info.name { report } else { format!("{}: {report}", info.name) });
    }

    /// The error of the first model, and what became of the others.
    fn failed(self, asked: &ModelInfo, first: Error) -> Error {
        if self.reports.is_empty() {
            return first;
        }
        let message = format!("neither this model nor another one answers ({})", self.reports.join("; "));
        let error = match first.kind() {
            ErrorKind::Invalid => Error::invalid(message, first.faults().to_vec()),
            kind => Error::new(kind, message),
        };
        let mut error = error.with_code(first.code()).during("chat with").about(&asked.name);
        if let Some(delay) = first.delay() {
            error = error.retry_after(delay);
        }
        error.because(first)
    }
}

fn late(model: &dyn ChatModel) -> Error {
    Error::new(ErrorKind::Timeout, "the caller's deadline came before the answer")
        .during("chat with")
        .about(&model.info().name)
}

#[cfg(test)]
mod tests;
