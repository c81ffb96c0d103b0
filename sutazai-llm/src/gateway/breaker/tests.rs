//! What a breaker counts, when it refuses, and that it is never left without a place for the call that tries, in virtual time.

use proptest::prelude::*;
use sutazai_core::{
    memory::{Script, ScriptedChat},
    model::{Caller, ChatModelExt},
};
use tokio::time::advance;

use super::*;
use crate::gateway::{
    admission::{Admission, AdmissionConfig},
    fake::{Caller as Fake, Move, Planned, Recorder, Virtual, actor, away, moves, paused, plans},
    observer::Unobserved,
};

sutazai_core::chat_conformance!(breaker(actor()).0);

const CONFIG: BreakerConfig =
    BreakerConfig { failures: 2, pause: Duration::from_secs(10), max_pause: Duration::from_secs(30) };

fn breaker(inner: impl ChatModel) -> (Breaker, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    (Breaker::new(Arc::new(inner), CONFIG, Virtual::drawing(0), recorder.clone()).unwrap(), recorder)
}

async fn ask(breaker: &Breaker) -> Result<String> {
    breaker.complete(ChatRequest::ask("x")).await.map(|reply| reply.text)
}

/// A breaker that two failures have opened; then the model says what `script` says.
async fn opened(script: impl Into<Script>) -> (Breaker, Arc<Recorder>) {
    let model = ScriptedChat::new("actor").reply(Script::error(away)).reply(Script::error(away)).otherwise(script);
    let (breaker, recorder) = breaker(model);
    for _ in 0..2 {
        ask(&breaker).await.unwrap_err();
    }
    assert_eq!(recorder.take(), ["scripted actor open"]);
    (breaker, recorder)
}

async fn pass(seconds: u64) {
    advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn open_it_refuses_without_asking_and_says_for_how_long() {
    let (breaker, _) = opened("here").await;
    pass(3).await;
    let error = ask(&breaker).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "model_unavailable"));
    assert_eq!((error.delay(), error.subject()), (Some(Duration::from_secs(7)), "actor"));
    assert_eq!(breaker.ready().await.unwrap_err().delay(), Some(Duration::from_secs(7)));
    pass(7).await;
    breaker.ready().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_call_tries_and_its_finish_closes() {
    let (breaker, recorder) = opened("here I am").await;
    pass(10).await;
    let mut answer = breaker.chat(ChatRequest::ask("x")).await.unwrap();
    assert!(answer.next().await.unwrap().is_ok());
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    ask(&breaker).await.unwrap_err();
    while answer.next().await.is_some() {}
    assert_eq!(breaker.state(), BreakerState::Closed);
    assert_eq!(ask(&breaker).await.unwrap(), "here I am");
    assert_eq!(recorder.take(), ["scripted actor half_open", "scripted actor closed"]);
}

#[tokio::test(start_paused = true)]
async fn the_failure_of_the_call_that_tries_opens_it_for_longer() {
    let (breaker, recorder) = opened(Script::text("half ").breaking_off(away)).await;
    for pause in [10, 20, 30, 30] {
        assert_eq!(ask(&breaker).await.unwrap_err().delay(), Some(Duration::from_secs(pause)));
        pass(pause).await;
        ask(&breaker).await.unwrap_err();
        assert_eq!(recorder.take(), ["scripted actor half_open", "scripted actor open"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_tries_and_is_dropped_makes_way() {
    let (breaker, _) = opened(Script::text("here I am").after(Duration::from_secs(5))).await;
    pass(10).await;
    let early = tokio::time::timeout(Duration::from_secs(1), breaker.chat(ChatRequest::ask("x"))).await;
    assert!(early.is_err(), "dropped before the answer");
    drop(breaker.chat(ChatRequest::ask("x")).await.unwrap());
    let mut late = breaker.chat(ChatRequest::ask("x")).await.unwrap();
    assert!(late.next().await.unwrap().is_ok());
    drop(late);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert_eq!(ask(&breaker).await.unwrap(), "here I am");
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn what_fails_in_the_middle_counts() {
    let (breaker, _) = breaker(ScriptedChat::new("actor").otherwise(Script::text("half ").breaking_off(away)));
    ask(&breaker).await.unwrap_err();
    assert_eq!(breaker.state(), BreakerState::Closed);
    ask(&breaker).await.unwrap_err();
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_about_the_backend_does_not_count() {
    let kinds =
        [ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Full, ErrorKind::Cancelled, ErrorKind::Unsupported];
    for kind in kinds {
        let fail = move || Error::new(kind, "no");
        let (breaker, _) = breaker(ScriptedChat::new("actor").otherwise(Script::error(fail)));
        for _ in 0..9 {
            assert_eq!(ask(&breaker).await.unwrap_err().kind(), kind);
        }
        assert_eq!(breaker.state(), BreakerState::Closed, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_counts_unless_it_is_the_caller_s_own() {
    let late = || Error::new(ErrorKind::Timeout, "too late");
    let slow = || ScriptedChat::new("actor").otherwise(Script::error(late).after(Duration::from_secs(5)));
    for (limit, state) in [(None, BreakerState::Open), (Some(5), BreakerState::Closed), (Some(60), BreakerState::Open)]
    {
        let clock = Virtual::drawing(0);
        let breaker = Breaker::new(Arc::new(slow()), CONFIG, clock.clone(), Arc::new(Recorder::default())).unwrap();
        for _ in 0..2 {
            let deadline = limit.map(|limit| clock.now().plus(Duration::from_secs(limit)));
            let caller = Caller { deadline, ..Caller::default() };
            breaker.complete(ChatRequest { caller, ..ChatRequest::ask("x") }).await.unwrap_err();
        }
        assert_eq!(breaker.state(), state, "{limit:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_its_caller_did_not_read_does_not_count() {
    let config = AdmissionConfig { unread: Some(Duration::from_secs(1)), ..AdmissionConfig::default() };
    let admission = Admission::new("test", config, Arc::new(Unobserved)).unwrap();
    let (breaker, _) = breaker(admission.chat(Arc::new(actor())));
    for _ in 0..9 {
        let mut answer = breaker.chat(ChatRequest::ask("x")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let error = answer.next().await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Timeout, "model_timeout"));
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let config = BreakerConfig { failures: 0, pause: Duration::ZERO, max_pause: Duration::ZERO };
    assert_eq!(config.check().unwrap_err().faults().len(), 2);
    let config = BreakerConfig { max_pause: Duration::from_secs(1), ..BreakerConfig::default() };
    assert_eq!(config.check().unwrap_err().faults()[0].path, "/max_pause");
    BreakerConfig::default().check().unwrap();
}

proptest! {
    /// Whoever leaves whenever, the next call after the longest pause is let through.
    #[test]
    fn no_call_that_is_dropped_keeps_the_place(moves in moves(), plans in plans()) {
        paused(async {
            let breaker = Arc::new(breaker(Planned::new("actor", plans)).0);
            let mut callers: Vec<Fake> = Vec::new();
            for step in moves {
                match step {
                    Move::Start => callers.push(Fake::start(breaker.clone())),
                    Move::Poll(at) if !callers.is_empty() => {
                        let at = at.index(callers.len());
                        callers[at].poll();
                    }
                    Move::Leave(at) if !callers.is_empty() => drop(callers.swap_remove(at.index(callers.len()))),
                    Move::Wait => pass(7).await,
                    Move::Poll(_) | Move::Leave(_) => {}
                }
            }
            drop(callers);
            pass(30).await;
            let mut last = Fake::start(breaker.clone());
            assert!(last.is_open(), "{breaker:?}");
            while last.is_open() {
                last.poll();
            }
        });
    }
}
