//! What the tests of the wrappers share: time, an observer that remembers, models that do as they are told, and callers that leave when they like.

use std::{
    collections::VecDeque,
    future::poll_fn,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use proptest::prelude::*;
use sutazai_core::{
    Error, ErrorKind, Result,
    clock::{Clock, Timestamp},
    memory::{Script, ScriptedChat},
    model::{
        ChatEvent, ChatModel, ChatRequest, ChatStream, Finish, ModelCapabilities, ModelInfo, ResponseFormat,
        StopReason, Usage,
    },
};
use tokio::time::Instant;

use super::{breaker::BreakerState, observer::GatewayObserver};

/// A clock that goes by tokio's time and always draws the same number.
pub(super) struct Virtual {
    began: Instant,
    random: u64,
}

impl Virtual {
    pub(super) fn drawing(random: u64) -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), random })
    }
}

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_796_083_200_000).plus(self.began.elapsed())
    }

    fn random(&self) -> u64 {
        self.random
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Runs a story in virtual time.
pub(super) fn paused<T>(story: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(story)
}

/// Remembers what it is told.
#[derive(Default)]
pub(super) struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    /// What it was told since the last time.
    pub(super) fn take(&self) -> Vec<String> {
        mem::take(&mut *lock(&self.0))
    }

    fn note(&self, line: String) {
        lock(&self.0).push(line);
    }
}

impl GatewayObserver for Recorder {
    fn retried(&self, model: &str, attempt: u32) {
        self.note(format!("retried {model} {attempt}"));
    }

    fn breaker(&self, backend: &str, model: &str, state: BreakerState) {
        self.note(format!("{backend} {model} {}", state.as_str()));
    }

    fn fell_back(&self, from: &str, to: &str, code: &'static str) {
        self.note(format!("{from} to {to}: {code}"));
    }
}

pub(super) fn away() -> Error {
    Error::new(ErrorKind::Unavailable, "away").with_code("model_unavailable")
}

/// A model that passes the suite of chat models.
pub(super) fn actor() -> ScriptedChat {
    ScriptedChat::new("actor").otherwise(Script::by(|request| match &request.response_format {
        ResponseFormat::Text => "one two three four five six seven eight nine ten and so on".into(),
        ResponseFormat::Json => r#"{"grass": "green"}"#.into(),
        ResponseFormat::Schema(_) => r#"{"colour": "green", "sure": true}"#.into(),
    }))
}

/// How one call goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Polls before the answer begins or is refused.
    pub(super) waits: usize,
    /// Whether it fails, as its end says, instead of answering.
    pub(super) refused: bool,
    /// Pieces before the end, each after one more poll.
    pub(super) pieces: usize,
    pub(super) end: End,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Finish,
    Error(ErrorKind),
    /// Without its end.
    Silence,
}

impl Plan {
    pub(super) const PLAIN: Self = Self { waits: 1, refused: false, pieces: 2, end: End::Finish };
}

/// A model whose calls go as planned, and plainly after that.
pub(super) struct Planned {
    info: ModelInfo,
    plans: Mutex<VecDeque<Plan>>,
}

impl Planned {
    pub(super) fn new(name: &str, plans: impl IntoIterator<Item = Plan>) -> Self {
        let capabilities = ModelCapabilities { chat: true, ..ModelCapabilities::NONE };
        let info = ModelInfo { capabilities, ..ModelInfo::new(name, "planned", 99) };
        Self { info, plans: Mutex::new(plans.into_iter().collect()) }
    }
}

#[async_trait]
impl ChatModel for Planned {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn chat(&self, _request: ChatRequest) -> Result<ChatStream> {
        let plan = lock(&self.plans).pop_front().unwrap_or(Plan::PLAIN);
        for _ in 0..plan.waits {
            turn().await;
        }
        let end = match plan.end {
            End::Finish => {
                let finish =
                    Finish { stop: StopReason::Stop, usage: Usage::default(), prompt_ms: None, completion_ms: None };
                Some(Ok(ChatEvent::Finish(finish)))
            }
            End::Error(kind) => Some(Err(Error::new(kind, "as planned"))),
            End::Silence => None,
        };
        if plan.refused {
            return Err(end.and_then(Result::err).unwrap_or_else(away));
        }
        let pieces = (0..plan.pieces).map(|_| Ok(ChatEvent::Text("word ".into())));
        let events = stream::iter(pieces.chain(end).collect::<Vec<_>>()).then(async |event| {
            turn().await;
            event
        });
        Ok(ChatStream::new(&self.info, events))
    }
}

/// Lets the next poll go on.
async fn turn() {
    let mut came = false;
    let once = poll_fn(|context| {
        if mem::replace(&mut came, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    });
    once.await;
}

/// Plans of calls that take more than one poll.
pub(super) fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let end = prop_oneof![
        3 => Just(End::Finish),
        3 => Just(End::Error(ErrorKind::Unavailable)),
        1 => Just(End::Error(ErrorKind::Timeout)),
        1 => Just(End::Error(ErrorKind::Invalid)),
        1 => Just(End::Silence),
    ];
    let plan = (1..3_usize, any::<bool>(), 0..3_usize, end);
    prop::collection::vec(plan.prop_map(|(waits, refused, pieces, end)| Plan { waits, refused, pieces, end }), 0..20)
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Move {
    Start,
    Poll(prop::sample::Index),
    Leave(prop::sample::Index),
    Wait,
}

pub(super) fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        2 => Just(Move::Start),
        6 => any::<prop::sample::Index>().prop_map(Move::Poll),
        1 => any::<prop::sample::Index>().prop_map(Move::Leave),
        1 => Just(Move::Wait),
    ];
    prop::collection::vec(one, 0..100)
}

/// Somebody who asks a model, goes on when polled, and may leave at any point by being dropped.
pub(super) enum Caller {
    Calling(BoxFuture<'static, Result<ChatStream>>),
    Listening(ChatStream),
    Done,
}

impl Caller {
    /// Asks, and polls once.
    pub(super) fn start(model: Arc<impl ChatModel>) -> Self {
        let mut caller = Self::Calling(async move { model.chat(ChatRequest::ask("x")).await }.boxed());
        caller.poll();
        caller
    }

    pub(super) fn poll(&mut self) {
        *self = match mem::replace(self, Self::Done) {
            Self::Calling(mut call) => match call.as_mut().now_or_never() {
                None => Self::Calling(call),
                Some(Ok(answer)) => Self::Listening(answer),
                Some(Err(_)) => Self::Done,
            },
            Self::Listening(mut answer) => {
                let event = answer.next().now_or_never();
                match event {
                    None | Some(Some(Ok(ChatEvent::Text(_)))) => Self::Listening(answer),
                    Some(_) => Self::Done,
                }
            }
            Self::Done => Self::Done,
        }
    }

    /// Whether neither the call nor the answer has ended.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self, Self::Done)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
