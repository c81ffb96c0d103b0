//! The first event of an answer, looked at before the answer is given on.

use futures_util::{StreamExt, stream};
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatModel, ChatRequest, ChatStream},
};

/// Begins an answer and waits for its first event.
///
/// What begins with an error, or ends before it began, is that error: nothing of it was delivered, so whoever wants to may ask again. Otherwise the
/// answer comes back whole, its first event included. Dropping the future drops the call.
pub(super) async fn begin(model: &dyn ChatModel, request: ChatRequest) -> Result<ChatStream> {
    let mut answer = model.chat(request).await?;
    match answer.next().await {
        Some(Ok(first)) => Ok(answer.map_events(|rest| stream::iter([Ok(first)]).chain(rest))),
        Some(Err(error)) => Err(error),
        None => Err(broke_off(&model.info().name)),
    }
}

/// Of an answer that ended without its end.
pub(super) fn broke_off(model: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "the answer broke off")
        .with_code("model_unavailable")
        .during("chat with")
        .about(model)
}

#[cfg(test)]
mod tests {
    use sutazai_core::{
        memory::{Script, ScriptedChat},
        model::{CacheUse, ChatEvent},
    };

    use super::*;
    use crate::gateway::fake::{End, Plan, Planned, away};

    #[tokio::test]
    async fn an_answer_comes_back_whole_and_says_what_served_it() {
        let model = ScriptedChat::new("actor").reply("one two");
        let answer = begin(&model, ChatRequest::ask("x")).await.unwrap();
        assert_eq!((answer.served().model.as_str(), answer.served().cache), ("actor", CacheUse::Off));
        let events: Vec<_> = answer.map(Result::unwrap).collect().await;
        assert_eq!(events[..2], ["one ", "two"].map(|word| ChatEvent::Text(word.into())));
        assert!(matches!(&events[2..], [ChatEvent::Finish(_)]), "{events:?}");
    }

    #[tokio::test]
    async fn what_begins_with_an_error_or_with_nothing_is_an_error() {
        let model = ScriptedChat::new("actor").reply(Script::error(away)).reply(Script::text("").breaking_off(away));
        for _ in 0..2 {
            assert_eq!(begin(&model, ChatRequest::ask("x")).await.unwrap_err().code(), "model_unavailable");
        }
        let silent = Planned::new("mute", [Plan { pieces: 0, end: End::Silence, ..Plan::PLAIN }]);
        let error = begin(&silent, ChatRequest::ask("x")).await.unwrap_err();
        assert_eq!((error.code(), error.subject()), ("model_unavailable", "mute"));
    }
}
