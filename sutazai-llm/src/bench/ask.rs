//! One question to a model, timed.

use std::time::Duration;

use futures_util::StreamExt;
use sutazai_core::{
    Error, ErrorKind, Result,
    clock::Clock,
    model::{Caching, ChatEvent, ChatModel, ChatRequest, Finish, ModelInfo, Sampling},
};

/// A whole answer and when it came.
#[derive(Debug)]
pub(super) struct Timed {
    /// The text, without what was thought before it.
    pub(super) text: String,
    /// From the question to the first piece, of text or of thought.
    pub(super) first: Option<Duration>,
    /// From the question to the end.
    pub(super) whole: Duration,
    pub(super) finish: Finish,
}

/// A question that is answered the same way each time where the model can, by the model itself and not from a cache, and without thinking aloud.
pub(super) fn request(info: &ModelInfo, question: impl Into<String>, max_tokens: u32) -> ChatRequest {
    ChatRequest {
        sampling: Sampling::GREEDY,
        max_tokens: Some(max_tokens),
        think: info.capabilities.thinking.then_some(false),
        caching: Caching::Off,
        ..ChatRequest::ask(question)
    }
}

/// Asks, and reads the answer to its end.
pub(super) async fn ask(model: &dyn ChatModel, request: ChatRequest, clock: &dyn Clock) -> Result<Timed> {
    let began = clock.elapsed();
    let since = || clock.elapsed().saturating_sub(began);
    let mut events = model.chat(request).await?;
    let (mut text, mut first) = (String::new(), None);
    while let Some(event) = events.next().await {
        match event? {
            ChatEvent::Finish(finish) => return Ok(Timed { text, first, whole: since(), finish }),
            ChatEvent::Text(piece) => {
                first.get_or_insert_with(since);
                text.push_str(&piece);
            }
            ChatEvent::Thinking(_) | ChatEvent::ToolCall(_) => {
                first.get_or_insert_with(since);
            }
        }
    }
    let broken = Error::new(ErrorKind::Unavailable, "the answer broke off").with_code("model_unavailable");
    Err(broken.during("bench").about(&model.info().name))
}
