//! JSON Schema for agents whose input has no Rust type.

use jsonschema::Validator;
use serde_json::Value;
use sutazai_core::{Error, Fault, Result, agent::SchemaValidator};

/// Faults told of one value: enough to mend it, and bounded whatever was sent.
const TOLD: usize = 20;

/// Letters of one message: jsonschema quotes the value at fault, however long it is.
const MESSAGE: usize = 300;

/// A compiled JSON Schema; the drafts are those of the crate `jsonschema`, 2020-12 unless `$schema` names another.
///
/// References to other documents are refused: nothing is fetched.
///
/// ```
/// use serde_json::{Value, json};
/// use sutazai_agents::JsonSchema;
/// use sutazai_core::{agent::validated, prelude::*};
///
/// # fn main() -> Result<()> {
/// let input = JsonSchema::compile(json!({
///     "type": "object", "required": ["text"], "properties": {"text": {"type": "string"}},
/// }))?;
/// let shout = agent_fn("shout", |_context, input: Value| async move {
///     Ok(input["text"].as_str().unwrap_or_default().to_uppercase())
/// });
/// let agent = validated(shout, input);
/// let error = agent.check(&Payload::of(&json!({"text": 7}))?).unwrap_err();
/// assert_eq!(error.faults()[0].path, "/text");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct JsonSchema {
    schema: Value,
    validator: Validator,
}

impl JsonSchema {
    /// Compiles `schema`; an error says where it is not one.
    pub fn compile(schema: Value) -> Result<Self> {
        let validator = jsonschema::validator_for(&schema).map_err(|error| {
            let fault = Fault::new(error.instance_path().as_str(), shortened(error.to_string()));
            Error::invalid("not a usable JSON schema", vec![fault]).with_code("invalid_schema").during("compile schema")
        })?;
        Ok(Self { schema, validator })
    }
}

impl SchemaValidator for JsonSchema {
    fn schema(&self) -> &Value {
        &self.schema
    }

    fn faults(&self, value: &Value) -> Vec<Fault> {
        let fault = |error: jsonschema::ValidationError<'_>| {
            Fault::new(error.instance_path().as_str(), shortened(error.to_string()))
        };
        self.validator.iter_errors(value).take(TOLD).map(fault).collect()
    }
}

fn shortened(message: String) -> String {
    match message.char_indices().nth(MESSAGE) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sutazai_core::{Orchestrator, agent::validated, prelude::*};

    use super::*;

    fn point() -> JsonSchema {
        JsonSchema::compile(json!({
            "type": "object", "required": ["x"], "additionalProperties": false,
            "properties": {"x": {"type": "integer", "minimum": 0}, "a/b": {"enum": ["on", "off"]}},
        }))
        .unwrap()
    }

    #[test]
    fn every_fault_names_its_place() {
        let paths = |value: Value| point().faults(&value).into_iter().map(|fault| fault.path).collect::<Vec<_>>();
        assert_eq!(paths(json!({"x": 1, "a/b": "on"})), Vec::<String>::new());
        assert_eq!(paths(json!({"x": -1})), ["/x"]);
        assert_eq!(paths(json!({"x": 1, "a/b": "up"})), ["/a~1b"]);
        assert_eq!(paths(json!({"y": 1})).len(), 2);
        let long = point().faults(&json!({"x": "ü".repeat(10_000)}));
        assert!(long[0].message.chars().count() <= MESSAGE + 1, "{long:?}");
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        let error = JsonSchema::compile(json!({"properties": {"x": {"type": "number-like"}}})).unwrap_err();
        assert_eq!((error.code(), error.faults()[0].path.as_str()), ("invalid_schema", "/properties/x/type"));
        JsonSchema::compile(json!({"$ref": "https://example.com/elsewhere.json"})).unwrap_err();
    }

    #[tokio::test]
    async fn the_engine_refuses_bad_input_and_fails_bad_output() {
        let echo = agent_fn("echo", |_context, input: Value| async move { Ok(input["a/b"].clone()) });
        let output = JsonSchema::compile(json!({"type": "string"})).unwrap();
        let agent = validated(echo, point()).output(output);
        let orchestrator = Orchestrator::builder().agent(agent).start().await.unwrap();
        let refused = orchestrator.submit("echo", &json!({"x": "one"})).await.map(drop).unwrap_err();
        assert_eq!((refused.code(), refused.faults()[0].path.as_str()), ("invalid_input", "/input/x"));
        let output: String =
            orchestrator.submit("echo", &json!({"x": 1, "a/b": "on"})).await.unwrap().output().await.unwrap();
        assert_eq!(output, "on");
        let handle = orchestrator.submit("echo", &json!({"x": 1})).await.unwrap();
        let error = handle.output::<String>().await.unwrap_err();
        assert!(error.report().contains("does not fit its schema"), "{}", error.report());
    }
}
