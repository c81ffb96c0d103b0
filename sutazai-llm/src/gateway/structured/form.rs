//! The form of an answer: asked for in words where the backend cannot be bound to it, and checked.

use std::borrow::Cow;

use serde_json::{Value, json};
use sutazai_core::{
    Result,
    model::{ChatRequest, Message, ResponseFormat, Role},
};

use super::schema::{Flaw, Schema};
use crate::json;

/// What an answer has to be.
#[derive(Debug)]
pub(super) struct Form {
    schema: Schema,
    is_object: bool,
}

/// How an answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// By the rules of [`crate::json`].
    Mended,
    /// As it stands, since it is with the caller already.
    Strict,
}

impl Form {
    /// The form that a request asks for; none where the answer is free. Code `schema_unsupported` if no answer can be checked.
    pub(super) fn of(format: &ResponseFormat) -> Result<Option<Self>> {
        let compile = |schema: &Value| Schema::compile(schema, "/response_format/schema");
        let schema = match format {
            ResponseFormat::Text => return Ok(None),
            ResponseFormat::Json => compile(&json!({"type": "object"}))?,
            ResponseFormat::Schema(schema) => compile(schema)?,
        };
        let is_object = *format == ResponseFormat::Json;
        Ok(Some(Self { schema, is_object }))
    }

    /// The answer as JSON, or what is wrong with it. Where it was `cut`, the beginning of one will do, and the fence around it may have no end.
    pub(super) fn check<'a>(
        &self,
        text: &'a str,
        cut: bool,
        reading: Reading,
    ) -> std::result::Result<Cow<'a, str>, Vec<Flaw>> {
        let read = |text: &'a str| match reading {
            Reading::Mended => json::read(text),
            Reading::Strict => serde_json::from_str::<Value>(text).map(|value| (Cow::Borrowed(text), value)),
        };
        let (mut text, mut found) = (text, read(text));
        if cut && found.is_err() && reading == Reading::Mended {
            text = json::beginning(text);
            found = read(text);
        }
        match found {
            Ok((text, value)) => {
                let flaws = self.schema.flaws(&value, text.len());
                if flaws.is_empty() { Ok(text) } else { Err(flaws) }
            }
            Err(error) if cut && error.is_eof() && self.may_begin_with(text) => Ok(Cow::Borrowed(text)),
            Err(_) if text.trim().is_empty() => Err(vec![Flaw::new("", "the answer is empty")]),
            // It says where and what was expected, and quotes nothing.
            Err(error) => Err(vec![Flaw::new("", format_args!("this is not JSON: {error}"))]),
        }
    }

    fn may_begin_with(&self, text: &str) -> bool {
        let text = text.trim_start();
        !self.is_object || text.is_empty() || text.starts_with('{')
    }
}

/// The same request with the form asked for in words. They stand in the first message if that has instructions: not every template takes several.
pub(super) fn in_words(mut request: ChatRequest) -> ChatRequest {
    let format = std::mem::take(&mut request.response_format);
    let what = match format {
        ResponseFormat::Text => return request,
        ResponseFormat::Json => "one JSON object".to_owned(),
        ResponseFormat::Schema(schema) => format!("JSON that fits this JSON schema:\n{schema}\n\nGive that JSON"),
    };
    let when = if request.tools.is_empty() { "Answer" } else { "When you do not call a tool, answer" };
    let words = format!("{when} with {what} and nothing else: no text before or after it, and no Markdown.");
    match request.messages.first_mut() {
        Some(first) if first.role == Role::System => {
            first.content.push_str("\n\n");
            first.content.push_str(&words);
        }
        _ => request.messages.insert(0, Message::system(words)),
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(schema: Value) -> Form {
        Form::of(&ResponseFormat::Schema(schema)).unwrap().unwrap()
    }

    #[test]
    fn an_answer_fits_or_says_where_it_does_not() {
        let form = form(json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}));
        let check = |text| form.check(text, false, Reading::Mended);
        assert_eq!(check(" {\"a\": 1}").unwrap(), " {\"a\": 1}");
        assert_eq!(check("```json\n{\"a\": 1,}\n```").unwrap(), "{\"a\": 1}");
        assert_eq!(check("{\"a\": \"b\"}").unwrap_err()[0].place, "/a");
        assert!(check("{\"a\": 1").unwrap_err()[0].rule.contains("EOF"));
        assert_eq!(check(" \n").unwrap_err()[0].rule, "the answer is empty");
        assert!(form.check("{\"a\": 1,}", false, Reading::Strict).is_err(), "nobody can mend it any more");
    }

    #[test]
    fn what_was_cut_may_be_a_beginning() {
        let object = Form::of(&ResponseFormat::Json).unwrap().unwrap();
        let check = |text| object.check(text, true, Reading::Mended).is_ok();
        assert!(["", " ", "{", "{\"a\": \"b", "{\"a\": tru", "{}"].into_iter().all(check));
        assert!(!["[1", "Here it is", "{\"a\" 1", "[]", "\"a"].into_iter().any(check));
        let begun = |text| object.check(text, true, Reading::Mended).map(Cow::into_owned);
        assert_eq!(begun("```json\n{\"a\": tru"), Ok("{\"a\": tru".to_owned()), "the fence has no end yet");
        assert_eq!(begun("```json\n{\"a\": 1,}"), Ok("{\"a\": 1}".to_owned()), "nor is there one behind what is whole");
        assert_eq!(begun("```js"), Ok(String::new()));
        assert!(!["```json\n[1", "```python\n{"].into_iter().any(check));
        assert!(object.check("```json\n{", true, Reading::Strict).is_err(), "it is with the caller already");
        let text = form(json!({"type": "string"}));
        assert!(text.check("\"a", true, Reading::Mended).is_ok());
        assert!(text.check("1", true, Reading::Mended).is_err(), "what is whole is checked");
    }

    #[test]
    fn in_words_it_is_asked_for_at_the_top() {
        let schema = || ResponseFormat::Schema(json!({"type": "integer"}));
        let asked = in_words(ChatRequest { response_format: schema(), ..ChatRequest::ask("How many?") });
        assert_eq!((asked.response_format, asked.messages.len()), (ResponseFormat::Text, 2));
        assert_eq!(asked.messages[0].role, Role::System);
        assert!(asked.messages[0].content.contains("{\"type\":\"integer\"}"), "{}", asked.messages[0].content);
        let messages = vec![Message::system("You are brief."), Message::user("How many?")];
        let asked = in_words(ChatRequest { response_format: schema(), ..ChatRequest::new(messages) });
        assert_eq!(asked.messages.len(), 2);
        assert!(asked.messages[0].content.starts_with("You are brief.\n\nAnswer with JSON"));
        assert_eq!(in_words(ChatRequest::ask("Hi")), ChatRequest::ask("Hi"));
    }
}
