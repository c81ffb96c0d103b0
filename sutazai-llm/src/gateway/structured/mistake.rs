//! What can be wrong with an answer: told to the model that is to mend it, and to the caller if it does not.

use std::fmt::Write as _;

use sutazai_core::{
    Fault,
    model::{ChatRequest, Message, Role, ToolCall, ToolSpec},
};

use super::{
    answer::Answer,
    calls::{object, sendable},
    schema::Flaw,
};

/// Bytes of an answer that the model is shown again.
const SHOWN: usize = 8 << 10;

/// Why an answer is not given on.
#[derive(Debug)]
pub(super) enum Mistake {
    /// It has not the form that was asked for.
    Form(Vec<Flaw>),
    /// Some of its calls are wrong: the flaws of each one, none for those that are right.
    Calls(Vec<Vec<Flaw>>),
    /// The backend could not read its calls.
    Unreadable(Flaw),
}

impl Mistake {
    /// What is wrong, without what the model wrote. Places begin with `/answer` or with `/tool_calls` and the number of the call.
    pub(super) fn faults(&self) -> Vec<Fault> {
        match self {
            Self::Form(flaws) => flaws.iter().map(|flaw| flaw.fault("/answer")).collect(),
            Self::Calls(calls) => {
                let of_call = |(at, flaws): (usize, &Vec<Flaw>)| {
                    flaws.iter().map(|flaw| flaw.fault(&format!("/tool_calls/{at}"))).collect::<Vec<_>>()
                };
                calls.iter().enumerate().flat_map(of_call).collect()
            }
            Self::Unreadable(flaw) => vec![flaw.fault("/tool_calls")],
        }
    }

    /// The request once more, with the answer and what is wrong with it at its end: its text with a user's message, calls with a result for each,
    /// since that is what models and their servers expect behind a call.
    pub(super) fn ask_again(&self, request: &ChatRequest, answer: &Answer) -> ChatRequest {
        let mut again = request.clone();
        match self {
            Self::Form(flaws) => {
                let ask =
                    "Give the whole answer again, with that mended. Give the JSON alone, without any text around it.";
                again.messages.push(said(&answer.text));
                again.messages.push(asked(request, &format!("Your answer cannot be used.\n{}{ask}", list(flaws))));
            }
            Self::Calls(flaws) => {
                again.messages.push(called(answer, &request.tools));
                again.messages.extend(answer.calls.iter().zip(flaws).map(result));
            }
            Self::Unreadable(flaw) => {
                let ask = "Make them again, with arguments that are a JSON object.";
                again.messages.push(said(&answer.text));
                again
                    .messages
                    .push(asked(request, &format!("Your tool calls could not be read: {}\n{ask}", flaw.found)));
            }
        }
        again
    }
}

/// The answer in the conversation, as far as it may be shown. There always is one: not every template takes two messages of a user in a row.
fn said(text: &str) -> Message {
    let shown = match text.get(..text.floor_char_boundary(SHOWN)) {
        _ if text.trim().is_empty() => "(nothing)".to_owned(),
        Some(shown) if shown.len() < text.len() => format!("{shown}…"),
        _ => text.to_owned(),
    };
    Message::new(Role::Assistant, shown)
}

/// What is asked of the model, with the question that it is about: where the conversation does not fit the context, its last message is all that stays of
/// it.
fn asked(request: &ChatRequest, ask: &str) -> Message {
    match request.messages.iter().rfind(|message| message.role == Role::User) {
        Some(Message { content, images, .. }) => {
            Message { images: images.clone(), ..Message::user(format!("The question was:\n{content}\n\n{ask}")) }
        }
        None => Message::user(ask),
    }
}

/// The calls in the conversation. Arguments that are no object are left out, and names that no tool has are changed: not every server takes them back.
fn called(answer: &Answer, tools: &[ToolSpec]) -> Message {
    let call = |call: &ToolCall| {
        let arguments = object(&call.arguments).unwrap_or_else(|_| serde_json::json!({}));
        ToolCall { name: sendable(&call.name, tools), arguments, ..call.clone() }
    };
    let tool_calls = answer.calls.iter().map(call).collect();
    Message { tool_calls, ..Message::new(Role::Assistant, answer.text.as_str()) }
}

fn result((call, flaws): (&ToolCall, &Vec<Flaw>)) -> Message {
    let content = if flaws.is_empty() {
        "The call was not made, since another one beside it is wrong. Make it again.".to_owned()
    } else {
        format!("The call was not made.\n{}Make it again, with that mended.", list(flaws))
    };
    Message { tool_call_id: Some(call.id.clone()), ..Message::new(Role::Tool, content) }
}

/// One line for each flaw. Writing to a text cannot fail.
fn list(flaws: &[Flaw]) -> String {
    let mut list = String::new();
    for Flaw { place, found, .. } in flaws {
        let _ = match place.as_str() {
            "" => writeln!(list, "- {found}"),
            place => writeln!(list, "- at {place}: {found}"),
        };
    }
    list
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sutazai_core::model::{Image, Served};

    use super::*;

    fn flaw(place: &str) -> Flaw {
        Flaw::new(place, "value is wrong").found("7 is wrong")
    }

    fn answer(text: &str, arguments: &[Value]) -> Answer {
        let call = |(at, arguments): (usize, &Value)| ToolCall {
            id: format!("call_{at}"),
            name: "look".into(),
            arguments: arguments.clone(),
        };
        let mut answer = Answer::new(Served::default());
        answer.text = text.into();
        answer.calls = arguments.iter().enumerate().map(call).collect();
        answer
    }

    /// What is asked beyond the question.
    fn added(mistake: &Mistake, answer: &Answer) -> Vec<Message> {
        let mut messages = mistake.ask_again(&ChatRequest::ask("How many?"), answer).messages;
        assert_eq!(messages.remove(0), Message::user("How many?"));
        messages
    }

    #[test]
    fn a_wrong_form_is_quoted_to_the_model() {
        let messages = added(&Mistake::Form(vec![flaw("/a"), flaw("")]), &answer("{\"a\": 7}", &[]));
        assert_eq!(messages[0], Message::new(Role::Assistant, "{\"a\": 7}"));
        assert_eq!(messages[1].role, Role::User);
        assert!(messages[1].content.contains("- at /a: 7 is wrong\n- 7 is wrong\n"), "{}", messages[1].content);
        let mistake = Mistake::Form(vec![flaw("")]);
        assert_eq!(added(&mistake, &answer(" ", &[]))[0].content, "(nothing)");
        let long = added(&mistake, &answer(&"ü".repeat(SHOWN), &[])).remove(0).content;
        assert_eq!((long.chars().count(), long.chars().last()), (SHOWN / 2 + 1, Some('…')));
    }

    #[test]
    fn the_question_is_asked_again() {
        let image = Image { media_type: "image/png".into(), data: "AAAA".into() };
        let question = Message { images: vec![image.clone()], ..Message::user("How many?") };
        let request =
            ChatRequest::new(vec![Message::user("Hello."), question, Message::new(Role::Assistant, "Let me see.")]);
        for mistake in [Mistake::Form(vec![flaw("/a")]), Mistake::Unreadable(flaw(""))] {
            let last = mistake.ask_again(&request, &answer("{}", &[])).messages.pop().unwrap();
            assert_eq!((last.role, &last.images), (Role::User, &vec![image.clone()]));
            assert!(last.content.contains("How many?") && !last.content.contains("Hello"), "{}", last.content);
            let alone = mistake.ask_again(&ChatRequest::new(vec![Message::system("Go.")]), &answer("{}", &[]));
            assert!(alone.messages[2].content.starts_with("Your "), "{alone:?}");
        }
    }

    #[test]
    fn every_call_gets_a_result() {
        let mistake = Mistake::Calls(vec![vec![], vec![flaw("/arguments/at")]]);
        let messages = added(&mistake, &answer("I look.", &[json!({"at": 1}), json!([7])]));
        assert_eq!((messages[0].content.as_str(), messages.len()), ("I look.", 3));
        let arguments: Vec<_> = messages[0].tool_calls.iter().map(|call| &call.arguments).collect();
        assert_eq!(arguments, [&json!({"at": 1}), &json!({})]);
        let ids: Vec<_> = messages[1..].iter().map(|message| (message.role, message.tool_call_id.as_deref())).collect();
        assert_eq!(ids, [(Role::Tool, Some("call_0")), (Role::Tool, Some("call_1"))]);
        assert!(
            messages[1].content.contains("another one") && messages[2].content.contains("at /arguments/at: 7 is wrong")
        );
        let mut odd = answer("", &[json!({})]);
        odd.calls[0].name = "look at".into();
        assert_eq!(added(&mistake, &odd)[0].tool_calls[0].name, "look_at", "servers refuse what is no name");
    }

    #[test]
    fn callers_are_told_nothing_that_the_model_wrote() {
        let faults = Mistake::Form(vec![flaw("/a")]).faults();
        assert_eq!(faults, [Fault::new("/answer/a", "value is wrong")]);
        let faults = Mistake::Calls(vec![vec![], vec![flaw("/name")]]).faults();
        assert_eq!(faults, [Fault::new("/tool_calls/1/name", "value is wrong")]);
    }
}
