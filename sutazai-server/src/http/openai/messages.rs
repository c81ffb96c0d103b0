//! The messages of a conversation in OpenAI's format.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use serde_json::Value;
use sutazai_core::model::{Image, Message, Role, ToolCall};

use crate::http::{models::of_url, problem::Problem, strict::Object};

/// One message.
#[derive(Debug, Deserialize)]
pub(super) struct MessageBody {
    role: Speaker,
    content: Option<Content>,
    tool_calls: Option<Vec<Object<CallBody>>>,
    tool_call_id: Option<String>,
}

/// Who says it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Speaker {
    /// Called `developer` where the model thinks.
    #[serde(alias = "developer")]
    System,
    User,
    Assistant,
    Tool,
}

/// Text, or parts of text and pictures.
#[derive(Debug)]
enum Content {
    Text(String),
    Parts(Vec<Object<Part>>),
}

#[derive(Debug, Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
    image_url: Option<Object<ImageUrl>>,
}

#[derive(Debug, Deserialize)]
struct ImageUrl {
    url: String,
}

#[derive(Debug, Deserialize)]
struct CallBody {
    id: String,
    function: Object<CalledFunction>,
}

#[derive(Debug, Deserialize)]
struct CalledFunction {
    name: String,
    arguments: String,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrParts;

        impl<'de> Visitor<'de> for TextOrParts {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of parts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, parts: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(parts)).map(Content::Parts)
            }
        }

        // Not an untagged enum: that could not say which part is wrong.
        deserializer.deserialize_any(TextOrParts)
    }
}

/// The conversation of a request.
pub(super) fn messages(bodies: Vec<Object<MessageBody>>) -> Result<Vec<Message>, Problem> {
    if bodies.is_empty() {
        return Err(Problem::field("/messages", "at least one message is needed"));
    }
    bodies
        .into_iter()
        .enumerate()
        .map(|(index, Object(body))| body.into_message(&format!("/messages/{index}")))
        .collect()
}

impl MessageBody {
    /// The message, which stands at `at`.
    fn into_message(self, at: &str) -> Result<Message, Problem> {
        let role = match self.role {
            Speaker::System => Role::System,
            Speaker::User => Role::User,
            Speaker::Assistant => Role::Assistant,
            Speaker::Tool => Role::Tool,
        };
        let (content, images) = match self.content {
            None => (String::new(), Vec::new()),
            Some(Content::Text(text)) => (text, Vec::new()),
            Some(Content::Parts(parts)) => joined(parts, &format!("{at}/content"))?,
        };
        let tool_calls = self.tool_calls.unwrap_or_default().into_iter().map(|Object(call)| call.into_call()).collect();
        Ok(Message { role, content, images, tool_calls, tool_call_id: self.tool_call_id })
    }
}

/// The parts of a message: a line for each of text, and the pictures.
fn joined(parts: Vec<Object<Part>>, at: &str) -> Result<(String, Vec<Image>), Problem> {
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    for (index, Object(part)) in parts.into_iter().enumerate() {
        match (&*part.r#type, part.text, part.image_url) {
            ("text", Some(text), _) => texts.push(text),
            ("image_url", _, Some(Object(image))) => {
                images.push(of_url(&format!("{at}/{index}/image_url/url"), &image.url)?)
            }
            (field @ ("text" | "image_url"), ..) => {
                return Err(Problem::field(format!("{at}/{index}/{field}"), "the part has none of what it says it is"));
            }
            (other, ..) => {
                let message = format!("{other:?} is not supported; \"text\" and \"image_url\" are");
                return Err(Problem::field(format!("{at}/{index}/type"), message));
            }
        }
    }
    Ok((texts.join("\n"), images))
}

impl CallBody {
    /// A call as the model made it. What is no JSON, as a model may write it, stays text.
    fn into_call(self) -> ToolCall {
        let Object(CalledFunction { name, arguments }) = self.function;
        let arguments = serde_json::from_str(&arguments).unwrap_or(Value::String(arguments));
        ToolCall { id: self.id, name, arguments }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(bodies: Value) -> Result<Vec<Message>, String> {
        messages(serde_json::from_value(bodies).unwrap()).map_err(|problem| problem.faults()[0].path.clone())
    }

    #[test]
    fn a_conversation_is_taken_over() {
        let call = json!({"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}});
        let read = read(json!([
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "What"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA==", "detail": "low"}},
                {"type": "text", "text": "is this?"},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "content": "2", "tool_call_id": "c1", "name": "unread"},
        ]))
        .unwrap();
        assert_eq!(read[0], Message::system("Be brief."));
        assert_eq!((&*read[1].content, read[1].images.len()), ("What\nis this?", 1));
        let call = ToolCall { id: "c1".into(), name: "add".into(), arguments: json!({"a": 1}) };
        assert_eq!((read[2].role, &*read[2].content, &read[2].tool_calls), (Role::Assistant, "", &vec![call]));
        assert_eq!((read[3].role, read[3].tool_call_id.as_deref()), (Role::Tool, Some("c1")));
    }

    #[test]
    fn arguments_that_are_no_json_stay_text() {
        let body: CallBody =
            serde_json::from_value(json!({"id": "c", "function": {"name": "f", "arguments": "{half"}})).unwrap();
        assert_eq!(body.into_call().arguments, json!("{half"));
    }

    #[test]
    fn a_wrong_part_is_named() {
        assert_eq!(read(json!([])).unwrap_err(), "/messages");
        let part = |part: Value| {
            read(json!([{"role": "user", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "x"}, part]}]))
                .unwrap_err()
        };
        assert_eq!(part(json!({"type": "input_audio"})), "/messages/1/content/1/type");
        assert_eq!(part(json!({"type": "text"})), "/messages/1/content/1/text");
        let url = json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}});
        assert_eq!(part(url), "/messages/1/content/1/image_url/url");
    }
}
