//! Tool calls: which are given on, which are mended, and which are stopped.

use sutazai_core::model::Usage;

use super::*;
use crate::spent;

fn tools() -> ChatRequest {
    let at = json!({"type": "object", "properties": {"at": {"enum": ["sky", "sea"]}}, "required": ["at"]});
    let tool = |name: &str, parameters: Value| ToolSpec { name: name.into(), description: String::new(), parameters };
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
        let script = Script::text("").calling(wrong).calling(ToolCall { id: "c2".into(), ..call("clock", json!({})) });
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
    let error = stage.structured.complete(tools()).await.unwrap_err();
    assert_eq!((error.code(), error.faults()[0].path.as_str()), ("answer_invalid", "/tool_calls"));
}

#[tokio::test]
async fn what_calls_that_cannot_be_read_took_counts() {
    let malformed = || {
        let error = Error::new(ErrorKind::Failed, "no JSON object").with_code("model_malformed");
        spent::because(error, "why", Usage { prompt_tokens: 100, completion_tokens: 10 })
    };
    let stage = stage(actor().reply(Script::error(malformed)).reply("It is grey."));
    let usage = stage.structured.complete(tools()).await.unwrap().finish.usage;
    assert_eq!(usage.completion_tokens, 10 + 3);
    assert!(usage.prompt_tokens > 100, "{usage:?}");
}

#[tokio::test]
async fn with_a_form_an_answer_calls_or_fits() {
    let request = || ChatRequest { tools: tools().tools, ..colour() };
    let stage =
        stage_with(enforcing(), actor().reply(Script::text("I look.").calling(look("sky"))).reply("no").reply(GREEN));
    assert_eq!(stage.told(request()).await, told(&["I look.", LOOKS]));
    assert_eq!(stage.told(request()).await, told(&[GREEN]));
    for request in stage.model.requests() {
        assert_eq!(request.response_format, ResponseFormat::Text, "a grammar would leave no room for calls");
        assert!(request.messages[0].content.starts_with("When you do not call a tool"), "{request:?}");
    }
    // Nobody offered any tools.
    let stage = self::stage(actor().reply(Script::text("").calling(look("sky"))).reply(GREEN));
    assert_eq!(stage.told(colour()).await, told(&[GREEN]));
}

#[tokio::test]
async fn a_question_without_a_form_and_tools_is_left_alone_and_calls_nothing() {
    let stage = stage(actor().reply("{").reply(Script::text("{").calling(call("lok", json!([])))));
    assert_eq!(stage.told(ChatRequest::ask("x")).await, told(&["{"]));
    let (said, _) = stage.told(ChatRequest::ask("x")).await;
    assert_eq!(said[..2], ["{", "answer_invalid"]);
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
