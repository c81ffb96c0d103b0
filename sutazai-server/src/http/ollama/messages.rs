//! The messages of a conversation in Ollama's format.

use serde::Deserialize;
use serde_json::Value;
use sutazai_core::model::{Image, Message, Role, ToolCall};

use crate::http::{models::of_base64, problem::Problem, strict::Object};

/// One message.
#[derive(Debug, Deserialize)]
pub(super) struct MessageBody {
    role: Role,
    content: Option<String>,
    images: Option<Vec<String>>,
    tool_calls: Option<Vec<Object<CallBody>>>,
    tool_name: Option<String>,
    tool_call_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct CallBody {
    id: Option<String>,
    function: Object<CalledFunction>,
}

#[derive(Debug, Deserialize)]
struct CalledFunction {
    name: String,
    #[serde(default)]
    arguments: Value,
}

/// The conversation of a request.
///
/// Here a result names its tool, and calls need no ids: they get some, and a result belongs to the first call of its tool that has none yet.
pub(super) fn messages(bodies: Vec<Object<MessageBody>>) -> Result<Vec<Message>, Problem> {
    let mut open: Vec<(String, String)> = Vec::new();
    let mut calls = 0;
    let mut messages = Vec::with_capacity(bodies.len());
    for (index, Object(body)) in bodies.into_iter().enumerate() {
        let mut message = Message::new(body.role, body.content.unwrap_or_default());
        message.images = pictures(&format!("/messages/{index}/images"), body.images.unwrap_or_default())?;
        for Object(call) in body.tool_calls.unwrap_or_default() {
            let id = call.id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("call_{calls}"));
            calls += 1;
            let Object(CalledFunction { name, arguments }) = call.function;
            open.push((id.clone(), name.clone()));
            message.tool_calls.push(ToolCall { id, name, arguments });
        }
        if body.role == Role::Tool {
            message.tool_call_id = body.tool_call_id.or_else(|| {
                let of_tool = |(_, name): &(String, String)| body.tool_name.as_ref().is_none_or(|tool| tool == name);
                open.iter().position(of_tool).map(|place| open.remove(place).0)
            });
        }
        messages.push(message);
    }
    Ok(messages)
}

/// The pictures at `at`.
pub(super) fn pictures(at: &str, images: Vec<String>) -> Result<Vec<Image>, Problem> {
    images.iter().enumerate().map(|(index, image)| of_base64(&format!("{at}/{index}"), image)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(bodies: Value) -> Result<Vec<Message>, String> {
        messages(serde_json::from_value(bodies).unwrap()).map_err(|problem| problem.faults()[0].path.clone())
    }

    #[test]
    fn results_find_their_calls() {
        let read = read(json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is it like?", "images": ["iVBORw0KGgo="]},
            {"role": "assistant", "content": "", "tool_calls": [
                {"function": {"name": "look", "arguments": {"at": "sky"}}},
                {"function": {"name": "feel", "arguments": {}}},
                {"id": "mine", "function": {"name": "look", "arguments": {}}},
            ]},
            {"role": "tool", "content": "wet", "tool_name": "feel"},
            {"role": "tool", "content": "grey", "tool_name": "look"},
            {"role": "tool", "content": "dark", "tool_name": "look"},
            {"role": "tool", "content": "?", "tool_name": "look"},
        ]))
        .unwrap();
        assert_eq!((&*read[0].content, read[1].images[0].media_type.as_str()), ("Be brief.", "image/png"));
        let arguments = &read[2].tool_calls[0].arguments;
        assert_eq!(arguments, &json!({"at": "sky"}));
        let answered: Vec<_> = read[3..].iter().map(|message| message.tool_call_id.as_deref()).collect();
        assert_eq!(answered, [Some("call_1"), Some("call_0"), Some("mine"), None]);
    }

    #[test]
    fn a_wrong_picture_is_named() {
        let bodies = json!([{"role": "user", "content": "", "images": ["iVBORw0KGgo=", "x"]}]);
        assert_eq!(read(bodies).unwrap_err(), "/messages/0/images/1");
        assert!(serde_json::from_value::<MessageBody>(json!({"role": "wizard", "content": "x"})).is_err());
    }
}
