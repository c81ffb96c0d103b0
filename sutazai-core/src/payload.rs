//! JSON that travels through the house without being parsed again at every door.

use std::{fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::error::{Error, Fault, Result};

/// A JSON document as text: what a task takes and gives. Cheap to clone.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Payload(Arc<RawValue>);

impl Payload {
    /// The JSON of `value`. Fails for values that JSON cannot hold, such as a map with non-string keys.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        serde_json::value::to_raw_value(value)
            .map(|raw| Self(raw.into()))
            .map_err(|error| Error::invalid("the value cannot be written as JSON", Vec::new()).because(error))
    }

    /// Takes JSON text; fails if it is not one JSON document.
    pub fn from_text(text: impl Into<String>) -> Result<Self> {
        RawValue::from_string(text.into())
            .map(|raw| Self(raw.into()))
            .map_err(|error| Error::invalid("not a JSON document", Vec::new()).because(error))
    }

    /// JSON `null`.
    #[must_use]
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned().into())
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Reads it as a `T`; an error names the place as a JSON pointer and says what is allowed there.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        let mut reader = serde_json::Deserializer::from_str(self.as_str());
        serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let mut path = pointer(error.path());
            let message = without_position(&error.into_inner());
            // Serde's place is the object that lacks it.
            if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
                path = format!("{path}/{field}");
            }
            Error::invalid("the JSON does not fit", vec![Fault::new(path, message)])
        })
    }
}

/// Serde's path as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                text.push('/');
                text.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    text
}

/// The message without serde_json's ` at line 1 column 9`: the pointer says where.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    in_words_of_json(text.strip_suffix(&position).unwrap_or(&text))
}

/// The message with what JSON calls things, where serde names a type of Rust as what was expected.
fn in_words_of_json(message: &str) -> String {
    const EXPECTED: &str = ", expected ";
    let Some((found, expected)) = message.rsplit_once(EXPECTED) else { return message.to_owned() };
    let expected = match expected {
        "f32" | "f64" => "a number",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, not negative",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    format!("{found}{EXPECTED}{expected}")
}

impl From<Box<RawValue>> for Payload {
    fn from(raw: Box<RawValue>) -> Self {
        Self(raw.into())
    }
}

/// Compares the text: stores give back what they were given, byte for byte.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Any JSON.
impl JsonSchema for Payload {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Payload".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        serde_json::Value::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_the_place() {
        #[derive(Deserialize, Debug)]
        struct Inner {
            #[allow(dead_code, reason = "only its type matters here")]
            ms: u32,
        }
        let payload = Payload::from_text(r#"{"a/b":[{"ms":1},{"ms":"soon"}]}"#).unwrap();
        let error = payload.read::<std::collections::BTreeMap<String, Vec<Inner>>>().unwrap_err();
        assert_eq!(error.faults()[0].path, "/a~1b/1/ms");
        assert_eq!(
            error.faults()[0].message,
            "invalid type: string \"soon\", expected a whole number from 0 to 4294967295"
        );
    }

    #[test]
    fn deep_nesting_is_refused_and_not_a_stack_overflow() {
        let deep = "[".repeat(20_000) + &"]".repeat(20_000);
        let payload = Payload::from_text(deep).unwrap();
        assert!(payload.read::<serde_json::Value>().is_err());
    }
}
