//! Following one task or all: server-sent events, taken up again where a connection broke.

use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt, future};
use reqwest::{Method, StatusCode, header::ACCEPT};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    io::StreamReader,
};

use super::{Client, segment};
use crate::process::{Exit, Failure};

/// How long a server may stay away before following it is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a stream may be silent; a server that lives sends a comment every 10 s.
const SILENCE: Duration = Duration::from_secs(30);
/// How long is waited before asking again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The longest event: a server's largest payload is below it.
const LONGEST_LINE: usize = 32 << 20;

/// One event of a task, in its own stream or in that of all tasks.
#[derive(Clone, Debug, Deserialize)]
pub struct TaskEvent {
    /// Its number in the stream.
    pub seq: u64,
    /// What happened, such as `task.running`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When.
    pub at: String,
    /// The details of its kind.
    pub data: Value,
    /// The whole document as it came.
    #[serde(skip)]
    pub text: String,
}

impl TaskEvent {
    /// Whether nothing follows it, unless the task is requeued.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self.kind.as_str(), "task.completed" | "task.failed" | "task.cancelled" | "task.discarded")
    }

    /// The whole document, with what only some streams tell.
    #[must_use]
    pub fn document(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default() // it was read from this text
    }
}

impl Client {
    /// Hands each event of a task to `each`, from the first to the one that ends it and that nothing follows. A server that goes away or falls silent has 30 s
    /// to come back, and no event is missed or comes twice for that.
    pub async fn follow(&self, id: &str, each: impl FnMut(&TaskEvent) -> Result<(), Failure>) -> Result<(), Failure> {
        self.stream(&format!("/api/v1/tasks/{}/events", segment(id)), 0, TaskEvent::is_terminal, each).await
    }

    /// Hands each event of all tasks after number `after` to `each`, without end: it returns when the server stays away for 30 s, or `each` fails.
    pub async fn follow_all(
        &self,
        after: u64,
        each: impl FnMut(&TaskEvent) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.stream("/api/v1/events", after, |_| false, each).await
    }

    /// Events after number `last`, until the server ends the stream after one that `is_last`.
    async fn stream(
        &self,
        path: &str,
        mut last: u64,
        is_last: impl Fn(&TaskEvent) -> bool,
        mut each: impl FnMut(&TaskEvent) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (mut heard, mut over) = (false, false);
        let (mut since, mut pause) = (None, FIRST_PAUSE);
        loop {
            let outcome = timeout(SILENCE, self.events(path, last)).await.unwrap_or_else(|_| Err(self.silent()));
            let failure = match outcome {
                Ok(events) => {
                    let mut events = std::pin::pin!(events);
                    loop {
                        match timeout(SILENCE, events.next()).await {
                            Ok(Some(Ok(sign))) => {
                                (heard, since, pause) = (true, None, FIRST_PAUSE);
                                let Some(event) = sign else { continue };
                                (last, over) = (event.seq, is_last(&event));
                                each(&event)?;
                            }
                            Ok(None) if over => return Ok(()),
                            // Anything else, such as a cut connection or silence, is answered by asking again.
                            _ => break,
                        }
                    }
                    self.silent()
                }
                Err(failure) if failure.exit() != Exit::Unreachable || !heard => return Err(failure),
                Err(failure) => failure,
            };
            if since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn silent(&self) -> Failure {
        Failure::new(Exit::Unreachable, format!("the server at {} says nothing any more", self.base())).hint(
            "tasks go on without you; `sutazai-server tasks get ID` shows one, `events --after NUMBER` what happened",
        )
    }

    /// The events after number `after` that one connection gives; `None` stands for a sign of life between them.
    async fn events(
        &self,
        path: &str,
        after: u64,
    ) -> Result<impl Stream<Item = Result<Option<TaskEvent>, std::io::Error>> + use<>, Failure> {
        let request = self.request(Method::GET, path).header(ACCEPT, "text/event-stream");
        let sent = request.header("last-event-id", after).send().await;
        if let Ok(answer) = &sent
            && answer.status() == StatusCode::SERVICE_UNAVAILABLE
        {
            // It is about to end; another one may take its place.
            return Err(self.silent());
        }
        let answer = self.checked(sent).await?;
        let bytes = StreamReader::new(answer.bytes_stream().map_err(std::io::Error::other));
        let lines =
            FramedRead::new(bytes, LinesCodec::new_with_max_length(LONGEST_LINE)).map_err(std::io::Error::other);
        Ok(documents(lines).and_then(|text| future::ready(text.map(read).transpose())))
    }
}

fn read(text: String) -> Result<TaskEvent, std::io::Error> {
    let event: TaskEvent = serde_json::from_str(&text).map_err(std::io::Error::other)?;
    Ok(TaskEvent { text, ..event })
}

/// The `data` of each event (WHATWG HTML, § 9.2.6); names and numbers stand in our documents too. A comment is `None`.
fn documents<E>(lines: impl Stream<Item = Result<String, E>>) -> impl Stream<Item = Result<Option<String>, E>> {
    let folded = lines.scan(None::<String>, |data, line| {
        let done = match line {
            Err(error) => Some(Err(error)),
            Ok(line) if line.is_empty() => data.take().map(|text| Ok(Some(text))),
            Ok(line) if line.starts_with(':') => Some(Ok(None)),
            Ok(line) => {
                if let Some(more) = line.strip_prefix("data:") {
                    let more = more.strip_prefix(' ').unwrap_or(more);
                    *data = Some(data.take().map_or_else(|| more.to_owned(), |text| text + "\n" + more));
                }
                None
            }
        };
        future::ready(Some(done))
    });
    folded.filter_map(future::ready)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn events_are_read_and_comments_are_signs_of_life() {
        let text =
            ": hello\n\nid: 1\nevent: task.created\ndata: {\"a\":\ndata:1}\n\nretry: 5\n\n:\ndata: 2\n\ndata: cut off";
        let lines = stream::iter(text.lines().map(|line| Ok::<_, std::io::Error>(line.to_owned())));
        let found: Vec<_> = documents(lines).try_collect().await.unwrap();
        assert_eq!(found, [None, Some("{\"a\":\n1}".to_owned()), None, Some("2".to_owned())]);
    }
}
