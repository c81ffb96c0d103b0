//! An answer up to its end.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt, stream};
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatEvent, ChatStream, Finish, ToolCall},
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Events of an answer that wait for their reader at most.
const AHEAD: usize = 16;

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
        let goes_on = !is_last(&event);
        Some((event, goes_on.then_some((stream, closing))))
    })
}

/// The same events, whose last is the end or an error. If none of them is taken for longer than `limit` the answer is dropped, and with it the model's turn:
/// what had come already is followed by an error. Dropping the events drops the answer as well.
pub(super) fn bounded(
    events: impl Stream<Item = Result<ChatEvent>> + Send + 'static,
    limit: Duration,
) -> impl Stream<Item = Result<ChatEvent>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let reading = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut events = Box::pin(events);
        while let Some(event) = events.next().await {
            if is_last(&event) {
                // The model's turn is over, and the end waits for its reader for as long as that one is there.
                drop(events);
                let _ = sender.send(event).await;
                return;
            }
            if sender.send_timeout(event, limit).await.is_err() {
                return;
            }
        }
    }));
    stream::unfold(Some((receiver, reading)), move |open| async move {
        let (mut receiver, reading) = open?;
        let Some(event) = receiver.recv().await else {
            let why = if reading.await.is_ok() { unread(limit) } else { broken_off() };
            return Some((Err(why), None));
        };
        let goes_on = !is_last(&event);
        Some((event, goes_on.then_some((receiver, reading))))
    })
}

fn is_last(event: &Result<ChatEvent>) -> bool {
    matches!(event, Err(_) | Ok(ChatEvent::Finish(_)))
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

fn unread(limit: Duration) -> Error {
    let message = format!("the answer was not read for {} s", limit.as_secs());
    Error::new(ErrorKind::Timeout, message).with_code("model_timeout")
}

pub(super) fn shutting_down() -> Error {
    Error::new(ErrorKind::Unavailable, "the server is shutting down").with_code("shutting_down")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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

    /// An answer of so many pieces, and what tells that it is still there.
    fn pieces(count: usize) -> (impl Stream<Item = Result<ChatEvent>> + Send + 'static, Arc<()>) {
        let here = Arc::new(());
        let guard = Arc::clone(&here);
        let events = stream::iter(0..count).map(move |piece| {
            let _guard = &guard;
            Ok(ChatEvent::Text(piece.to_string()))
        });
        (events, here)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_read_is_dropped_and_says_so() {
        let limit = Duration::from_secs(30);
        let (events, here) = pieces(1_000);
        let mut bounded = Box::pin(bounded(events, limit));
        assert_eq!(bounded.next().await.unwrap().unwrap(), ChatEvent::Text("0".into()));
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert_eq!(Arc::strong_count(&here), 2);
        assert_eq!(bounded.next().await.unwrap().unwrap(), ChatEvent::Text("1".into()));
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert_eq!(Arc::strong_count(&here), 2, "it is read, however slowly");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(Arc::strong_count(&here), 1);
        let rest: Vec<_> = bounded.collect().await;
        let (last, before) = rest.split_last().unwrap();
        assert!(before.len() >= AHEAD - 1 && before.len() <= AHEAD && before.iter().all(Result::is_ok), "{rest:?}");
        let error = last.as_ref().unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Timeout, "model_timeout"));
        assert!(error.to_string().contains("not read"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_read_comes_whole_and_ends_with_its_reader() {
        let limit = Duration::from_secs(30);
        let whole: Vec<_> =
            bounded(events(asked("to be or not").await, CancellationToken::new()), limit).collect().await;
        assert!(whole.len() == 5 && matches!(whole[4], Ok(ChatEvent::Finish(_))), "{whole:?}");
        let slow = ScriptedChat::new("actor").otherwise(Script::text("one two").pausing(Duration::from_secs(100)));
        let slow = slow.chat(ChatRequest::ask("x")).await.unwrap();
        assert_eq!(bounded(slow, limit).collect::<Vec<_>>().await.len(), 3, "who waits for the model reads");
        let (events, here) = pieces(1_000);
        drop(bounded(events, limit));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(Arc::strong_count(&here), 1);
    }
}
