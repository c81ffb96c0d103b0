//! Tool calls: whether the tools exist, and whether their arguments are what they take.

use std::collections::HashSet;

use serde_json::{Map, Value};
use sutazai_core::{
    Result,
    model::{Message, ToolCall, ToolSpec},
};

use super::schema::{Flaw, LONG, Schema};
use crate::json;

/// Letters of a name that no tool has: those that servers take.
const NAME: usize = 64;

/// The tools that a request offers.
#[derive(Debug)]
pub(super) struct Tools(Vec<(String, Schema)>);

impl Tools {
    /// Compiles what each tool takes; code `schema_unsupported` if no arguments can be checked against it.
    pub(super) fn of(specs: &[ToolSpec]) -> Result<Self> {
        let tool = |(at, ToolSpec { name, parameters, .. }): (usize, &ToolSpec)| {
            // Who says nothing about parameters means that there are none to speak of.
            let anything = Value::Bool(true);
            let parameters = if parameters.is_null() { &anything } else { parameters };
            Schema::compile(parameters, &format!("/tools/{at}/parameters")).map(|schema| (name.clone(), schema))
        };
        specs.iter().enumerate().map(tool).collect::<Result<_>>().map(Self)
    }

    /// Whether no tool is offered.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The call with its arguments as a JSON object that its tool takes, or what is wrong with it.
    pub(super) fn check(&self, call: &ToolCall) -> std::result::Result<ToolCall, Vec<Flaw>> {
        let Some((_, schema)) = self.0.iter().find(|(name, _)| *name == call.name) else {
            return Err(vec![self.unknown(&call.name)]);
        };
        let arguments = object(&call.arguments).map_err(|flaw| vec![flaw])?;
        let bytes = arguments.to_string().len();
        let flaws = schema.flaws(&arguments, bytes);
        if flaws.is_empty() {
            return Ok(ToolCall { arguments, ..call.clone() });
        }
        let mended = if bytes > LONG { None } else { unquoted(arguments, schema) };
        match mended {
            Some(arguments) => Ok(ToolCall { arguments, ..call.clone() }),
            None => Err(flaws.into_iter().map(|flaw| flaw.below("/arguments")).collect()),
        }
    }

    fn unknown(&self, name: &str) -> Flaw {
        let name: String = name.chars().take(NAME).collect();
        let known: Vec<_> = self.0.iter().map(|(name, _)| format!("{name:?}")).collect();
        Flaw::new("/name", format_args!("there is no tool {name:?}; there are {}", known.join(", ")))
    }
}

/// Arguments as the object that they are: written as a text, or left out where there are none.
pub(super) fn object(arguments: &Value) -> std::result::Result<Value, Flaw> {
    let no_object = |what: &dyn std::fmt::Display| {
        Flaw::new("/arguments", format_args!("the arguments are not a JSON object, but {what}"))
    };
    match arguments {
        Value::Object(_) => Ok(arguments.clone()),
        Value::Null => Ok(Value::Object(Map::new())),
        Value::String(text) if text.trim().is_empty() => Ok(Value::Object(Map::new())),
        Value::String(text) => match json::read(text) {
            Ok((_, object @ Value::Object(_))) => Ok(object),
            Ok((_, other)) => Err(no_object(&kind(&other))),
            Err(error) => Err(no_object(&format_args!("a text that is not JSON: {error}"))),
        },
        other => Err(no_object(&kind(other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The arguments with what is JSON in the strings that are no good as strings, if all of them fit then. What is read so may have such strings in it as
/// well; each is shorter than the one that it was read from, so there is an end to it.
fn unquoted(mut arguments: Value, schema: &Schema) -> Option<Value> {
    loop {
        let mut changed = false;
        for place in schema.misread(&arguments) {
            let Some(found) = arguments.pointer_mut(&place) else { continue };
            let meant = found.as_str().and_then(meant);
            if let Some(meant) = meant {
                *found = meant;
                changed = true;
            }
        }
        if !changed {
            return schema.fits(&arguments).then_some(arguments);
        }
    }
}

/// What a text says in JSON; nothing if that is a text again, or a whole number of more digits than are kept.
fn meant(text: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(text).ok()?;
    let is_kept = match &value {
        Value::String(_) => false,
        Value::Number(number) => number.is_i64() || number.is_u64() || text.contains(['.', 'e', 'E']),
        _ => true,
    };
    is_kept.then_some(value)
}

/// A name in the conversation as any server takes it back; that of a tool is one, for it was offered.
pub(super) fn sendable(name: &str, tools: &[ToolSpec]) -> String {
    if tools.iter().any(|tool| tool.name == name) {
        return name.to_owned();
    }
    let taken = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = name.chars().take(NAME).map(taken).collect();
    if name.is_empty() { "_".to_owned() } else { name }
}

/// Gives an id to every call that has none, or one that another call of the answer has: results are told apart by it.
pub(super) fn name_apart(calls: &mut [ToolCall], conversation: &[Message]) {
    let before = conversation.iter().flat_map(|message| &message.tool_calls);
    let used: HashSet<String> = before.chain(&*calls).map(|call| call.id.clone()).collect();
    let mut free = (0_usize..).map(|number| format!("call_{number}")).filter(|id| !used.contains(id));
    let mut given = HashSet::new();
    for call in calls {
        if call.id.is_empty() || given.contains(&call.id) {
            call.id = free.next().unwrap_or_default();
        }
        given.insert(call.id.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sutazai_core::model::Role;

    use super::*;

    fn tools() -> Tools {
        let tool = |name: &str, parameters| ToolSpec { name: name.into(), description: String::new(), parameters };
        let weather = json!({
            "type": "object", "required": ["city"], "additionalProperties": false,
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "at": {"type": ["object", "null"]}},
        });
        Tools::of(&[tool("weather", weather), tool("clock", Value::Null)]).unwrap()
    }

    fn call(name: &str, arguments: Value) -> ToolCall {
        ToolCall { id: "call_0".into(), name: name.into(), arguments }
    }

    /// The arguments as they are passed on, or the places of what is wrong with them.
    fn checked(name: &str, arguments: Value) -> std::result::Result<Value, Vec<String>> {
        let checked = tools().check(&call(name, arguments)).map(|call| call.arguments);
        checked.map_err(|flaws| flaws.into_iter().map(|flaw| flaw.place).collect())
    }

    #[test]
    fn arguments_are_an_object_that_fits() {
        let right = json!({"city": "Berlin", "days": 2});
        assert_eq!(checked("weather", right.clone()), Ok(right.clone()));
        assert_eq!(checked("weather", json!(right.to_string())), Ok(right.clone()));
        assert_eq!(checked("weather", json!("```json\n{\"city\": \"Berlin\", \"days\": 2,}\n```")), Ok(right.clone()));
        for nothing in [Value::Null, json!(""), json!("{}"), json!({})] {
            assert_eq!(checked("clock", nothing), Ok(json!({})));
        }
        assert_eq!(checked("clock", right.clone()), Ok(right), "who declares nothing takes anything");
        for (wrong, place) in [
            (json!({"days": 2}), "/arguments"),
            (json!({"city": "Berlin", "days": "two"}), "/arguments/days"),
            (json!({"city": 7}), "/arguments/city"),
            (json!(["Berlin"]), "/arguments"),
            (json!("Berlin"), "/arguments"),
            (json!("[1]"), "/arguments"),
            (json!(7), "/arguments"),
        ] {
            assert_eq!(checked("weather", wrong.clone()), Err(vec![place.into()]), "{wrong}");
        }
    }

    #[test]
    fn a_string_is_read_as_json_where_it_is_no_good_as_a_string() {
        let wrong = json!({"city": "12", "days": "2", "at": "{\"hour\": 7}"});
        assert_eq!(checked("weather", wrong), Ok(json!({"city": "12", "days": 2, "at": {"hour": 7}})));
        let wrong = json!({"city": "12", "days": "2.5", "at": "null"});
        let places = ["/arguments/at", "/arguments/days"].map(String::from);
        let mut found = checked("weather", wrong).unwrap_err();
        found.sort();
        assert_eq!(found, places, "all of it or nothing");
    }

    #[test]
    fn all_strings_that_are_no_good_are_read_however_deep_they_are() {
        let parameters = json!({"additionalProperties": {"$ref": "#/$defs/tree"}, "$defs": {"tree": {
            "type": ["integer", "array"], "items": {"$ref": "#/$defs/tree"},
        }}});
        let tool = ToolSpec { name: "sum".into(), description: String::new(), parameters };
        let tools = Tools::of(&[tool]).unwrap();
        let arguments = json!({"a": "1", "b": "2", "c": "3", "d": "4", "e": "5", "f": "6", "g": "[\"7\", [\"[8]\"]]"});
        let checked = tools.check(&call("sum", arguments)).unwrap();
        let expected = json!({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": [7, [[8]]]});
        assert_eq!(checked.arguments, expected);
    }

    #[test]
    fn a_string_that_is_meant_as_one_stays_one() {
        let parameters = json!({"properties": {
            "code": {"minLength": 3}, "date": {"pattern": "-"}, "flag": {"not": {"const": "true"}}, "id": {"type": "number"},
        }});
        let tool = ToolSpec { name: "book".into(), description: String::new(), parameters };
        let tools = Tools::of(&[tool]).unwrap();
        let check = |arguments: Value| tools.check(&call("book", arguments)).map(|call| call.arguments);
        for (wrong, place) in [
            (json!({"code": "12"}), "/arguments/code"),
            (json!({"date": "2026"}), "/arguments/date"),
            (json!({"flag": "true"}), "/arguments/flag"),
            (json!({"id": "12345678901234567890123"}), "/arguments/id"),
        ] {
            assert_eq!(check(wrong.clone()).unwrap_err()[0].place, place, "{wrong}");
        }
        assert_eq!(check(json!({"id": "18446744073709551615"})), Ok(json!({"id": u64::MAX})));
        assert_eq!(check(json!({"id": "1e3"})), Ok(json!({"id": 1e3})));
    }

    #[test]
    fn a_name_that_no_tool_has_is_sent_as_servers_take_it() {
        let tool = |name: &str| ToolSpec { name: name.into(), description: String::new(), parameters: Value::Null };
        let tools = [tool("files.read")];
        for (name, sent) in
            [("files.read", "files.read"), ("files.write", "files_write"), ("<look ü>", "_look___"), ("", "_")]
        {
            assert_eq!(sendable(name, &tools), sent);
        }
        assert_eq!(sendable(&"x-1_".repeat(100), &tools), "x-1_".repeat(16));
    }

    #[test]
    fn an_unknown_tool_is_told_the_known_ones() {
        let flaw = |name: &str| tools().check(&call(name, json!({}))).unwrap_err().remove(0);
        let found = flaw("whether");
        assert_eq!(
            (found.place.as_str(), found.rule),
            ("/name", "there is no tool \"whether\"; there are \"weather\", \"clock\"".into())
        );
        assert!(flaw(&"x".repeat(1000)).rule.contains(&format!("{:?};", "x".repeat(NAME))));
    }

    #[test]
    fn every_call_has_an_id_of_its_own() {
        let with = |id: &str| ToolCall { id: id.into(), ..call("clock", json!({})) };
        let mut calls = ["", "a", "a", "call_1", ""].map(with);
        let before = Message { tool_calls: vec![with("call_0")], ..Message::new(Role::Assistant, "") };
        name_apart(&mut calls, &[before]);
        assert_eq!(calls.map(|call| call.id), ["call_2", "a", "call_3", "call_1", "call_4"]);
    }

    #[test]
    fn a_tool_that_takes_nothing_sensible_is_refused() {
        let tool = ToolSpec { name: "odd".into(), description: String::new(), parameters: json!({"type": "odd"}) };
        let error = Tools::of(&[tool]).unwrap_err();
        assert_eq!((error.code(), error.faults()[0].path.as_str()), ("schema_unsupported", "/tools/0/parameters/type"));
    }
}
