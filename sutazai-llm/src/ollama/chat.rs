//! `OllamaChat`: chat with a model that an Ollama serves.

use std::{collections::VecDeque, pin::Pin};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt, stream};
use sutazai_core::{
    Error, Result,
    model::{ChatEvent, ChatModel, ChatRequest, ChatStream, ModelInfo},
};

use super::{
    client::OllamaClient,
    wire::{ChatReader, Lines, chat_body, unavailable},
};

/// Tokens of context where nobody asks for more: what a machine without a large GPU holds.
const CONTEXT: usize = 4096;

/// A chat model that an Ollama serves.
#[derive(Clone, Debug)]
pub struct OllamaChat {
    client: OllamaClient,
    info: ModelInfo,
}

impl OllamaChat {
    /// Asks the server what `model` can do; code `model_not_found` if it does not hold it.
    ///
    /// `context` is the number of tokens that the server is told to make room for, 4096 if not given, and never more than the model has. It is the
    /// same in every call, since the server reloads a model that is asked for with another one.
    pub async fn connect(client: OllamaClient, model: &str, context: Option<usize>) -> Result<Self> {
        let info = client.show(model).await?.info(model, context.unwrap_or(CONTEXT));
        Ok(Self { client, info })
    }
}

#[async_trait]
impl ChatModel for OllamaChat {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        self.client.show(&self.info.name).await.map(drop)
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        request.check(&self.info)?;
        let body = chat_body(&self.info.name, &request, self.info.context_length);
        let response = self.client.send(self.client.post("api/chat", &body)?, Some(&self.info.name)).await?;
        let client = self.client.clone();
        let bytes = response.bytes_stream().map(move |piece| piece.map_err(|error| client.unreachable(error)));
        Ok(events(bytes))
    }
}

struct Answer {
    bytes: Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>,
    lines: Lines,
    reader: ChatReader,
    events: VecDeque<ChatEvent>,
    /// What ends the answer after those events.
    failure: Option<Error>,
    open: bool,
}

/// The events of an answer, as its bytes arrive. Dropping it closes the connection, which makes the server stop.
fn events(bytes: impl Stream<Item = Result<Bytes>> + Send + 'static) -> ChatStream {
    let answer = Answer {
        bytes: Box::pin(bytes),
        lines: Lines::default(),
        reader: ChatReader::default(),
        events: VecDeque::new(),
        failure: None,
        open: true,
    };
    Box::pin(stream::unfold(answer, |mut answer| async move {
        let event = answer.next().await?;
        answer.open &= !matches!(event, Err(_) | Ok(ChatEvent::Finish(_)));
        Some((event, answer))
    }))
}

impl Answer {
    async fn next(&mut self) -> Option<Result<ChatEvent>> {
        while self.open {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            if let Some(error) = self.failure.take() {
                return Some(Err(error));
            }
            let lines = match self.bytes.next().await {
                Some(Ok(piece)) => self.lines.push(&piece),
                Some(Err(error)) => Err(error),
                None => self
                    .lines
                    .rest()
                    .map(|line| vec![line])
                    .ok_or_else(|| unavailable("the answer of Ollama broke off")),
            };
            let read = lines.and_then(|lines| {
                lines.iter().try_for_each(|line| self.reader.read(line).map(|events| self.events.extend(events)))
            });
            self.failure = read.err();
        }
        None
    }
}
