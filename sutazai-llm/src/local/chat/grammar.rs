//! Answers bound to a JSON schema: which tokens may come next.

use std::sync::Arc;

use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::{Value, json};
use sutazai_core::{Error, ErrorKind, Fault, Result, model::ResponseFormat};

use super::tokenizer::Tokenizer;

/// Values in a schema beyond which no rules are made of it: that takes a second then, grows with the square of the fields of an object, and holds up
/// other answers.
const LARGEST: usize = 8_000;

/// Compiles schemas for one tokenizer.
pub(crate) struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    /// Prepares the vocabulary of `tokenizer`.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let size = u32::try_from(tokenizer.len()).unwrap_or(u32::MAX);
        let words: Vec<Vec<u8>> = (0..size)
            .map(|token| match tokenizer.control_name(token) {
                Some(name) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat(),
                None => tokenizer.bytes(token).to_vec(),
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(size, tokenizer.eos), &words).with_eos_tokens(tokenizer.ends());
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let capabilities = InferenceCapabilities { ff_tokens: false, ..InferenceCapabilities::default() };
        let mut factory = ParserFactory::new(&environment, capabilities, &[])
            .map_err(|error| internal("the vocabulary cannot be indexed", &error))?;
        factory.quiet();
        // Ten times the library's, which objects of some hundred optional fields go beyond; 500,000 items take 25 ms by its own figures.
        let limits = factory.limits_mut();
        limits.max_items_in_row *= 10;
        limits.step_max_items *= 10;
        limits.step_lexer_fuel *= 10;
        limits.verbose_errors = false;
        Ok(Self { factory })
    }

    /// The rules for an answer of this form; none where it is free. Code `schema_unsupported` where no rules can be made of a schema, or none that an answer
    /// can begin by.
    pub(crate) fn compile(&self, format: &ResponseFormat) -> Result<Option<Grammar>> {
        let schema = match format {
            ResponseFormat::Text => return Ok(None),
            ResponseFormat::Json => json!({"type": "object"}),
            ResponseFormat::Schema(schema) => schema.clone(),
        };
        if values(&schema) > LARGEST {
            return Err(unsupported_schema(&format!("it has more than {LARGEST} parts")));
        }
        let grammar = TopLevelGrammar::from_json_schema(with_plain_spacing(schema)?);
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        if let Some(reason) = matcher.get_error() {
            return Err(unsupported_schema(&reason));
        }
        // Some schemas prove to be circular or too wide only when the first token is looked for, or the first after those that leave no choice.
        let mut tried = matcher.deep_clone();
        tried.consume_ff_tokens();
        tried.compute_mask_or_eos().map_err(|error| unsupported_schema(&error.to_string()))?;
        Ok(Some(Grammar { matcher, mask: None }))
    }
}

/// How many values a document has.
fn values(document: &Value) -> usize {
    match document {
        Value::Array(items) => 1 + items.iter().map(values).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(values).sum::<usize>(),
        _ => 1,
    }
}

/// Adds the spacing that models are trained on; free white space lets a small model fill its answer with it.
fn with_plain_spacing(mut schema: Value) -> Result<Value> {
    let options = json!({"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": false});
    match &mut schema {
        Value::Object(fields) => {
            fields.insert("x-guidance".into(), options);
            Ok(schema)
        }
        Value::Bool(true) => Ok(json!({"x-guidance": options})),
        _ => Err(unsupported_schema("a schema is an object")),
    }
}

fn unsupported_schema(reason: &str) -> Error {
    let reason = reason.lines().next().unwrap_or_default();
    Error::invalid("no answer can be bound to this schema", vec![Fault::new("/response_format/schema", reason)])
        .with_code("schema_unsupported")
        .during("compile schema")
}

/// The rules of one answer, and how far it has come.
pub(crate) struct Grammar {
    matcher: Matcher,
    mask: Option<SimpleVob>,
}

impl Grammar {
    /// Works out which tokens may come next; code `schema_unsupported` where the schema is too large a choice there.
    pub(crate) fn prepare(&mut self) -> Result<()> {
        let mask = self.matcher.compute_mask_or_eos();
        self.mask = Some(mask.map_err(|error| unsupported_schema(&error.to_string()))?);
        Ok(())
    }

    /// Whether `token` may come next.
    pub(crate) fn allows(&self, token: u32) -> bool {
        self.mask.as_ref().is_some_and(|mask| mask.is_allowed(token))
    }

    /// Goes on past `token`; true where the answer is complete.
    pub(crate) fn take(&mut self, token: u32) -> Result<bool> {
        self.matcher.consume_token(token).map_err(|error| unsupported_schema(&error.to_string()))?;
        Ok(self.matcher.is_stopped())
    }
}

fn internal(message: &'static str, error: &impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, message).during("constrain answer").because(error.to_string())
}
