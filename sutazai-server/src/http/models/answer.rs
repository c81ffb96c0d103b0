//! An answer up to its end.

use std::{pin::pin, time::Instant};

use futures_util::{Stream, StreamExt, stream};
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatEvent, ChatStream, Finish, ToolCall},
};
use tokio_util::sync::CancellationToken;

/// The events of an answer. The last one is its end or an error, which it is too if `closing` is cancelled before. Dropping it ends the generation.
pub(super) fn events(
    stream: ChatStream,
    closing: CancellationToken,
) -> impl Stream<Item = Result<ChatEvent>> + Send + 'static {
    stream::unfold(Some((stream, closing)), |open| async move {
        let (mut stream, closing) = open?;
        let event = tokio::select! {
            biased;
            event = stream.next() => event.unwrap_or_else(|| Err(broken_off())),
            () = closing.cancelled() => Err(shutting_down()),
        };
        let goes_on = !matches!(event, Err(_) | Ok(ChatEvent::Finish(_)));
        Some((event, goes_on.then_some((stream, closing))))
    })
}

/// A whole answer.
#[derive(Debug)]
pub(in crate::http) struct Whole {
    /// The text.
    pub(in crate::http) text: String,
    /// What the model thought before.
    pub(in crate::http) thinking: String,
    /// The tools that it wants called.
    pub(in crate::http) calls: Vec<ToolCall>,
    /// How it ended.
    pub(in crate::http) finish: Finish,
    /// When its first piece came.
    pub(in crate::http) first: Instant,
}

impl Whole {
    /// Reads an answer to its end.
    pub(super) async fn of(stream: ChatStream, closing: CancellationToken) -> Result<Self> {
        let mut events = pin!(events(stream, closing));
        let (mut text, mut thinking, mut calls) = (String::new(), String::new(), Vec::new());
        let mut first = None;
        while let Some(event) = events.next().await {
            let first = *first.get_or_insert_with(Instant::now);
            match event? {
                ChatEvent::Text(piece) => text.push_str(&piece),
                ChatEvent::Thinking(piece) => thinking.push_str(&piece),
                ChatEvent::ToolCall(call) => calls.push(call),
                ChatEvent::Finish(finish) => return Ok(Self { text, thinking, calls, finish, first }),
            }
        }
        Err(broken_off())
    }
}

fn broken_off() -> Error {
    Error::new(ErrorKind::Unavailable, "the answer broke off").with_code("model_unavailable")
}

pub(super) fn shutting_down() -> Error {
    Error::new(ErrorKind::Unavailable, "the server is shutting down").with_code("shutting_down")
}

#[cfg(test)]
mod tests {
    use sutazai_core::{
        memory::{Script, ScriptedChat},
        model::{ChatModel, ChatRequest, ModelInfo},
    };

    use super::*;

    async fn asked(script: impl Into<Script>) -> ChatStream {
        ScriptedChat::new("actor").otherwise(script).chat(ChatRequest::ask("x")).await.unwrap()
    }

    #[tokio::test]
    async fn an_answer_ends_once() {
        let whole = Whole::of(asked("to be or not").await, CancellationToken::new()).await.unwrap();
        assert_eq!((&*whole.text, whole.finish.usage.completion_tokens), ("to be or not", 4));
        let broken = ChatStream::new(&ModelInfo::new("a", "b", 1), stream::iter([Ok(ChatEvent::Text("half".into()))]));
        let all: Vec<_> = events(broken, CancellationToken::new()).collect().await;
        assert_eq!(all.len(), 2);
        assert_eq!(all[1].as_ref().unwrap_err().code(), "model_unavailable");
    }

    #[tokio::test]
    async fn the_end_of_the_server_is_the_end_of_an_answer() {
        let never = ChatStream::new(&ModelInfo::new("a", "b", 1), stream::pending());
        let closing = CancellationToken::new();
        closing.cancel();
        assert_eq!(Whole::of(never, closing).await.unwrap_err().code(), "shutting_down");
    }
}
