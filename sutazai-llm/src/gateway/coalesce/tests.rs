//! Many callers of one model.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::{join, join_all};
use sutazai_core::{
    memory::{Script, ScriptedChat},
    model::{Caching, Caller, ChatModelExt, Sampling},
    task::Priority,
};
use tokio::time::timeout;

use super::*;
use crate::gateway::{
    fake::{self, Plan, Planned},
    observer::Unobserved,
};

const SECOND: Duration = Duration::from_secs(1);

/// Counts those who joined a call.
#[derive(Debug, Default)]
struct Joined(AtomicUsize);

impl Joined {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl GatewayObserver for Joined {
    fn coalesced(&self, model: &str) {
        assert_eq!(model, "actor");
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn bench(model: ScriptedChat) -> (Arc<ScriptedChat>, Arc<Joined>, Coalesce) {
    let (model, joined) = (Arc::new(model), Arc::new(Joined::default()));
    let inner: Arc<dyn ChatModel> = Arc::<ScriptedChat>::clone(&model);
    let observer: Arc<dyn GatewayObserver> = Arc::<Joined>::clone(&joined);
    (model, joined, Coalesce::new(inner, observer))
}

/// Says three words, a second before each, after one second.
fn slow() -> ScriptedChat {
    ScriptedChat::new("actor").otherwise(Script::text("one two three").after(SECOND).pausing(SECOND))
}

fn greedy(question: &str) -> ChatRequest {
    ChatRequest { sampling: Sampling::GREEDY, ..ChatRequest::ask(question) }
}

async fn events(model: &dyn ChatModel, request: ChatRequest) -> Vec<ChatEvent> {
    model.chat(request).await.unwrap().map(Result::unwrap).collect().await
}

/// Lets the runtime do what it has to do.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

sutazai_core::chat_conformance!(Coalesce::new(Arc::new(fake::actor()), Arc::new(Unobserved)));

#[tokio::test(start_paused = true)]
async fn who_asks_the_same_at_the_same_time_shares_one_call() {
    let (model, joined, calls) = bench(slow());
    let answers = join_all((0..5).map(|_| events(&calls, greedy("x")))).await;
    assert_eq!(answers[0].len(), 4);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!((model.requests().len(), joined.take()), (1, 4));
    assert_eq!(events(&calls, greedy("x")).await, answers[0]);
    assert_eq!((model.requests().len(), joined.take()), (2, 0), "what has ended is not joined");
    assert!(lock(&calls.flights).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_cache_may_not_answer_is_asked_alone() {
    let (model, joined, calls) = bench(slow());
    let warm = || ChatRequest::ask("x");
    let alone = || ChatRequest { caching: Caching::Off, ..greedy("x") };
    let of = |tenant: &str| {
        let caller = Caller { tenant: Some(tenant.into()), ..Caller::default() };
        ChatRequest { caller, ..greedy("x") }
    };
    let asked = [warm(), warm(), alone(), alone(), of("a"), of("b"), greedy("y")];
    join_all(asked.map(|request| events(&calls, request))).await;
    assert_eq!((model.requests().len(), joined.take()), (7, 0));
    let aged = || ChatRequest { caching: Caching::MaxAge(Duration::ZERO), ..ChatRequest::ask("x") };
    join_all([aged(), aged()].map(|request| events(&calls, request))).await;
    assert_eq!((model.requests().len(), joined.take()), (8, 1));
}

#[tokio::test(start_paused = true)]
async fn the_first_one_s_caller_makes_the_call() {
    let (model, _, calls) = bench(slow());
    let by = |agent: &str, priority| {
        let caller = Caller { agent: Some(agent.into()), priority, ..Caller::default() };
        ChatRequest { caller, ..greedy("x") }
    };
    join(events(&calls, by("first", Priority::default())), events(&calls, by("second", Priority::MAX))).await;
    let callers: Vec<_> = model.requests().into_iter().map(|request| request.caller).collect();
    assert_eq!(callers, [by("first", Priority::default()).caller]);
}

#[tokio::test(start_paused = true)]
async fn who_comes_late_misses_nothing_and_who_is_slow_delays_nobody() {
    let (model, joined, calls) = bench(slow());
    let began = tokio::time::Instant::now();
    let mut first = calls.chat(greedy("x")).await.unwrap();
    first.next().await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 2);
    let late = events(&calls, greedy("x")).await;
    assert_eq!((late.len(), began.elapsed().as_secs()), (4, 5), "nobody waits for the first one");
    assert_eq!((model.requests().len(), joined.take()), (1, 1));
    let rest: Vec<_> = first.map(Result::unwrap).collect().await;
    assert_eq!(rest, late[1..]);
}

#[tokio::test(start_paused = true)]
async fn the_call_goes_on_for_those_who_stay() {
    let (model, _, calls) = bench(slow());
    let (left, stayed) = join(timeout(SECOND / 2, calls.chat(greedy("x"))), calls.complete(greedy("x"))).await;
    assert!(left.is_err(), "it left before the answer began");
    assert_eq!(stayed.unwrap().text, "one two three");
    let mut first = calls.chat(greedy("x")).await.unwrap();
    let second = calls.chat(greedy("x")).await.unwrap();
    first.next().await.unwrap().unwrap();
    drop(first);
    assert_eq!(second.collect::<Vec<_>>().await.len(), 4);
    assert_eq!(model.requests().len(), 2);
}

/// Never comes to an end, and counts the calls it began and those that were given up.
struct Endless {
    info: ModelInfo,
    silent: bool,
    begun: AtomicUsize,
    given_up: Arc<AtomicUsize>,
}

struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl ChatModel for Endless {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn chat(&self, _: ChatRequest) -> Result<ChatStream> {
        let guard = Guard(Arc::clone(&self.given_up));
        self.begun.fetch_add(1, Ordering::SeqCst);
        if self.silent {
            std::future::pending::<()>().await;
        }
        let word = stream::iter([Ok(ChatEvent::Text("word ".into()))]);
        let events = word.chain(stream::pending()).inspect(move |_| {
            let _ = &guard;
        });
        Ok(ChatStream::new(&self.info, events))
    }
}

/// Listens for so long, and leaves.
async fn listen(calls: &Coalesce, time: Duration) {
    let listening = async {
        let mut answer = calls.chat(greedy("x")).await.unwrap();
        while answer.next().await.is_some() {}
    };
    timeout(time, listening).await.unwrap_err();
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn with_the_last_one_the_call_is_cancelled() {
    for silent in [true, false] {
        let given_up = Arc::new(AtomicUsize::new(0));
        let info = ModelInfo::new("actor", "endless", 8192);
        let model = Arc::new(Endless { info, silent, begun: AtomicUsize::new(0), given_up });
        let inner: Arc<dyn ChatModel> = Arc::<Endless>::clone(&model);
        let calls = Coalesce::new(inner, Arc::new(Unobserved));
        let counts = || (model.begun.load(Ordering::SeqCst), model.given_up.load(Ordering::SeqCst));
        let first = async {
            listen(&calls, SECOND).await;
            counts()
        };
        let last = async {
            listen(&calls, SECOND * 2).await;
            counts()
        };
        assert_eq!(join(first, last).await, ((1, 0), (1, 1)));
        listen(&calls, SECOND).await;
        assert_eq!(counts(), (2, 2), "what was cancelled is not joined");
        assert!(lock(&calls.flights).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_reaches_everybody() {
    let full = || Error::new(ErrorKind::Full, "the queue is full").with_code("queue_full").retry_after(SECOND);
    let model = ScriptedChat::new("actor")
        .reply(Script::error(full).after(SECOND))
        .reply(Script::text("one two").after(SECOND).breaking_off(full));
    let (model, _, calls) = bench(model);
    for _ in 0..2 {
        for answer in join_all((0..3).map(|_| calls.complete(greedy("x")))).await {
            let error = answer.unwrap_err();
            assert_eq!((error.kind(), error.code(), error.delay()), (ErrorKind::Full, "queue_full", Some(SECOND)));
        }
    }
    assert_eq!(model.requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_refused_for_another_s_budget() {
    for code in ["budget_exceeded", "budget_unavailable"] {
        let beyond = move || Error::new(ErrorKind::Conflict, "beyond the budget of task 1").with_code(code);
        let model = ScriptedChat::new("actor").reply(Script::error(beyond).after(SECOND)).otherwise("Yes.");
        let (model, joined, calls) = bench(model);
        let by = |agent: &str| {
            let caller = Caller { agent: Some(agent.into()), ..Caller::default() };
            ChatRequest { caller, ..greedy("x") }
        };
        let (first, second) = join(calls.complete(by("first")), calls.complete(by("second"))).await;
        assert_eq!((first.unwrap_err().code(), second.unwrap().text.as_str()), (code, "Yes."));
        let callers: Vec<_> = model.requests().into_iter().map(|request| request.caller).collect();
        assert_eq!((callers, joined.take()), (vec![by("first").caller, by("second").caller], 1));
        assert!(lock(&calls.flights).is_empty());
    }
}

#[tokio::test]
async fn what_breaks_off_breaks_off_for_everybody() {
    let plan = Plan { pieces: 1, end: fake::End::Silence, ..Plan::PLAIN };
    let calls = Coalesce::new(Arc::new(Planned::new("mute", [plan])), Arc::new(Unobserved));
    let (first, second) = join(events(&calls, greedy("x")), events(&calls, greedy("x"))).await;
    assert_eq!((first.len(), second.len()), (1, 1));
}

/// Panics at once or after a word.
struct Panics {
    info: ModelInfo,
    late: bool,
}

#[async_trait]
impl ChatModel for Panics {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn chat(&self, _: ChatRequest) -> Result<ChatStream> {
        assert!(self.late, "a panic that was asked for");
        let events = stream::iter([Ok(ChatEvent::Text("word ".into())), Err(fake::away())]);
        let events = events.inspect(|event| assert!(event.is_ok(), "a panic that was asked for"));
        Ok(ChatStream::new(&self.info, events))
    }
}

#[tokio::test]
async fn a_panic_of_the_model_s_hangs_nobody() {
    for late in [false, true] {
        let info = ModelInfo::new("actor", "panics", 8192);
        let calls = Coalesce::new(Arc::new(Panics { info, late }), Arc::new(Unobserved));
        for _ in 0..2 {
            for answer in join_all((0..3).map(|_| calls.complete(greedy("x")))).await {
                assert_eq!(answer.unwrap_err().kind(), ErrorKind::Internal);
            }
            assert!(lock(&calls.flights).is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_lost_in_a_crowd_that_comes_and_goes() {
    // Each answer has two words and its end.
    let calls = Arc::new(Coalesce::new(Arc::new(Planned::new("actor", [])), Arc::new(Unobserved)));
    let callers = (0..2_000_usize).map(|number| {
        let calls = Arc::clone(&calls);
        tokio::spawn(async move {
            let mut answer = calls.chat(greedy(&(number % 3).to_string())).await.unwrap();
            let (mut read, most) = (0, number % 5);
            while read < most
                && let Some(event) = answer.next().await
            {
                event.unwrap();
                read += 1;
            }
            assert_eq!(read, most.min(3));
        })
    });
    for caller in timeout(SECOND * 60, join_all(callers)).await.unwrap() {
        caller.unwrap();
    }
}
