//! A scripted model behind the check: what is mended, what is given on as it comes, and what is stopped.

use std::{mem, sync::Mutex};

use futures_util::StreamExt;
use serde_json::{Value, json};
use sutazai_core::{
    Error, ErrorKind,
    memory::{Script, ScriptedChat},
    model::{CacheUse, ChatEvent, ChatModelExt, Message, Role, Sampling, StopReason, ToolCall, ToolSpec},
};

use super::*;
use crate::gateway::{
    Gateway,
    cache::MemoryAnswers,
    fake::{self, End, Plan, Planned, away},
};

/// What the check told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

impl GatewayObserver for Told {
    fn repaired(&self, model: &str, round: u32) {
        self.0.lock().unwrap().push(format!("repaired {model} {round}"));
    }

    fn tool_loop(&self, model: &str) {
        self.0.lock().unwrap().push(format!("loop of {model}"));
    }
}

struct Stage {
    model: Arc<ScriptedChat>,
    structured: Structured,
    told: Arc<Told>,
}

impl Stage {
    async fn events(&self, request: ChatRequest) -> Vec<Result<ChatEvent>> {
        self.structured.chat(request).await.unwrap().collect().await
    }

    /// What is said and called, and whether it ends well.
    async fn told(&self, request: ChatRequest) -> (Vec<String>, bool) {
        let short = |event: Result<ChatEvent>| match event {
            Ok(ChatEvent::Text(text) | ChatEvent::Thinking(text)) => text,
            Ok(ChatEvent::ToolCall(ToolCall { id, name, arguments })) => format!("{id} {name} {arguments}"),
            Ok(ChatEvent::Finish(_)) => ".".to_owned(),
            Err(error) => error.code().to_owned(),
        };
        let mut told: Vec<_> = self.events(request).await.into_iter().map(short).collect();
        let ends_well = told.pop_if(|last| last == ".").is_some();
        (told, ends_well)
    }

    fn observed(&self) -> Vec<String> {
        mem::take(&mut self.told.0.lock().unwrap())
    }
}

fn stage_with(config: StructuredConfig, model: ScriptedChat) -> Stage {
    let (model, told) = (Arc::new(model), Arc::new(Told::default()));
    let structured = Structured::new(model.clone(), config, told.clone());
    Stage { model, structured, told }
}

fn stage(model: ScriptedChat) -> Stage {
    stage_with(StructuredConfig::default(), model)
}

/// The scripted model as one whose grammar can be relied on.
fn enforcing() -> StructuredConfig {
    StructuredConfig { enforcing: vec!["scripted".into()], ..StructuredConfig::default() }
}

fn actor() -> ScriptedChat {
    ScriptedChat::new("actor")
}

/// A model that knows nothing of schemas.
fn talker() -> ScriptedChat {
    actor().with_capabilities(ModelCapabilities { chat: true, tools: true, seed: true, ..ModelCapabilities::NONE })
}

const GREEN: &str = r#"{"colour": "green"}"#;
const BLUE: &str = r#"{"colour": "blue"}"#;

fn colour() -> ChatRequest {
    let schema =
        json!({"type": "object", "properties": {"colour": {"enum": ["red", "green"]}}, "required": ["colour"]});
    ChatRequest { response_format: ResponseFormat::Schema(schema), ..ChatRequest::ask("What colour is grass?") }
}

mod suite {
    use super::*;

    mod collected {
        use super::*;

        sutazai_core::chat_conformance!(stage(fake::actor()).structured);
    }

    mod enforced {
        use super::*;

        sutazai_core::chat_conformance!(stage_with(enforcing(), fake::actor()).structured);
    }

    mod in_words {
        use super::*;

        sutazai_core::chat_conformance!(
            stage(talker().otherwise(Script::by(|request| {
                let asked = &request.messages[0].content;
                let said = match (asked.contains("JSON schema"), asked.contains("one JSON object")) {
                    (true, _) => r#"{"colour": "green", "sure": true}"#,
                    (_, true) => r#"{"grass": "green"}"#,
                    _ => "one two three four five six seven eight nine ten and so on",
                };
                said.into()
            })))
            .structured
        );
    }
}

mod form {
    use super::*;

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
        for (request, (answer, fault)) in requests[1..].iter().zip([("It is green.", "not JSON"), (BLUE, "at /colour")])
        {
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
            let error = stage.structured.chat(colour()).await.unwrap_err();
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
        assert_eq!(stage.structured.complete(cut()).await.unwrap_err().code(), "answer_invalid");
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
            assert_eq!(stage.structured.chat(colour()).await.unwrap_err().code(), "model_unavailable");
        }
        let stage = stage(actor().reply("no").reply(broken()));
        assert_eq!(stage.structured.chat(colour()).await.unwrap_err().code(), "model_unavailable");
        let silent = Planned::new("mute", [Plan { end: End::Silence, ..Plan::PLAIN }]);
        let silent = Structured::new(Arc::new(silent), StructuredConfig::default(), Arc::new(Told::default()));
        let error = silent.chat(colour()).await.unwrap_err();
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
        let stage = stage_with(enforcing(), talker().reply("no").reply(GREEN));
        assert_eq!(
            stage.told(colour()).await,
            (vec![GREEN.to_owned()], true),
            "who is asked in words enforces nothing"
        );
    }
}

mod calls {
    use super::*;

    fn tools() -> ChatRequest {
        let at = json!({"type": "object", "properties": {"at": {"enum": ["sky", "sea"]}}, "required": ["at"]});
        let tool =
            |name: &str, parameters: Value| ToolSpec { name: name.into(), description: String::new(), parameters };
        let tools = vec![tool("look", at), tool("clock", json!({"type": "object"}))];
        ChatRequest { tools, ..ChatRequest::ask("What is there?") }
    }

    fn call(name: &str, arguments: Value) -> ToolCall {
        ToolCall { id: "c1".into(), name: name.into(), arguments }
    }

    fn look(at: &str) -> ToolCall {
        call("look", json!({"at": at}))
    }

    fn told(lines: &[&str]) -> (Vec<String>, bool) {
        (lines.iter().map(ToString::to_string).collect(), true)
    }

    const LOOKS: &str = r#"c1 look {"at":"sky"}"#;

    #[tokio::test]
    async fn calls_that_are_right_follow_the_text() {
        let stage = stage(actor().reply(Script::text("I look.").calling(look("sky"))).reply("It is grey."));
        assert_eq!(stage.told(tools()).await, told(&["I ", "look.", LOOKS]));
        assert_eq!(stage.told(tools()).await, told(&["It ", "is ", "grey."]), "nobody has to call");
        assert!(stage.observed().is_empty());
    }

    #[tokio::test]
    async fn calls_that_are_all_but_right_need_no_repair() {
        let written = ToolCall { id: String::new(), ..call("look", json!("{\"at\": \"sky\",}")) };
        let nothing = ToolCall { id: String::new(), ..call("clock", Value::Null) };
        let stage = stage(actor().reply(Script::text("").calling(written).calling(nothing)));
        assert_eq!(stage.told(tools()).await, told(&[r#"call_0 look {"at":"sky"}"#, "call_1 clock {}"]));
        assert!(stage.observed().is_empty());
    }

    #[tokio::test]
    async fn wrong_calls_are_mended_by_the_model() {
        for (wrong, fault) in [
            (call("lok", json!({})), "\"look\", \"clock\""),
            (look("earth"), "at /arguments/at: \"earth\""),
            (call("look", json!({})), "at /arguments: \"at\""),
            (call("look", json!("sky")), "not a JSON object"),
        ] {
            let script =
                Script::text("").calling(wrong).calling(ToolCall { id: "c2".into(), ..call("clock", json!({})) });
            let stage = stage(actor().reply(script).reply(Script::text("").calling(look("sky"))));
            assert_eq!(stage.told(tools()).await, told(&[LOOKS]), "the right one is not given on alone");
            assert_eq!(stage.observed(), ["repaired actor 1"]);
            let request = &stage.model.requests()[1];
            let [_, wrong, first, second] = &request.messages[..] else { panic!("{request:?}") };
            assert_eq!((wrong.role, wrong.tool_calls.len()), (Role::Assistant, 2));
            assert!(wrong.tool_calls.iter().all(|call| call.arguments.is_object()), "{wrong:?}");
            for (result, id) in [(first, "c1"), (second, "c2")] {
                assert_eq!((result.role, result.tool_call_id.as_deref()), (Role::Tool, Some(id)));
            }
            assert!(first.content.contains(fault), "{}", first.content);
            assert!(second.content.contains("another one"), "{}", second.content);
        }
    }

    #[tokio::test]
    async fn what_was_said_before_wrong_calls_stays() {
        let wrong = || Script::text("I look.").calling(look("earth"));
        let again = Script::text("I look again.").calling(look("sky"));
        let stage = stage(actor().reply(wrong()).reply(again).reply(wrong()).reply("It is grey."));
        assert_eq!(stage.told(tools()).await, told(&["I ", "look.", LOOKS]));
        assert_eq!(stage.told(tools()).await, told(&["I ", "look.", "\n\nIt is grey."]));
    }

    #[tokio::test]
    async fn calls_that_stay_wrong_are_an_error() {
        let stage = stage(actor().otherwise(Script::text("I look.").calling(call("lok", json!({})))));
        let mut events = stage.events(tools()).await;
        let error = events.pop().unwrap().unwrap_err();
        assert_eq!((error.kind(), error.code(), events.len()), (ErrorKind::Failed, "answer_invalid", 2));
        assert_eq!(error.faults()[0].path, "/tool_calls/0/name");
        assert_eq!(stage.model.requests().len(), 3);
    }

    #[tokio::test]
    async fn calls_that_the_backend_cannot_read_are_made_again() {
        let malformed = || Error::new(ErrorKind::Failed, "no JSON object").with_code("model_malformed").because("why");
        for script in [Script::error(malformed), Script::text("I look.").breaking_off(malformed)] {
            let stage = stage(actor().reply(script).reply(Script::text("").calling(look("sky"))));
            let (told, ends_well) = stage.told(tools()).await;
            assert_eq!((told.last().map(String::as_str), ends_well), (Some(LOOKS), true));
            let ask = stage.model.requests().remove(1).messages.remove(2);
            assert!(ask.role == Role::User && ask.content.contains("no JSON object: why"), "{}", ask.content);
        }
        let stage = stage(actor().otherwise(Script::error(malformed)));
        let error = stage.structured.chat(tools()).await.unwrap_err();
        assert_eq!((error.code(), error.faults()[0].path.as_str()), ("answer_invalid", "/tool_calls"));
    }

    #[tokio::test]
    async fn with_a_form_an_answer_calls_or_fits() {
        let request = || ChatRequest { tools: tools().tools, ..colour() };
        let stage = stage_with(
            enforcing(),
            actor().reply(Script::text("I look.").calling(look("sky"))).reply("no").reply(GREEN),
        );
        assert_eq!(stage.told(request()).await, told(&["I look.", LOOKS]));
        assert_eq!(stage.told(request()).await, told(&[GREEN]));
        // Nobody offered any tools.
        let stage = self::stage(actor().reply(Script::text("").calling(look("sky"))).reply(GREEN));
        assert_eq!(stage.told(colour()).await, told(&[GREEN]));
    }

    #[tokio::test]
    async fn a_question_without_a_form_and_tools_is_left_alone() {
        let stage = stage(actor().reply(Script::text("{").calling(call("lok", json!([])))));
        assert_eq!(stage.told(ChatRequest::ask("x")).await, told(&["{", "c1 lok []"]));
    }

    /// A conversation in which the sky was looked at so often.
    fn looked(times: usize) -> ChatRequest {
        let asks = Message { tool_calls: vec![look("sky")], ..Message::new(Role::Assistant, "") };
        let result = Message { tool_call_id: Some("c1".into()), ..Message::new(Role::Tool, "grey") };
        let mut request = tools();
        request.messages.extend((0..times).flat_map(|_| [asks.clone(), result.clone()]));
        request
    }

    #[tokio::test]
    async fn a_loop_is_stopped() {
        let model = || actor().otherwise(Script::text("I look.").calling(look("sky")));
        let stage = stage(model());
        assert_eq!(stage.told(looked(2)).await, told(&["I ", "look.", LOOKS]));
        let mut events = stage.events(looked(3)).await;
        let error = events.pop().unwrap().unwrap_err();
        assert_eq!((error.kind(), error.code(), events.len()), (ErrorKind::Failed, "tool_loop", 2));
        let report = "chat with actor: the model calls \"look\" again after it did so 3 times with the same arguments and the same results";
        assert_eq!(error.report(), report);
        assert_eq!(stage.observed(), ["loop of actor"]);
        assert_eq!(stage.model.requests().len(), 2, "nobody asks for another answer");
        for (loop_after, stopped) in [(0, false), (10, false), (9, true), (1, true)] {
            let stage = stage_with(StructuredConfig { loop_after, ..StructuredConfig::default() }, model());
            assert_eq!(stage.told(looked(9)).await.1, !stopped, "{loop_after}");
        }
    }

    #[tokio::test]
    async fn something_else_is_no_loop() {
        let stage =
            stage(actor().reply(Script::text("").calling(look("sea"))).reply(Script::text("").calling(look("sky"))));
        assert!(stage.told(looked(3)).await.1);
        let mut asked_again = looked(3);
        asked_again.messages.push(Message::user("And now?"));
        assert!(stage.told(asked_again).await.1);
    }
}

#[tokio::test]
async fn the_caches_keep_what_was_mended() {
    let model = Arc::new(actor().reply(BLUE).reply(GREEN));
    let gateway = Gateway::new(Arc::new(Told::default()))
        .structured(StructuredConfig::default())
        .answers(Arc::new(MemoryAnswers::default()));
    let front = gateway.front(model.clone(), Vec::new());
    for expected in [CacheUse::Miss, CacheUse::Hit] {
        let answer = front.chat(ChatRequest { sampling: Sampling::GREEDY, ..colour() }).await.unwrap();
        assert_eq!(answer.served().cache, expected);
        let events: Vec<_> = answer.map(Result::unwrap).collect().await;
        assert_eq!(events[0], ChatEvent::Text(GREEN.into()));
    }
    assert_eq!(model.requests().len(), 2);
}
