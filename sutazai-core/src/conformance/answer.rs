//! What every [`AnswerCache`] must do. Each case wants an empty cache of its own, with room for some thousand short answers for as long as it runs.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{join_all, try_join_all};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    clock::Timestamp,
    error::{Error, Result},
    model::{Caller, ChatEvent, ChatRequest, Finish, ModelInfo, StopReason, ToolCall, Usage},
    store::{AnswerCache, AnswerKey, CachedAnswer},
};

/// Every case as one `#[tokio::test]`, against the cache that the expression makes (it may use `.await`), behind whatever pointer keeps it alive. Where
/// tests are made at run time, [`cases`](crate::conformance::answer::cases) has the same list.
///
/// ```ignore
/// sutazai_core::answer_conformance!(Box::new(MemoryAnswers::default()));
/// ```
///
/// A cache whose answers can be made to live for a moment also runs [`what_is_old_is_forgotten`](crate::conformance::answer::what_is_old_is_forgotten),
/// one that processes share [`what_one_keeps_the_other_finds`](crate::conformance::answer::what_one_keeps_the_other_finds).
#[macro_export]
macro_rules! answer_conformance {
    (@list $rule:ident $($args:tt)*) => {
        $crate::answer_conformance! { @$rule [
            an_empty_cache_is_ready, an_answer_is_found_as_it_was_kept, a_long_answer_is_found, the_newest_takes_the_place_of_the_older,
            tenants_are_apart, a_model_is_forgotten_alone, names_of_models_may_be_anything, everything_is_forgotten, many_are_forgotten,
            callers_do_not_mix
        ] $($args)* }
    };
    (@tests [$($case:ident),*] $make:expr) => {
        mod answer_conformance {
            #[allow(unused_imports, reason = "the expression may name everything by its full path")]
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    let cache = $make;
                    $crate::conformance::answer::$case(&*cache).await.map_err(|error| error.report()).unwrap();
                }
            )*
        }
    };
    (@table [$($case:ident),*]) => {
        &[$((stringify!($case), |cache| Box::pin($crate::conformance::answer::$case(cache)))),*]
    };
    ($make:expr) => { $crate::answer_conformance!(@list tests $make); };
}

/// One case: a name and what to run against an empty cache, on the thread that begins it.
pub type Case = (&'static str, for<'c> fn(&'c dyn AnswerCache) -> Pin<Box<dyn Future<Output = Result<()>> + 'c>>);

/// Every case, by name.
#[must_use]
pub fn cases() -> &'static [Case] {
    const CASES: &[Case] = crate::answer_conformance!(@list table);
    CASES
}

/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// More than any implementation looks at in one go.
const MANY: usize = 1_500;

/// The key of a question of this tenant.
fn key_of(tenant: &str, question: &str) -> AnswerKey {
    let caller = Caller { tenant: Some(tenant.into()), ..Caller::default() };
    let request = ChatRequest { caller, ..ChatRequest::ask(question) };
    AnswerKey::of(&ModelInfo::new("actor", "suite", 8192), &request).expect("it can be written as JSON")
}

fn key(question: &str) -> AnswerKey {
    key_of("suite", question)
}

/// An answer that this model gave.
fn answer(model: &str, text: &str) -> CachedAnswer {
    let usage = Usage { prompt_tokens: 3, completion_tokens: 5 };
    let finish = Finish { stop: StopReason::Stop, usage, prompt_ms: None, completion_ms: Some(7) };
    CachedAnswer {
        served_model: model.into(),
        served_backend: "suite".into(),
        events: vec![ChatEvent::Text(text.into()), ChatEvent::Finish(finish)],
        created: Timestamp::from_millis(1_796_083_200_007),
    }
}

async fn found(cache: &dyn AnswerCache, question: &str) -> Result<Option<CachedAnswer>> {
    Ok(cache.get(&key(question)).await?.map(Arc::unwrap_or_clone))
}

/// Which of these questions have an answer.
async fn having(cache: &dyn AnswerCache, questions: &[&str]) -> Result<Vec<bool>> {
    let looks = questions.iter().map(|question| async move { Ok::<_, Error>(found(cache, question).await?.is_some()) });
    try_join_all(looks).await
}

/// Nothing is there, and nothing to forget.
pub async fn an_empty_cache_is_ready(cache: &dyn AnswerCache) -> Result<()> {
    cache.ready().await?;
    assert_eq!(found(cache, "a").await?, None);
    cache.invalidate("actor").await?;
    cache.clear().await?;
    assert_eq!(found(cache, "a").await?, None);
    Ok(())
}

/// Every kind of piece, every letter, every number.
pub async fn an_answer_is_found_as_it_was_kept(cache: &dyn AnswerCache) -> Result<()> {
    let arguments = json!({
        "fractions": [0.1 + 0.2, 1e-300, -0.5, 1.0], "whole": [u64::MAX, i64::MIN, 0],
        "deep": {"ä": [null, true, {"\u{0}": "line\nline\u{2028}\"quoted\\\""}]}, "empty": [{}, [], ""],
    });
    let call = ToolCall { id: "call_0".into(), name: "look".into(), arguments };
    let mut whole = answer("actor:8b", "Schöne Grüße, 世界 \u{1f3ad}\r\n\t\u{0}");
    whole.served_backend = "suite \"one\"".into();
    whole.events.insert(0, ChatEvent::Thinking("hm".into()));
    whole.events.insert(2, ChatEvent::ToolCall(call));
    cache.put(key("a"), whole.clone()).await?;
    assert_eq!(found(cache, "a").await?.as_ref(), Some(&whole));
    assert_eq!(found(cache, "a").await?, Some(whole), "it stays");
    assert_eq!(found(cache, "A").await?, None);
    let ends = [StopReason::Stop, StopReason::Length, StopReason::ToolCalls];
    for (stop, question) in ends.into_iter().zip(["stop", "length", "tools"]) {
        let usage = Usage { prompt_tokens: u32::MAX, completion_tokens: 0 };
        let finish = Finish { stop, usage, prompt_ms: Some(u64::MAX), completion_ms: None };
        let ended = CachedAnswer { events: vec![ChatEvent::Finish(finish)], ..answer("actor", "") };
        cache.put(key(question), ended.clone()).await?;
        assert_eq!(found(cache, question).await?, Some(ended));
    }
    Ok(())
}

/// Many pieces, and large ones.
pub async fn a_long_answer_is_found(cache: &dyn AnswerCache) -> Result<()> {
    let mut long = answer("actor", &"To be, or not to be. ".repeat(10_000));
    let pieces = (0..2_000).map(|number| ChatEvent::Text(format!(" {number}")));
    drop(long.events.splice(1..1, pieces));
    cache.put(key("a"), long.clone()).await?;
    assert_eq!(found(cache, "a").await?, Some(long));
    Ok(())
}

/// There is one answer to a question.
pub async fn the_newest_takes_the_place_of_the_older(cache: &dyn AnswerCache) -> Result<()> {
    for text in ["a long one that comes first", "short", "the last one"] {
        cache.put(key("a"), answer("actor", text)).await?;
        assert_eq!(found(cache, "a").await?, Some(answer("actor", text)));
    }
    Ok(())
}

/// The same question of another tenant is another one.
pub async fn tenants_are_apart(cache: &dyn AnswerCache) -> Result<()> {
    let (one, other) = (key_of("one", "a"), key_of("other", "a"));
    cache.put(one, answer("actor", "for one")).await?;
    assert_eq!(cache.get(&other).await?, None);
    cache.put(other, answer("actor", "for the other")).await?;
    assert_eq!(cache.get(&one).await?.as_deref(), Some(&answer("actor", "for one")));
    assert_eq!(cache.get(&other).await?.as_deref(), Some(&answer("actor", "for the other")));
    Ok(())
}

/// By the model that gave the answer, whosever it is.
pub async fn a_model_is_forgotten_alone(cache: &dyn AnswerCache) -> Result<()> {
    for (question, model) in [("a", "actor"), ("b", "actor"), ("c", "extra")] {
        cache.put(key(question), answer(model, question)).await?;
    }
    cache.put(key_of("other", "a"), answer("actor", "a")).await?;
    cache.invalidate("nobody").await?;
    assert_eq!(having(cache, &["a", "b", "c"]).await?, [true, true, true]);
    cache.invalidate("actor").await?;
    assert_eq!(having(cache, &["a", "b", "c"]).await?, [false, false, true]);
    assert_eq!(cache.get(&key_of("other", "a")).await?, None);
    cache.put(key("a"), answer("actor", "again")).await?;
    assert_eq!(found(cache, "a").await?, Some(answer("actor", "again")));
    Ok(())
}

/// None of them is a pattern, or the beginning of another.
pub async fn names_of_models_may_be_anything(cache: &dyn AnswerCache) -> Result<()> {
    let names =
        ["*", "?", "[a-z]*", "", " ", "act", "actor", "actor:8b", "ACTOR", "a\nb", "a\0b", "模型", "../actor", "\\"];
    for name in names {
        cache.put(key(name), answer(name, name)).await?;
    }
    for (place, name) in names.iter().enumerate() {
        cache.invalidate(name).await?;
        let expected: Vec<bool> = (0..names.len()).map(|other| other > place).collect();
        assert_eq!(having(cache, &names).await?, expected, "{name:?} was forgotten");
    }
    Ok(())
}

/// Nothing is left, and the cache goes on.
pub async fn everything_is_forgotten(cache: &dyn AnswerCache) -> Result<()> {
    for (question, model) in [("a", "actor"), ("b", "extra")] {
        cache.put(key(question), answer(model, question)).await?;
    }
    cache.clear().await?;
    assert_eq!(having(cache, &["a", "b"]).await?, [false, false]);
    cache.put(key("a"), answer("actor", "again")).await?;
    assert_eq!(found(cache, "a").await?, Some(answer("actor", "again")));
    Ok(())
}

/// All that are meant go, however many, and none beside them.
pub async fn many_are_forgotten(cache: &dyn AnswerCache) -> Result<()> {
    let of = |number: usize| if number.is_multiple_of(3) { "extra" } else { "actor" };
    let puts = (0..MANY).map(|number| {
        let question = number.to_string();
        cache.put(key(&question), answer(of(number), &question))
    });
    try_join_all(puts).await?;
    let questions: Vec<String> = (0..MANY).map(|number| number.to_string()).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    assert!(having(cache, &questions).await?.iter().all(|there| *there), "there is room for all");
    cache.invalidate("actor").await?;
    let expected: Vec<bool> = (0..MANY).map(|number| of(number) == "extra").collect();
    assert_eq!(having(cache, &questions).await?, expected);
    cache.clear().await?;
    assert!(having(cache, &questions).await?.iter().all(|there| !there));
    Ok(())
}

/// Each of many that come at the same time finds what it has kept.
pub async fn callers_do_not_mix(cache: &dyn AnswerCache) -> Result<()> {
    let callers = (0..100).map(|number: usize| async move {
        let question = number.to_string();
        let own = answer("actor", &"x".repeat(number * 100 + 1));
        for _ in 0..3 {
            cache.put(key(&question), own.clone()).await?;
            assert_eq!(found(cache, &question).await?.as_ref(), Some(&own), "{number}");
        }
        Ok::<_, Error>(())
    });
    join_all(callers).await.into_iter().collect()
}

/// For a cache that keeps answers for a few milliseconds: they are gone by themselves.
pub async fn what_is_old_is_forgotten(cache: &dyn AnswerCache) -> Result<()> {
    cache.put(key("a"), answer("actor", "a")).await?;
    let began = Instant::now();
    while found(cache, "a").await?.is_some() {
        assert!(began.elapsed() < PATIENCE, "it is still there");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// For two caches that share what they keep, as two processes do; empty at first.
pub async fn what_one_keeps_the_other_finds(one: &dyn AnswerCache, other: &dyn AnswerCache) -> Result<()> {
    one.put(key("a"), answer("actor", "a")).await?;
    assert_eq!(found(other, "a").await?, Some(answer("actor", "a")));
    other.put(key("a"), answer("extra", "better")).await?;
    other.put(key("b"), answer("actor", "b")).await?;
    assert_eq!(found(one, "a").await?, Some(answer("extra", "better")));
    one.invalidate("actor").await?;
    assert_eq!(having(other, &["a", "b"]).await?, [true, false]);
    other.clear().await?;
    assert_eq!(having(one, &["a", "b"]).await?, [false, false]);
    Ok(())
}
