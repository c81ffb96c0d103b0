//! What every [`ChatModel`] must do.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    StreamExt,
    future::{BoxFuture, join_all},
};
use serde_json::{Value, json};

use crate::{
    error::{Error, ErrorKind, Result},
    model::{
        ChatEvent, ChatModel, ChatModelExt, ChatReply, ChatRequest, Finish, Message, ResponseFormat, Role, Sampling,
        StopReason, ToolCall, ToolSpec,
    },
};

/// Every case as one `#[tokio::test]`, against the model that the expression makes (it may use `.await`). Where tests are made at run
/// time, [`cases`](crate::conformance::chat::cases) has the same list.
///
/// The model must have more to say to "Tell me a long story about the sea." than 8 tokens.
///
/// ```ignore
/// sutazai_core::chat_conformance!(ScriptedChat::new("actor").otherwise("one two three four five six seven eight nine ten"));
/// ```
#[macro_export]
macro_rules! chat_conformance {
    (@list $rule:ident $($args:tt)*) => {
        $crate::chat_conformance! { @$rule [
            describes_itself, a_stream_ends_with_one_finish, max_tokens_is_kept, a_stop_sequence_is_never_shown,
            a_seed_reproduces, a_schema_is_kept, json_is_an_object, what_is_not_declared_is_refused, wrong_requests_are_refused,
            a_prompt_beyond_the_context_is_refused, a_dropped_stream_frees_the_model, a_dropped_wait_blocks_nobody,
            callers_do_not_mix
        ] $($args)* }
    };
    (@tests [$($case:ident),*] $make:expr) => {
        mod chat_conformance {
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    let model: ::std::sync::Arc<dyn $crate::model::ChatModel> = ::std::sync::Arc::new($make);
                    $crate::conformance::chat::$case(model).await.map_err(|error| error.report()).unwrap();
                }
            )*
        }
    };
    (@table [$($case:ident),*]) => {
        vec![$((stringify!($case), |model| Box::pin($crate::conformance::chat::$case(model)))),*]
    };
    ($make:expr) => { $crate::chat_conformance!(@list tests $make); };
}

/// One case: a name and what to run.
pub type Case = (&'static str, fn(Arc<dyn ChatModel>) -> BoxFuture<'static, Result<()>>);

/// Every case, by name.
#[must_use]
pub fn cases() -> Vec<Case> {
    crate::chat_conformance!(@list table)
}

/// Nothing here takes so long; a model that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(120);

/// An answer that takes longer than this can be told from one that was stopped.
const SHOWS: Duration = Duration::from_millis(50);

const STORY: &str = "Tell me a long story about the sea.";

fn ask(question: &str, max_tokens: u32) -> ChatRequest {
    ChatRequest { sampling: Sampling::GREEDY, max_tokens: Some(max_tokens), ..ChatRequest::ask(question) }
}

async fn complete(model: &dyn ChatModel, request: ChatRequest) -> Result<ChatReply> {
    patiently(model.complete(request)).await
}

async fn patiently<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "the model hangs")))
}

/// It says what it is, and that it can chat.
pub async fn describes_itself(model: Arc<dyn ChatModel>) -> Result<()> {
    model.ready().await?;
    let info = model.info();
    assert!(!info.name.is_empty() && !info.backend.is_empty());
    assert!(info.capabilities.chat && info.context_length > 0, "{info:?}");
    Ok(())
}

/// Pieces of text, none empty, then one finish with the usage, then nothing.
pub async fn a_stream_ends_with_one_finish(model: Arc<dyn ChatModel>) -> Result<()> {
    patiently(async {
        let events: Vec<_> =
            model.chat(ask(STORY, 16)).await?.collect::<Vec<_>>().await.into_iter().collect::<Result<_>>()?;
        let Some((ChatEvent::Finish(Finish { usage, .. }), pieces)) = events.split_last() else {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("the last event is not a finish: {:?}", events.last()),
            ));
        };
        assert!(usage.prompt_tokens > 0 && usage.completion_tokens > 0, "{usage:?}");
        assert!(!pieces.is_empty());
        assert!(pieces.iter().all(|piece| matches!(piece, ChatEvent::Text(text) if !text.is_empty())), "{pieces:?}");
        Ok(())
    })
    .await
}

/// An answer has no more tokens than asked for, and says when it was cut.
pub async fn max_tokens_is_kept(model: Arc<dyn ChatModel>) -> Result<()> {
    for most in [1, 5] {
        let finish = complete(&*model, ask(STORY, most)).await?.finish;
        assert_eq!((finish.stop, finish.usage.completion_tokens), (StopReason::Length, most));
    }
    Ok(())
}

/// An answer ends before a stop sequence, wherever it lies between tokens.
pub async fn a_stop_sequence_is_never_shown(model: Arc<dyn ChatModel>) -> Result<()> {
    let whole = complete(&*model, ask(STORY, 24)).await?.text;
    let letters: Vec<char> = whole.chars().collect();
    let middle = letters.len() / 2;
    for length in [1, 3] {
        let stop: String = letters[middle..].iter().take(length).collect();
        let stops = vec![String::from("\u{1}never said\u{1}"), stop.clone()];
        let cut = complete(&*model, ChatRequest { stop: stops, ..ask(STORY, 24) }).await?;
        assert!(!cut.text.contains(&stop), "{stop:?} is in {:?}", cut.text);
        if model.info().capabilities.seed {
            let expected = whole.find(&stop).map(|end| &whole[..end]);
            assert_eq!((Some(cut.text.as_str()), cut.finish.stop), (expected, StopReason::Stop), "before {stop:?}");
        }
    }
    Ok(())
}

/// The same seed gives the same answer, where the model declares it.
pub async fn a_seed_reproduces(model: Arc<dyn ChatModel>) -> Result<()> {
    if !model.info().capabilities.seed {
        return Ok(());
    }
    for sampling in [Sampling::GREEDY, Sampling { temperature: 1.0, top_p: 0.9, seed: Some(7) }] {
        let request = ChatRequest { sampling, ..ask("Tell me a story.", 24) };
        let (first, second) = (complete(&*model, request.clone()).await?, complete(&*model, request).await?);
        assert_eq!((first.text, first.finish.usage), (second.text, second.finish.usage));
    }
    Ok(())
}

/// An answer bound to a schema fits it whatever is drawn, where the model declares it.
pub async fn a_schema_is_kept(model: Arc<dyn ChatModel>) -> Result<()> {
    if !model.info().capabilities.schema {
        return Ok(());
    }
    let schema = json!({
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "sure": {"type": "boolean"}},
        "required": ["colour", "sure"],
        "additionalProperties": false,
    });
    for seed in 0..4 {
        let request = ChatRequest {
            response_format: ResponseFormat::Schema(schema.clone()),
            sampling: Sampling { temperature: 1.5, top_p: 1.0, seed: Some(seed) },
            ..ask("What colour is grass? Answer in JSON.", 64)
        };
        let reply = complete(&*model, request).await?;
        let value: Value = parse(&reply.text)?;
        let fields = value.as_object().map_or(0, serde_json::Map::len);
        let colour = ["red", "green"].iter().any(|colour| value["colour"] == *colour);
        assert!(fields == 2 && colour && value["sure"].is_boolean(), "{value} breaks the schema");
        assert_eq!(reply.finish.stop, StopReason::Stop);
    }
    Ok(())
}

/// An answer in JSON is an object or the beginning of one, where the model declares schemas.
pub async fn json_is_an_object(model: Arc<dyn ChatModel>) -> Result<()> {
    if !model.info().capabilities.schema {
        return Ok(());
    }
    let request = ChatRequest { response_format: ResponseFormat::Json, ..ask("Describe grass in JSON.", 48) };
    let reply = complete(&*model, request).await?;
    assert!(reply.text.trim_start().starts_with('{'), "{:?}", reply.text);
    if reply.finish.stop == StopReason::Stop {
        assert!(parse(&reply.text)?.is_object(), "{:?}", reply.text);
    }
    Ok(())
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text)
        .map_err(|error| Error::new(ErrorKind::Internal, format!("{text:?} is not JSON")).because(error))
}

/// Tools and schemas are refused first by a model that does not declare them.
pub async fn what_is_not_declared_is_refused(model: Arc<dyn ChatModel>) -> Result<()> {
    let capabilities = model.info().capabilities;
    let tool = ToolSpec { name: "look".into(), description: "Looks.".into(), parameters: json!({"type": "object"}) };
    if !capabilities.tools {
        let call = ToolCall { id: "call_0".into(), name: "look".into(), arguments: json!({}) };
        let called = Message { tool_calls: vec![call], ..Message::new(Role::Assistant, "") };
        let result = Message { tool_call_id: Some("call_0".into()), ..Message::new(Role::Tool, "grass") };
        let offered = ChatRequest { tools: vec![tool], ..ask(STORY, 4) };
        // What the model would silently leave out of its prompt is refused as well.
        let past = [called, result].map(|message| {
            let messages = vec![Message::user(STORY), message, Message::user(STORY)];
            ChatRequest { messages, ..ask(STORY, 4) }
        });
        for request in past.into_iter().chain([offered]) {
            let refused = complete(&*model, request).await;
            assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Unsupported));
        }
    }
    if !capabilities.schema {
        let refused = complete(&*model, ChatRequest { response_format: ResponseFormat::Json, ..ask(STORY, 4) }).await;
        assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Unsupported));
    }
    Ok(())
}

/// A wrong request is invalid, and the error names the field.
pub async fn wrong_requests_are_refused(model: Arc<dyn ChatModel>) -> Result<()> {
    let sampling = |temperature, top_p| Sampling { temperature, top_p, seed: None };
    let wrong = [
        ("/messages", ChatRequest { messages: Vec::new(), ..ask(STORY, 4) }),
        ("/sampling/temperature", ChatRequest { sampling: sampling(-1.0, 1.0), ..ask(STORY, 4) }),
        ("/sampling/temperature", ChatRequest { sampling: sampling(f32::NAN, 1.0), ..ask(STORY, 4) }),
        ("/sampling/top_p", ChatRequest { sampling: sampling(1.0, 0.0), ..ask(STORY, 4) }),
        ("/max_tokens", ask(STORY, 0)),
    ];
    for (path, request) in wrong {
        let error = complete(&*model, request).await.err();
        let found = error.as_ref().map(|error| (error.kind(), error.faults().first().map(|fault| fault.path.as_str())));
        assert_eq!(found, Some((ErrorKind::Invalid, Some(path))));
    }
    Ok(())
}

/// A prompt that leaves no room for an answer is refused before anything is generated, and the model goes on.
pub async fn a_prompt_beyond_the_context_is_refused(model: Arc<dyn ChatModel>) -> Result<()> {
    for times in [1, 40] {
        let endless = "word ".repeat((model.info().context_length + 1) * times);
        let refused = complete(&*model, ask(&endless, 4)).await;
        assert_eq!(refused.err().map(|error| error.code()), Some("context_length_exceeded"));
    }
    complete(&*model, ask(STORY, 4)).await.map(drop)
}

/// Whoever stops listening stops the answer: the model is free for the next caller.
pub async fn a_dropped_stream_frees_the_model(model: Arc<dyn ChatModel>) -> Result<()> {
    const DROPPED: u32 = 4;
    let long = || ask("Write a very long story.", 256);
    // Once unmeasured: loading is no part of an answer.
    complete(&*model, ask(STORY, 1)).await?;
    let began = Instant::now();
    complete(&*model, long()).await?;
    let whole = began.elapsed();
    let began = Instant::now();
    for _ in 0..DROPPED {
        let mut stream = patiently(model.chat(long())).await?;
        assert!(stream.next().await.is_some_and(|event| event.is_ok()));
    }
    complete(&*model, ask(STORY, 4)).await?;
    let dropped = began.elapsed();
    // An answer that takes no time to make cannot show whether it was stopped.
    if whole > SHOWS {
        assert!(dropped < whole * DROPPED / 2, "{DROPPED} dropped answers took {dropped:?}, a whole one {whole:?}");
    }
    Ok(())
}

/// A caller that leaves the queue harms neither who is served nor who comes after.
pub async fn a_dropped_wait_blocks_nobody(model: Arc<dyn ChatModel>) -> Result<()> {
    let served = patiently(model.chat(ask(STORY, 24))).await?;
    for _ in 0..3 {
        let _ = tokio::time::timeout(Duration::from_millis(1), model.chat(ask(STORY, 24))).await;
    }
    let events: Vec<_> = served.collect().await;
    assert!(matches!(events.last(), Some(Ok(ChatEvent::Finish(_)))), "{:?}", events.last());
    complete(&*model, ask(STORY, 4)).await.map(drop)
}

/// Callers at the same time are all served, each with its own answer.
pub async fn callers_do_not_mix(model: Arc<dyn ChatModel>) -> Result<()> {
    let request = |caller: usize| {
        let messages = vec![Message::system("You are brief."), Message::user(format!("Say something about {caller}."))];
        ChatRequest { messages, ..ask(STORY, 12) }
    };
    let together = join_all((0..4).map(|caller| complete(&*model, request(caller)))).await;
    for (caller, reply) in together.into_iter().enumerate() {
        let (reply, alone) = (reply?, complete(&*model, request(caller)).await?);
        if model.info().capabilities.seed {
            assert_eq!(reply.text, alone.text);
        }
    }
    Ok(())
}
