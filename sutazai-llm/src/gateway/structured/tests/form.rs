//! Answers that are to have a form: what is mended, what is given on as it comes, and what is not asked for again.

use futures_util::{FutureExt, stream};
use sutazai_core::model::{Finish, Usage};
use tokio::sync::Notify;

use super::*;
use crate::gateway::{Fit, FitConfig};

#[tokio::test]
async fn a_wrong_answer_is_mended_by_the_model() {
    let stage = stage(actor().reply("It is green.").reply(BLUE).reply(GREEN));
    let events = stage.events(colour()).await;
    let [Ok(ChatEvent::Text(text)), Ok(ChatEvent::Finish(finish))] = &events[..] else { panic!("{events:?}") };
    assert_eq!((text.as_str(), finish.stop), (GREEN, StopReason::Stop));
    let requests = stage.model.requests();
    let words = |request: &ChatRequest| -> usize {
        request.messages.iter().map(|message| message.content.split_whitespace().count()).sum()
    };
    let prompts: usize = requests.iter().map(words).sum();
    assert_eq!(usize::try_from(finish.usage.prompt_tokens).unwrap(), prompts, "of all rounds");
    assert_eq!(finish.usage.completion_tokens, 3 + 2 + 2);
    assert_eq!(stage.observed(), ["repaired actor 1", "repaired actor 2"]);

    assert!(requests.iter().all(|request| request.response_format == colour().response_format));
    for (request, (answer, fault)) in requests[1..].iter().zip([("It is green.", "not JSON"), (BLUE, "at /colour")]) {
        let [question, wrong, ask] = &request.messages[..] else { panic!("{request:?}") };
        assert_eq!(*question, colour().messages[0]);
        assert_eq!((wrong.role, wrong.content.as_str()), (Role::Assistant, answer));
        assert!(ask.role == Role::User && ask.content.contains(fault), "{}", ask.content);
    }
    let ask = &requests[2].messages[2].content;
    assert!(ask.contains("\"blue\"") && ask.contains("\"green\""), "what was found and what is allowed: {ask}");
}

#[tokio::test]
async fn there_is_an_end_to_mending() {
    for (repairs, message) in [(0, "asked for: "), (1, "after a repair: "), (2, "after 2 repairs: ")] {
        let config = StructuredConfig { repairs, ..StructuredConfig::default() };
        let stage = stage_with(config, actor().otherwise(r#"{"colour": "secret"}"#));
        let error = stage.structured.complete(colour()).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Failed, "answer_invalid"));
        assert_eq!(error.faults().iter().map(|fault| fault.path.as_str()).collect::<Vec<_>>(), ["/answer/colour"]);
        assert!(error.report().contains(message), "{}", error.report());
        assert!(!error.report().contains("secret"), "{}", error.report());
        assert_eq!(stage.model.requests().len(), usize::try_from(repairs).unwrap() + 1);
        assert_eq!(stage.observed().len(), usize::try_from(repairs).unwrap());
    }
}

#[tokio::test]
async fn what_is_all_but_json_needs_no_repair() {
    for text in [GREEN, "```json\n{\"colour\": \"green\"}\n```", "\u{feff}{\"colour\": \"green\",}"] {
        let stage = stage(actor().reply(text));
        assert_eq!(stage.told(colour()).await, (vec![GREEN.to_owned()], true));
    }
    let stage = stage(actor().reply("[1]").reply("{}"));
    let any = ChatRequest { response_format: ResponseFormat::Json, ..colour() };
    assert_eq!(stage.told(any).await, (vec!["{}".to_owned()], true));
    assert!(stage.model.requests()[1].messages[2].content.contains("object"));
}

#[tokio::test]
async fn who_knows_no_schemas_is_asked_in_words() {
    let stage = stage(talker().reply("Green.").reply(GREEN));
    assert!(stage.structured.info().capabilities.schema && !stage.model.info().capabilities.schema);
    assert_eq!(stage.told(colour()).await, (vec![GREEN.to_owned()], true));
    for request in stage.model.requests() {
        assert_eq!((&request.response_format, request.messages[0].role), (&ResponseFormat::Text, Role::System));
        assert!(request.messages[0].content.contains("\"enum\""), "{}", request.messages[0].content);
    }
    let bound = self::stage(actor());
    assert_eq!(bound.structured.info(), bound.model.info());
}

#[tokio::test]
async fn what_cannot_be_checked_is_refused_before_anybody_is_asked() {
    let stage = stage(actor());
    let wrong = ResponseFormat::Schema(json!({"type": "odd"}));
    let error = stage.structured.chat(ChatRequest { response_format: wrong, ..colour() }).await.unwrap_err();
    assert_eq!((error.kind(), error.code(), error.subject()), (ErrorKind::Invalid, "schema_unsupported", "actor"));
    assert_eq!(error.faults()[0].path, "/response_format/schema/type");
    assert!(stage.model.requests().is_empty());
}

#[tokio::test]
async fn what_was_cut_is_given_on_as_the_beginning_it_is() {
    let cut = || ChatRequest { max_tokens: Some(1), ..colour() };
    let stage = stage(actor().reply(GREEN).otherwise("It is green."));
    let reply = stage.structured.complete(cut()).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.finish.stop), ("{\"colour\": ", StopReason::Length));
    let error = stage.structured.complete(cut()).await.unwrap_err();
    assert_eq!(error.code(), "answer_invalid");
    assert!(error.report().ends_with("it was cut"), "{}", error.report());
    assert_eq!((stage.model.requests().len(), stage.observed().len()), (2, 0), "the same limit would cut it again");
    let fenced = self::stage(actor().reply("```json\n{\"colour\": \"green\"}\n```"));
    let reply = fenced.structured.complete(ChatRequest { max_tokens: Some(2), ..colour() }).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.finish.stop), ("{\"colour\": ", StopReason::Length));
}

/// A model that thinks, waits until it is told to go on, and says its line.
struct Thinker {
    info: ModelInfo,
    line: &'static str,
    go_on: Arc<Notify>,
}

#[async_trait]
impl ChatModel for Thinker {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn chat(&self, _request: ChatRequest) -> Result<ChatStream> {
        let (line, go_on) = (self.line, Arc::clone(&self.go_on));
        let finish = Finish { stop: StopReason::Stop, usage: Usage::default(), prompt_ms: None, completion_ms: None };
        let said = stream::once(async move { go_on.notified().await })
            .flat_map(move |()| stream::iter([Ok(ChatEvent::Text(line.into())), Ok(ChatEvent::Finish(finish))]));
        let thought = stream::iter([Ok(ChatEvent::Thinking("hm".into()))]);
        Ok(ChatStream::new(&self.info, thought.chain(said)))
    }
}

/// The check of a thinker, and what makes it go on.
fn thinking(line: &'static str) -> (Structured, Arc<Notify>) {
    let capabilities = ModelCapabilities { chat: true, ..ModelCapabilities::NONE };
    let info = ModelInfo { capabilities, ..ModelInfo::new("thinker", "test", 8192) };
    let go_on = Arc::new(Notify::new());
    let model = Arc::new(Thinker { info, line, go_on: Arc::clone(&go_on) });
    let config = StructuredConfig { repairs: 0, ..StructuredConfig::default() };
    (Structured::new(model, config, Arc::new(Told::default())), go_on)
}

#[tokio::test]
async fn nobody_waits_for_an_answer_to_hear_that_it_has_begun() {
    let (structured, go_on) = thinking(GREEN);
    let mut answer = structured.chat(colour()).now_or_never().expect("an answer that has begun").unwrap();
    let first = answer.next().now_or_never();
    assert!(matches!(&first, Some(Some(Ok(ChatEvent::Thinking(thought)))) if thought == "hm"), "{first:?}");
    assert!(answer.next().now_or_never().is_none(), "the text is still to come");
    go_on.notify_one();
    let rest: Vec<_> = answer.map(Result::unwrap).collect().await;
    assert!(matches!(&rest[..], [ChatEvent::Text(text), ChatEvent::Finish(_)] if text == GREEN), "{rest:?}");

    let (structured, go_on) = thinking("It is green.");
    go_on.notify_one();
    let events: Vec<_> = structured.chat(colour()).await.unwrap().collect().await;
    let [Ok(ChatEvent::Thinking(_)), Err(error)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(error.code(), "answer_invalid", "an event, since the answer has begun");
}

#[tokio::test]
async fn a_long_answer_is_checked_as_well() {
    let long = |said: &str| format!("{{\"colour\":\"{said}\",\"more\":\"{}\"}}", "x".repeat(100_000));
    let stage = stage(actor().reply(long("blue")).reply(long("green")));
    assert_eq!(stage.told(colour()).await, (vec![long("green")], true));
    assert!(stage.model.requests()[1].messages[2].content.contains("at /colour"));
}

#[tokio::test]
async fn a_schema_that_the_backend_cannot_bind_is_asked_for_in_words() {
    let refuses = || Error::invalid("no answer can be bound to it", Vec::new()).with_code("schema_unsupported");
    for config in [StructuredConfig::default(), enforcing()] {
        let stage = stage_with(config, actor().reply(Script::error(refuses)).reply("It is green.").reply(GREEN));
        assert_eq!(stage.told(colour()).await, (vec![GREEN.to_owned()], true));
        assert_eq!(stage.observed(), ["repaired actor 1"]);
        let requests = stage.model.requests();
        assert_eq!(requests[0].response_format, colour().response_format);
        for request in &requests[1..] {
            assert_eq!((&request.response_format, request.messages[0].role), (&ResponseFormat::Text, Role::System));
        }
    }
    let stage = stage(actor().otherwise(Script::error(refuses)));
    assert_eq!(stage.structured.complete(colour()).await.unwrap_err().code(), "schema_unsupported");
    assert_eq!(stage.model.requests().len(), 2);
}

#[tokio::test]
async fn a_repair_that_the_backend_refuses_is_no_fault_of_the_caller() {
    let refuses = || Error::new(ErrorKind::Invalid, "the server refuses the request").because("why");
    let stage = stage(actor().reply("no").reply(Script::error(refuses)).reply(Script::error(refuses)));
    let error = stage.structured.complete(colour()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Failed, "answer_invalid"));
    assert_eq!(error.faults()[0].path, "/answer");
    let why = "another repair is refused: the server refuses the request: why";
    assert!(error.report().ends_with(why), "{}", error.report());
    let error = stage.structured.complete(colour()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "what the caller sent is refused");
}

#[tokio::test]
async fn a_repair_has_its_question_where_the_conversation_does_not_fit() {
    let model = Arc::new(actor().reply("It is green. ".repeat(60)).reply(GREEN).with_context_length(200));
    let gateway = Gateway::new(Arc::new(Told::default()))
        .structured(StructuredConfig::default())
        .fit(FitConfig { policy: Fit::TrimOldest, ..FitConfig::default() });
    let backend: Arc<dyn ChatModel> = model.clone();
    let front = gateway.front(gateway.model(vec![backend], None).unwrap(), Vec::new());
    assert_eq!(front.complete(colour()).await.unwrap().text, GREEN);
    let request = model.requests().remove(1);
    let [ask] = &request.messages[..] else { panic!("{request:?}") };
    assert!(ask.content.contains(&colour().messages[0].content), "{}", ask.content);
}

#[tokio::test]
async fn a_repair_that_the_context_has_no_room_for_is_not_made() {
    let stage = stage(actor().otherwise("It is green.").with_context_length(12));
    let error = stage.structured.complete(colour()).await.unwrap_err();
    assert_eq!((error.code(), error.faults()[0].path.as_str()), ("answer_invalid", "/answer"));
    assert!(error.report().contains("no room for another repair"), "{}", error.report());
    assert!(!error.report().contains("after a repair"), "there was none: {}", error.report());
}

#[tokio::test]
async fn errors_of_the_backend_are_its_own() {
    let broken = || Script::text("{").breaking_off(away);
    for script in [Script::error(away), broken()] {
        let stage = stage(actor().reply(script));
        assert_eq!(stage.structured.complete(colour()).await.unwrap_err().code(), "model_unavailable");
    }
    let stage = stage(actor().reply("no").reply(broken()));
    assert_eq!(stage.structured.complete(colour()).await.unwrap_err().code(), "model_unavailable");
    let silent = Planned::new("mute", [Plan { end: End::Silence, ..Plan::PLAIN }]);
    let silent = Structured::new(Arc::new(silent), StructuredConfig::default(), Arc::new(Told::default()));
    let error = silent.complete(colour()).await.unwrap_err();
    assert_eq!((error.code(), error.subject()), ("model_unavailable", "mute"));
}

#[tokio::test]
async fn an_enforced_answer_is_given_on_as_it_comes() {
    let ask = async |text: &str| {
        let stage = stage_with(enforcing(), actor().reply(text));
        let told = stage.told(colour()).await;
        assert!(stage.observed().is_empty());
        told
    };
    let words = |words: [&str; 2]| words.map(String::from).to_vec();
    assert_eq!(ask(GREEN).await, (words(["{\"colour\": ", "\"green\"}"]), true));
    for wrong in ["\"blue\"}", "\"green\",}"] {
        let [first, second] = ["{\"colour\": ", wrong];
        let expected = [words([first, second]), vec!["answer_invalid".into()]].concat();
        assert_eq!(ask(&format!("{first}{second}")).await, (expected, false), "nothing can be mended any more");
    }
    let malformed = || Error::new(ErrorKind::Failed, "no JSON object").with_code("model_malformed");
    let stage =
        stage_with(enforcing(), actor().reply(Script::text("{\"colour\": ").breaking_off(malformed)).reply(GREEN));
    assert_eq!(
        stage.told(colour()).await,
        (words(["{\"colour\": ", "answer_invalid"]), false),
        "nor can a call be made"
    );
    let stage = stage_with(enforcing(), actor().reply(Script::error(malformed)).reply(GREEN));
    assert_eq!(stage.told(colour()).await, (vec![GREEN.to_owned()], true), "nothing was given on yet");
    assert!(stage.model.requests()[1].messages[2].content.contains("there are none"), "it tried to call a tool");
    let stage = stage_with(enforcing(), talker().reply("no").reply(GREEN));
    assert_eq!(stage.told(colour()).await, (vec![GREEN.to_owned()], true), "who is asked in words enforces nothing");
}
