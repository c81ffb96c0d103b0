//! Who answers in whose place, for which reasons, and within which time, in virtual time.

use futures_util::StreamExt;
use sutazai_core::{
    memory::{Script, ScriptedChat},
    model::{Caller, ChatModelExt, ModelCapabilities, ToolSpec},
};
use tokio::time::Instant;

use super::*;
use crate::gateway::fake::{Recorder, Virtual, actor, away};

sutazai_core::chat_conformance!(Fallback::new(
    Arc::new(actor()),
    vec![Arc::new(actor())],
    Virtual::drawing(0),
    Arc::new(Recorder::default())
));

struct Stage {
    fallback: Fallback,
    clock: Arc<Virtual>,
    recorder: Arc<Recorder>,
}

fn stage(models: impl IntoIterator<Item = ScriptedChat>) -> Stage {
    let (clock, recorder) = (Virtual::drawing(0), Arc::new(Recorder::default()));
    let mut models: Vec<_> = models.into_iter().map(|model| Arc::new(model) as Arc<dyn ChatModel>).collect();
    let first = models.remove(0);
    Stage { fallback: Fallback::new(first, models, clock.clone(), recorder.clone()), clock, recorder }
}

fn failing(name: &str, kind: ErrorKind, code: &'static str) -> ScriptedChat {
    ScriptedChat::new(name).otherwise(Script::error(move || Error::new(kind, "no").with_code(code)))
}

fn within(stage: &Stage, seconds: u64) -> ChatRequest {
    let deadline = Some(stage.clock.now().plus(Duration::from_secs(seconds)));
    ChatRequest { caller: Caller { deadline, ..Caller::default() }, ..ChatRequest::ask("x") }
}

#[tokio::test(start_paused = true)]
async fn another_model_answers_and_the_answer_says_so() {
    for (kind, code) in [
        (ErrorKind::NotFound, "model_not_found"),
        (ErrorKind::Unavailable, "model_unavailable"),
        (ErrorKind::Timeout, "timeout"),
        (ErrorKind::Full, "queue_full"),
        (ErrorKind::Failed, "out_of_memory"),
    ] {
        let stage = stage([failing("big", kind, code), ScriptedChat::new("small").otherwise("here")]);
        let answer = stage.fallback.chat(ChatRequest::ask("x")).await.unwrap();
        assert_eq!(answer.served().model, "small");
        assert_eq!(answer.served().fallback, Some(format!("big: {code}")));
        assert_eq!(stage.recorder.take(), [format!("big to small: {code}")]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_model_answers_if_it_can() {
    let stage = stage([ScriptedChat::new("big").otherwise("I"), ScriptedChat::new("small").otherwise("you")]);
    let answer = stage.fallback.chat(ChatRequest::ask("x")).await.unwrap();
    assert_eq!((answer.served().model.as_str(), &answer.served().fallback), ("big", &None));
    assert!(stage.recorder.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_reason_to_ask_another_is_returned() {
    for (kind, code) in [
        (ErrorKind::Invalid, "invalid"),
        (ErrorKind::Cancelled, "cancelled"),
        (ErrorKind::Full, "budget_exceeded"),
        (ErrorKind::Unsupported, "unsupported"),
        (ErrorKind::Internal, "internal"),
    ] {
        let stage = stage([failing("big", kind, code), ScriptedChat::new("small").otherwise("here")]);
        assert_eq!(stage.fallback.complete(ChatRequest::ask("x")).await.unwrap_err().code(), code);
        assert!(stage.recorder.take().is_empty(), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_goes_on_with_another_s_answer() {
    let half = ScriptedChat::new("big").otherwise(Script::text("half ").breaking_off(away));
    let stage = stage([half, ScriptedChat::new("small").otherwise("here")]);
    let events: Vec<_> = stage.fallback.chat(ChatRequest::ask("x")).await.unwrap().collect().await;
    assert!(matches!(&events[..], [Ok(_), Err(_)]), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_is_too_long_goes_to_longer_contexts_only() {
    let model = |name: &str, words| ScriptedChat::new(name).with_context_length(words).otherwise("here");
    let names = [("first", 4), ("same", 4), ("longer", 6), ("between", 5), ("longest", 9)];
    let stage = stage(names.map(|(name, words)| model(name, words)));
    let answer = stage.fallback.chat(ChatRequest::ask("one two three four five six seven")).await.unwrap();
    assert_eq!(answer.served().model, "longest");
    let told = ["first to longer: context_length_exceeded", "longer to longest: context_length_exceeded"];
    assert_eq!(stage.recorder.take(), told);
    let error = stage.fallback.complete(ChatRequest::ask("word ".repeat(9))).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Invalid, "context_length_exceeded"));
}

#[tokio::test(start_paused = true)]
async fn who_cannot_do_what_is_asked_is_passed_over() {
    let plain = ModelCapabilities { chat: true, ..ModelCapabilities::NONE };
    let deaf = ScriptedChat::new("plain").otherwise("here").with_capabilities(plain);
    let stage = stage([failing("big", ErrorKind::Unavailable, "model_unavailable"), deaf, actor()]);
    let tool = ToolSpec { name: "look".into(), description: "Looks.".into(), parameters: serde_json::json!({}) };
    let request = ChatRequest { tools: vec![tool], ..ChatRequest::ask("x") };
    assert_eq!(stage.fallback.chat(request).await.unwrap().served().model, "actor");
    assert_eq!(stage.recorder.take(), ["big to actor: model_unavailable"]);
}

#[tokio::test(start_paused = true)]
async fn if_none_answers_the_first_one_s_error_names_the_others() {
    let first = || away().about("big").retry_after(Duration::from_secs(3));
    let stage = stage([
        ScriptedChat::new("big").otherwise(Script::error(first)),
        failing("small", ErrorKind::NotFound, "model_not_found"),
        failing("smaller", ErrorKind::Corrupt, "model_damaged"),
        ScriptedChat::new("never").otherwise("here"),
    ]);
    let error = stage.fallback.complete(ChatRequest::ask("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "model_unavailable"));
    assert_eq!((error.delay(), error.is_temporary()), (Some(Duration::from_secs(3)), true));
    assert_eq!(
        error.report(),
        "chat with big: neither this model nor another one answers (small: no; smaller: no): big: away"
    );
}

#[tokio::test(start_paused = true)]
async fn being_cancelled_is_returned_whoever_was_asked() {
    let stage = stage([
        failing("big", ErrorKind::Unavailable, "model_unavailable"),
        failing("small", ErrorKind::Cancelled, "cancelled"),
        ScriptedChat::new("never").otherwise("here"),
    ]);
    let error = stage.fallback.complete(ChatRequest::ask("x")).await.unwrap_err();
    assert_eq!((error.kind(), stage.recorder.take().len()), (ErrorKind::Cancelled, 1));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_bounds_all_of_them_together() {
    let slow = |name: &str| ScriptedChat::new(name).otherwise(Script::error(away).after(Duration::from_secs(4)));
    let began = Instant::now();
    let stage = stage([slow("big"), slow("small"), slow("smaller")]);
    let error = stage.fallback.complete(within(&stage, 3)).await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed().as_secs()), (ErrorKind::Timeout, 3));
    assert!(stage.recorder.take().is_empty(), "there is no time left to ask another");

    let error = stage.fallback.complete(within(&stage, 6)).await.unwrap_err();
    assert_eq!((error.code(), began.elapsed().as_secs()), ("model_unavailable", 9));
    assert_eq!(stage.recorder.take(), ["big to small: model_unavailable"]);

    let error = stage.fallback.complete(within(&stage, 0)).await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed().as_secs()), (ErrorKind::Timeout, 9));
}
