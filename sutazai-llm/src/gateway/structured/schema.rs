//! One JSON schema, and what in a value does not fit it.

use std::{collections::HashSet, fmt::Display};

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde_json::Value;
use sutazai_core::{Error, Fault, Result};

/// Bytes of JSON from which on checking is not trusted to be quick, and only the first flaw is looked for: all of them would be collected, however few
/// are told.
pub(super) const LONG: usize = 64 << 10;

/// Bytes from which on a flaw has no place: a choice between schemas collects what is wrong with each of them.
const LONGEST: usize = 1 << 20;

/// Flaws told of one value: enough to mend it.
const TOLD: usize = 5;

/// Letters of what is said of one flaw: it may quote the value, however long that is.
const LETTERS: usize = 300;

/// Letters of a value that is quoted before what may stand in its place.
const QUOTED: usize = 80;

/// One thing that is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// Its place for the model, as a JSON pointer into what is checked; empty for the whole.
    pub(super) place: String,
    /// The same as far as the schema has names for it, for everybody.
    pub(super) named: String,
    /// What is allowed there, without what the model wrote: that may be personal, and errors reach the log.
    pub(super) rule: String,
    /// What is allowed there and what was found, for the model.
    pub(super) found: String,
}

impl Flaw {
    /// Something that can be told to everybody.
    pub(super) fn new(place: &str, rule: impl Display) -> Self {
        let (place, rule) = (shortened(place, LETTERS), shortened(&rule.to_string(), LETTERS));
        Self { named: place.clone(), place, found: rule.clone(), rule }
    }

    /// The same, with what the model is told beyond that.
    pub(super) fn found(self, found: impl Display) -> Self {
        Self { found: shortened(&found.to_string(), LETTERS), ..self }
    }

    /// The same, where what is checked stands at `place`.
    pub(super) fn below(self, place: &str) -> Self {
        Self { place: format!("{place}{}", self.place), named: format!("{place}{}", self.named), ..self }
    }

    /// The flaw as an error tells it.
    pub(super) fn fault(&self, within: &str) -> Fault {
        Fault::new(self.named.as_str(), self.rule.as_str()).below(within)
    }
}

/// A compiled schema: 2020-12 unless `$schema` names another draft. Nothing is fetched, so references to other documents are refused.
#[derive(Debug)]
pub(super) struct Schema {
    validator: Validator,
    /// Every name and text in it: what is not one of them, the model has made up.
    names: HashSet<String>,
}

impl Schema {
    /// Compiles the schema that stands at `place` of a request; kind `Invalid`, code `schema_unsupported` if it cannot be used.
    pub(super) fn compile(schema: &Value, place: &str) -> Result<Self> {
        let validator = jsonschema::validator_for(schema).map_err(|error| {
            let fault = Fault::new(error.instance_path().as_str(), shortened(&error.to_string(), LETTERS)).below(place);
            Error::invalid("no answer can be checked against this schema", vec![fault])
                .with_code("schema_unsupported")
                .during("compile schema")
        })?;
        let mut names = HashSet::new();
        collect(schema, &mut names);
        Ok(Self { validator, names })
    }

    /// What does not fit in a value of so many bytes, up to a few; nothing if all of it fits.
    pub(super) fn flaws(&self, value: &Value, bytes: usize) -> Vec<Flaw> {
        if bytes > LONGEST {
            let flaw = Flaw::new("", "it does not fit the schema");
            return if self.fits(value) { Vec::new() } else { vec![flaw] };
        }
        let flaw = |error: ValidationError<'_>| self.flaw(&error, value);
        if bytes > LONG {
            return self.validator.validate(value).err().map(flaw).into_iter().collect();
        }
        self.validator.iter_errors(value).take(TOLD).map(flaw).collect()
    }

    /// Whether all of it fits.
    pub(super) fn fits(&self, value: &Value) -> bool {
        self.validator.is_valid(value)
    }

    /// The places of what does not fit because it should be of another type, or one of certain values. Where a text stands there, it may have been meant as
    /// what it says; of a text that is too short, or has a wrong form, that is not so.
    pub(super) fn misread(&self, value: &Value) -> Vec<String> {
        let is_of_kind = |error: &ValidationError<'_>| {
            matches!(
                error.kind(),
                ValidationErrorKind::Type { .. }
                    | ValidationErrorKind::AnyOf { .. }
                    | ValidationErrorKind::OneOfNotValid { .. }
                    | ValidationErrorKind::Enum { .. }
                    | ValidationErrorKind::Constant { .. }
            )
        };
        let errors = self.validator.iter_errors(value).filter(is_of_kind);
        errors.map(|error| error.instance_path().as_str().to_owned()).collect()
    }

    fn flaw(&self, error: &ValidationError<'_>, value: &Value) -> Flaw {
        let place = error.instance_path().as_str();
        let flaw = match error.kind() {
            // Its own words name only the first few.
            ValidationErrorKind::Enum { options } => {
                let value = shortened(&error.instance().to_string(), QUOTED);
                let found = format!("{value} is not one of {options}");
                Flaw::new(place, format_args!("value is not one of {options}")).found(found)
            }
            // What these name is what the model wrote.
            ValidationErrorKind::AdditionalProperties { .. } => {
                Flaw::new(place, "Additional properties are not allowed").found(error)
            }
            ValidationErrorKind::UnevaluatedProperties { .. } => {
                Flaw::new(place, "Unevaluated properties are not allowed").found(error)
            }
            ValidationErrorKind::PropertyNames { error: name } => {
                Flaw::new(place, format_args!("the name of a property is wrong: {}", name.masked())).found(error)
            }
            _ => Flaw::new(place, error.masked()).found(error),
        };
        Flaw { named: shortened(self.named(place, value), LETTERS), ..flaw }
    }

    /// A place in a value up to the first name that the schema does not have.
    fn named<'a>(&self, place: &'a str, value: &Value) -> &'a str {
        let (mut named, mut inside) = (0_usize, Some(value));
        for segment in place.split('/').skip(1) {
            let name = segment.replace("~1", "/").replace("~0", "~");
            inside = match inside {
                Some(Value::Array(items)) => name.parse::<usize>().ok().and_then(|at| items.get(at)),
                Some(Value::Object(fields)) if self.names.contains(&name) => fields.get(&name),
                _ => return &place[..named],
            };
            named += 1 + segment.len();
        }
        place
    }
}

/// Adds every name of a field and every text in `schema`.
fn collect(schema: &Value, names: &mut HashSet<String>) {
    match schema {
        Value::Object(fields) => {
            for (name, inner) in fields {
                names.insert(name.clone());
                collect(inner, names);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, names)),
        Value::String(text) => {
            names.insert(text.clone());
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
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
        assert!(point().flaws(&json!({"x": 1, "a/b": "on"}), 0).is_empty());
        let flaws = point().flaws(&json!({"x": "secret"}), 0);
        let [Flaw { place, rule, found, .. }] = &flaws[..] else { panic!("{flaws:?}") };
        assert_eq!((place.as_str(), rule.as_str()), ("/x", "value is not of type \"integer\""));
        assert_eq!(found, "\"secret\" is not of type \"integer\"");
        assert_eq!(flaws[0].fault("/answer"), Fault::new("/answer/x", rule.as_str()));
        let flaw = point().flaws(&json!({"x": 1, "a/b": "up"}), 0).remove(0);
        assert_eq!((flaw.place.as_str(), flaw.named.as_str()), ("/a~1b", "/a~1b"));
        assert_eq!(flaw.found, "\"up\" is not one of [\"on\",\"off\"]");
    }

    #[test]
    fn names_that_the_model_made_up_are_for_the_model_alone() {
        let extra = point().flaws(&json!({"x": 1, "Jane Doe": 7}), 0).remove(0);
        assert!(extra.found.contains("Jane Doe"), "{extra:?}");
        assert_eq!(extra.fault(""), Fault::new("", "Additional properties are not allowed"));
        let check = |schema: Value, value: Value| {
            let flaw = Schema::compile(&schema, "").unwrap().flaws(&value, 0).remove(0);
            let fault = flaw.fault("");
            assert!(!fault.path.contains("Doe") && !fault.message.contains("Doe"), "{fault:?}");
            (flaw.place, flaw.found, fault)
        };
        let ages = json!({"properties": {"ages": {"additionalProperties": {"items": {"type": "integer"}}}}});
        let (place, _, fault) = check(ages, json!({"ages": {"Jane/Doe": [7, "old"]}}));
        assert_eq!((place.as_str(), fault.path.as_str()), ("/ages/Jane~1Doe/1", "/ages"));
        let (_, found, fault) = check(json!({"unevaluatedProperties": false}), json!({"Doe": 1}));
        assert_eq!(fault, Fault::new("", "Unevaluated properties are not allowed"));
        assert!(found.contains("Doe"), "{found}");
        let (_, found, fault) = check(json!({"propertyNames": {"maxLength": 2}}), json!({"Doe": 1}));
        assert_eq!(fault, Fault::new("", "the name of a property is wrong: value is longer than 2 characters"));
        assert!(found.contains("Doe"), "{found}");
        let (place, _, fault) = check(json!({"items": {"items": {"type": "null"}}}), json!([[null], [null, 1]]));
        assert_eq!((place.as_str(), fault.path.as_str()), ("/1/1", "/1/1"), "numbers are nobody's names");
    }

    #[test]
    fn what_is_told_is_bounded() {
        let flaws = point().flaws(&json!({"x": "ü".repeat(10_000)}), 0);
        assert_eq!(flaws[0].found.chars().count(), LETTERS + 1);
        let many = Schema::compile(&json!({"items": {"type": "null"}}), "").unwrap();
        let flaws = |bytes| many.flaws(&json!(vec![1; 100]), bytes);
        assert_eq!((flaws(LONG).len(), flaws(LONG + 1).len(), flaws(LONGEST + 1).len()), (TOLD, 1, 1));
        assert_eq!((flaws(LONG + 1)[0].place.as_str(), flaws(LONGEST + 1)[0].place.as_str()), ("/0", ""));
        for bytes in [LONG, LONG + 1, LONGEST + 1] {
            assert!(many.flaws(&json!([null]), bytes).is_empty());
        }
    }

    #[test]
    fn what_may_be_misread_is_of_a_wrong_type_or_value() {
        let misread = |schema: Value| Schema::compile(&schema, "").unwrap().misread(&json!({"a": "12"}));
        for meant in [
            json!({"type": "integer"}),
            json!({"enum": [12]}),
            json!({"const": 12}),
            json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}),
            json!({"oneOf": [{"type": "integer"}, {"type": "null"}]}),
        ] {
            assert_eq!(misread(json!({"properties": {"a": meant}})), ["/a"], "{meant}");
        }
        for wrong in
            [json!({"minLength": 3}), json!({"pattern": "x"}), json!({"not": {"type": "string"}}), json!(false)]
        {
            assert!(misread(json!({"properties": {"a": wrong}})).is_empty(), "{wrong}");
        }
    }

    #[test]
    fn a_circle_of_references_ends() {
        for circle in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}]}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        ] {
            let schema = Schema::compile(&circle, "").unwrap();
            let value = json!({"a": [1]});
            assert!(schema.fits(&value) && schema.flaws(&value, 0).is_empty(), "{circle}");
            assert!(schema.misread(&value).is_empty(), "{circle}");
        }
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
