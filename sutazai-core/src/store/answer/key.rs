//! What makes two requests the same.

use std::fmt;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::model::{ChatRequest, ModelInfo};

/// Part of every key: a change to what is hashed makes old keys unfindable instead of wrong.
const FORMAT: u32 = 1;

/// SHA-256 of a request in one fixed form.
///
/// Equal keys mean: the same tenant; a model of the same name, backend and digest; the same messages, tools, form of the answer, sampling,
/// `max_tokens`, stop sequences and `think`. The order of an object's fields means nothing, nor does under which name the caller asked for the
/// model, who asks beyond the tenant, or what the request says about caching. Where a backend knows no digest, other weights under an old name
/// are not noticed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnswerKey([u8; 32]);

impl AnswerKey {
    /// The key of `request` to the model that `info` describes; `None` if it cannot be written as JSON, which no request of a caller's is known
    /// to do.
    #[must_use]
    pub fn of(info: &ModelInfo, request: &ChatRequest) -> Option<Self> {
        Some(digest(info, request, serde_json::to_value(request).ok()?))
    }

    /// The key of all that `request` has beside the text of its message number `at`, in whose place stands `instead`; `None` if there is no such
    /// message. No request has it for its own key.
    #[must_use]
    pub fn around(info: &ModelInfo, request: &ChatRequest, at: usize, instead: &str) -> Option<Self> {
        let mut value = serde_json::to_value(request).ok()?;
        *value.pointer_mut(&format!("/messages/{at}/content"))? = Value::from(instead);
        // No exact request hashes like one with a hole in it.
        value.as_object_mut()?.insert("around".into(), Value::from(at));
        Some(digest(info, request, value))
    }
}

fn digest(info: &ModelInfo, request: &ChatRequest, mut value: Value) -> AnswerKey {
    if let Value::Object(fields) = &mut value {
        // The one that is asked stands in the head.
        fields.insert("model".into(), Value::Null);
    }
    let mut hasher = Sha256::new();
    write(&json!([FORMAT, request.caller.tenant(), info.backend, info.name, info.digest]), &mut hasher);
    write(&value, &mut hasher);
    AnswerKey(hasher.finalize().into())
}

/// Writes JSON with the fields of objects in order: whether a map keeps theirs depends on features that any crate in the build can switch on.
fn write(value: &Value, out: &mut Sha256) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            out.update("{");
            for (at, (name, value)) in fields.into_iter().enumerate() {
                out.update(if at == 0 { "" } else { "," });
                out.update(Value::from(name.as_str()).to_string());
                out.update(":");
                write(value, out);
            }
            out.update("}");
        }
        Value::Array(items) => {
            out.update("[");
            for (at, item) in items.iter().enumerate() {
                out.update(if at == 0 { "" } else { "," });
                write(item, out);
            }
            out.update("]");
        }
        plain => out.update(plain.to_string()),
    }
}

/// In lower-case hexadecimal.
impl fmt::Display for AnswerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AnswerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnswerKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc, time::Duration};

    use super::*;
    use crate::{
        clock::Timestamp,
        model::{Caching, Caller, Message, ResponseFormat, Sampling, ToolSpec},
        task::Priority,
    };

    fn info() -> ModelInfo {
        ModelInfo { digest: Some("sha256:1".into()), ..ModelInfo::new("actor", "scripted", 8192) }
    }

    fn request() -> ChatRequest {
        let messages = vec![Message::system("You are brief."), Message::user("How \"far\" is the moon?")];
        ChatRequest { sampling: Sampling::GREEDY, ..ChatRequest::new(messages) }
    }

    fn key(request: &ChatRequest) -> AnswerKey {
        AnswerKey::of(&info(), request).unwrap()
    }

    #[test]
    fn the_form_never_changes() {
        assert_eq!(key(&request()).to_string(), "e1069718ef9c26daf9c4a1740a815d8957e68956a0c137ab50c830bd84ca675b");
    }

    #[test]
    fn who_asks_and_how_does_not_matter() {
        let caller = Caller {
            agent: Some("guide".into()),
            tenant: Some("default".into()),
            priority: Priority::MAX,
            deadline: Some(Timestamp::NEVER),
            ..Caller::default()
        };
        let caching = Caching::MaxAge(Duration::from_secs(1));
        let other = ChatRequest { model: Some("actor".into()), caching, caller, ..request() };
        assert_eq!(key(&other), key(&request()));
    }

    #[test]
    fn everything_else_does() {
        let tool = ToolSpec { name: "look".into(), description: String::new(), parameters: json!({}) };
        let tenant = Caller { tenant: Some(Arc::from("other")), ..Caller::default() };
        let others = [
            ChatRequest { messages: vec![Message::user("How \"far\" is the moon?")], ..request() },
            ChatRequest { tools: vec![tool], ..request() },
            ChatRequest { response_format: ResponseFormat::Json, ..request() },
            ChatRequest { sampling: Sampling { seed: Some(1), ..Sampling::GREEDY }, ..request() },
            ChatRequest { max_tokens: Some(7), ..request() },
            ChatRequest { stop: vec!["moon".into()], ..request() },
            ChatRequest { think: Some(false), ..request() },
            ChatRequest { caller: tenant, ..request() },
            request(),
        ];
        let mut keys: Vec<_> = others.iter().map(key).collect();
        let changed = [
            ModelInfo { name: "extra".into(), ..info() },
            ModelInfo { backend: "ollama".into(), ..info() },
            ModelInfo { digest: Some("sha256:2".into()), ..info() },
            ModelInfo { digest: None, ..info() },
        ];
        keys.extend(changed.iter().map(|info| AnswerKey::of(info, &request()).unwrap()));
        let holes = ["", "moon", "How \"far\" is the moon?"];
        keys.extend(holes.map(|instead| AnswerKey::around(&info(), &request(), 1, instead).unwrap()));
        let distinct: HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn the_order_of_fields_does_not_matter() {
        let schema = |text: &str| {
            let schema = serde_json::from_str(text).unwrap();
            key(&ChatRequest { response_format: ResponseFormat::Schema(schema), ..request() })
        };
        let (a, b) = (r#"{"a": {"x": 1, "y": [2, 3]}, "b": null}"#, r#"{"b": null, "a": {"y": [2, 3], "x": 1}}"#);
        assert_eq!(schema(a), schema(b));
        assert_ne!(schema(a), schema(r#"{"a": {"x": 1, "y": [3, 2]}, "b": null}"#));
    }

    #[test]
    fn a_hole_hides_what_was_there() {
        let other = |text: &str| {
            let messages = vec![Message::system("You are brief."), Message::user(text)];
            AnswerKey::around(&info(), &ChatRequest { messages, ..request() }, 1, "").unwrap()
        };
        assert_eq!(other("How far is the moon?"), other("What is the way to the moon?"));
        assert!(AnswerKey::around(&info(), &request(), 2, "").is_none());
    }
}
