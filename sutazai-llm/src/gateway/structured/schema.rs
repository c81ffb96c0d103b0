//! One JSON schema, and what in a value does not fit it.

use std::fmt::Display;

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde_json::Value;
use sutazai_core::{Error, Fault, Result};

/// Flaws told of one value: enough to mend it.
const TOLD: usize = 5;

/// Letters of what is said of one flaw: it may quote the value, however long that is.
const LETTERS: usize = 300;

/// Letters of a value that is quoted before what may stand in its place.
const QUOTED: usize = 80;

/// One thing that is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// Its place, as a JSON pointer into what is checked; empty for the whole.
    pub(super) place: String,
    /// What is allowed there, without what the model wrote: that may be personal, and errors reach the log.
    pub(super) rule: String,
    /// What is allowed there and what was found, for the model.
    pub(super) found: String,
}

impl Flaw {
    /// Something that can be told to everybody.
    pub(super) fn new(place: &str, rule: impl Display) -> Self {
        let rule = shortened(&rule.to_string(), LETTERS);
        Self { place: shortened(place, LETTERS), found: rule.clone(), rule }
    }

    /// The same, with what the model is told beyond that.
    pub(super) fn found(self, found: impl Display) -> Self {
        Self { found: shortened(&found.to_string(), LETTERS), ..self }
    }

    fn of(error: &ValidationError<'_>) -> Self {
        let place = error.instance_path().as_str();
        match error.kind() {
            // Its own words name only the first few.
            ValidationErrorKind::Enum { options } => {
                let value = shortened(&error.instance().to_string(), QUOTED);
                let found = format!("{value} is not one of {options}");
                Self::new(place, format_args!("value is not one of {options}")).found(found)
            }
            _ => Self::new(place, error.masked()).found(error),
        }
    }

    /// The flaw as an error tells it.
    pub(super) fn fault(&self, within: &str) -> Fault {
        Fault::new(self.place.as_str(), self.rule.as_str()).below(within)
    }
}

/// A compiled schema: 2020-12 unless `$schema` names another draft. Nothing is fetched, so references to other documents are refused.
#[derive(Debug)]
pub(super) struct Schema(Validator);

impl Schema {
    /// Compiles the schema that stands at `place` of a request; kind `Invalid`, code `schema_unsupported` if it cannot be used.
    pub(super) fn compile(schema: &Value, place: &str) -> Result<Self> {
        jsonschema::validator_for(schema).map(Self).map_err(|error| {
            let fault = Fault::new(error.instance_path().as_str(), shortened(&error.to_string(), LETTERS)).below(place);
            Error::invalid("no answer can be checked against this schema", vec![fault])
                .with_code("schema_unsupported")
                .during("compile schema")
        })
    }

    /// What does not fit, up to a few; nothing if all of it fits.
    pub(super) fn flaws(&self, value: &Value) -> Vec<Flaw> {
        self.0.iter_errors(value).take(TOLD).map(|error| Flaw::of(&error)).collect()
    }
}

fn shortened(text: &str, letters: usize) -> String {
    match text.char_indices().nth(letters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn point() -> Schema {
        let schema = json!({
            "type": "object", "required": ["x"], "additionalProperties": false,
            "properties": {"x": {"type": "integer", "minimum": 0}, "a/b": {"enum": ["on", "off"]}},
        });
        Schema::compile(&schema, "/tools/0/parameters").unwrap()
    }

    #[test]
    fn a_flaw_has_its_place_and_quotes_the_value_to_the_model_alone() {
        assert!(point().flaws(&json!({"x": 1, "a/b": "on"})).is_empty());
        let flaws = point().flaws(&json!({"x": "secret"}));
        let [Flaw { place, rule, found }] = &flaws[..] else { panic!("{flaws:?}") };
        assert_eq!((place.as_str(), rule.as_str()), ("/x", "value is not of type \"integer\""));
        assert_eq!(found, "\"secret\" is not of type \"integer\"");
        assert_eq!(flaws[0].fault("/answer"), Fault::new("/answer/x", rule.as_str()));
        assert_eq!(point().flaws(&json!({"x": 1, "a/b": "up"}))[0].place, "/a~1b");
        assert_eq!(point().flaws(&json!({"x": 1, "a/b": "up"}))[0].found, "\"up\" is not one of [\"on\",\"off\"]");
    }

    #[test]
    fn what_is_told_is_bounded() {
        let flaws = point().flaws(&json!({"x": "ü".repeat(10_000)}));
        assert_eq!(flaws[0].found.chars().count(), LETTERS + 1);
        let many = Schema::compile(&json!({"items": {"type": "null"}}), "").unwrap();
        assert_eq!(many.flaws(&json!(vec![1; 100])).len(), TOLD);
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        let refused = |schema: Value| Schema::compile(&schema, "/response_format/schema").unwrap_err();
        let error = refused(json!({"properties": {"x": {"type": "number-like"}}}));
        assert_eq!(
            (error.code(), error.faults()[0].path.as_str()),
            ("schema_unsupported", "/response_format/schema/properties/x/type")
        );
        assert_eq!(refused(json!({"$ref": "https://example.com/elsewhere.json"})).code(), "schema_unsupported");
    }
}
