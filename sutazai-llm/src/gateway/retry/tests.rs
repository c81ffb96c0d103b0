//! What is asked again, when, and what is not, in virtual time.

use futures_util::StreamExt;
use sutazai_core::{
    ErrorKind,
    clock::SystemClock,
    memory::{Script, ScriptedChat},
    model::{ChatEvent, ChatModelExt},
};
use tokio::time::Instant;

use super::*;
use crate::gateway::fake::{Recorder, Virtual, actor, away};

sutazai_core::chat_conformance!(
    Retry::new(Arc::new(actor()), RetryConfig::default(), Arc::new(SystemClock), Arc::new(Recorder::default()))
        .unwrap()
);

/// The jitter that every test draws, in milliseconds.
const DRAWN: u64 = 150;

struct Stage {
    model: Arc<ScriptedChat>,
    retry: Retry,
    clock: Arc<Virtual>,
    recorder: Arc<Recorder>,
}

fn stage(model: ScriptedChat) -> Stage {
    let (model, clock, recorder) = (Arc::new(model), Virtual::drawing(DRAWN), Arc::new(Recorder::default()));
    let retry = Retry::new(model.clone(), RetryConfig::default(), clock.clone(), recorder.clone());
    Stage { model, retry: retry.unwrap(), clock, recorder }
}

fn within(stage: &Stage, limit: Duration) -> ChatRequest {
    let deadline = Some(stage.clock.now().plus(limit));
    ChatRequest { caller: Caller { deadline, ..Caller::default() }, ..ChatRequest::ask("x") }
}

#[tokio::test(start_paused = true)]
async fn what_is_temporary_is_asked_again_after_pauses() {
    let stage = stage(ScriptedChat::new("actor").reply(Script::error(away)).reply(Script::error(away)).reply("here"));
    let began = Instant::now();
    assert_eq!(stage.retry.complete(ChatRequest::ask("x")).await.unwrap().text, "here");
    assert_eq!(began.elapsed(), Duration::from_millis(2 * DRAWN));
    assert_eq!(stage.recorder.take(), ["retried actor 2", "retried actor 3"]);
}

#[tokio::test(start_paused = true)]
async fn there_is_an_end_to_asking() {
    let stage = stage(ScriptedChat::new("actor").otherwise(Script::error(away)));
    assert_eq!(stage.retry.complete(ChatRequest::ask("x")).await.unwrap_err().code(), "model_unavailable");
    assert_eq!(stage.model.requests().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_error_in_the_place_of_the_first_event_came_before_the_answer() {
    let stage = stage(ScriptedChat::new("actor").reply(Script::text("").breaking_off(away)).reply("here"));
    assert_eq!(stage.retry.complete(ChatRequest::ask("x")).await.unwrap().text, "here");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_again_once_a_piece_was_delivered() {
    let stage = stage(ScriptedChat::new("actor").reply(Script::text("half ").breaking_off(away)).otherwise("again"));
    let events: Vec<_> = stage.retry.chat(ChatRequest::ask("x")).await.unwrap().collect().await;
    assert!(matches!(&events[..], [Ok(ChatEvent::Text(_)), Err(_)]), "{events:?}");
    assert_eq!(stage.model.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_waiting_does_not_mend_is_asked_once() {
    for (kind, code) in [
        (ErrorKind::Invalid, "invalid"),
        (ErrorKind::NotFound, "model_not_found"),
        (ErrorKind::Cancelled, "cancelled"),
        (ErrorKind::Full, "queue_full"),
        (ErrorKind::Full, "budget_exceeded"),
    ] {
        let stage =
            stage(ScriptedChat::new("actor").otherwise(Script::error(move || Error::new(kind, "no").with_code(code))));
        assert_eq!(stage.retry.complete(ChatRequest::ask("x")).await.unwrap_err().code(), code);
        assert_eq!(stage.model.requests().len(), 1, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_error_asks_for_is_kept_up_to_the_cap() {
    for (asked, calls, waited) in [(2_000, 2, 2_000 + DRAWN), (5_001, 1, 0)] {
        let busy = move || away().retry_after(Duration::from_millis(asked));
        let stage = stage(ScriptedChat::new("actor").reply(Script::error(busy)).otherwise("here"));
        let began = Instant::now();
        assert_eq!(stage.retry.complete(ChatRequest::ask("x")).await.is_ok(), calls == 2);
        assert_eq!((stage.model.requests().len(), began.elapsed()), (calls, Duration::from_millis(waited)));
    }
}

#[tokio::test(start_paused = true)]
async fn no_pause_goes_beyond_the_deadline() {
    for (limit, calls) in [(DRAWN, 1), (DRAWN + 1, 2), (2 * DRAWN + 1, 3)] {
        let stage = stage(ScriptedChat::new("actor").otherwise(Script::error(away)));
        let (request, began) = (within(&stage, Duration::from_millis(limit)), Instant::now());
        assert_eq!(stage.retry.complete(request).await.unwrap_err().code(), "model_unavailable");
        assert_eq!(stage.model.requests().len(), calls);
        assert!(began.elapsed() < Duration::from_millis(limit), "{:?} of {limit} ms", began.elapsed());
    }
}

#[test]
fn no_attempt_at_all_is_refused() {
    let config = RetryConfig { attempts: 0, ..RetryConfig::default() };
    assert_eq!(config.check().unwrap_err().faults()[0].path, "/attempts");
}
