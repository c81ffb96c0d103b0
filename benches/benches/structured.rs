//! Do answers of the embedded chat model keep to their schema? `cargo bench --bench structured -- [--json]`.
//!
//! `valid_of_200`: 200 answers to five schemas in turn, at temperature 1, each with a seed of its own. One counts if it ended by itself, is JSON, and
//! a validator of JSON schema finds no fault with it. Without the weights nothing is measured.

use std::{error::Error, time::Instant};

use serde_json::{Value, json};
use sutazai_agents::JsonSchema;
use sutazai_benches::{cases::wanted, figures::Figure, notes::note};
use sutazai_core::{
    agent::SchemaValidator,
    model::{ChatModel, ChatModelExt, ChatReply, ChatRequest, ResponseFormat, Sampling, StopReason},
};
use sutazai_llm::{local::LocalChat, registry::ModelStore};

type Fallible<T> = Result<T, Box<dyn Error>>;

const BENCH: &str = "structured";
const CASE: &str = "valid_of_200";
const MODEL: &str = "smollm2:135m";
const ANSWERS: usize = 200;
/// More than the longest answer to any of the schemas is likely to take.
const TOKENS: u32 = 1_024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Fallible<()> {
    if !wanted(CASE) {
        return Ok(());
    }
    let model = LocalChat::from_store(ModelStore::from_env()?, MODEL)?;
    if let Err(error) = model.ready().await {
        note(BENCH, format_args!("left out: {}", error.report()));
        return Ok(());
    }
    let mut forms = Vec::new();
    for (question, schema) in schemas() {
        forms.push((question, JsonSchema::compile(schema)?));
    }
    let (mut valid, mut tokens) = (0, 0);
    let began = Instant::now();
    for (seed, (question, schema)) in (0..ANSWERS).zip(forms.iter().cycle()) {
        let reply = model.complete(request(question, schema.schema(), seed)).await?;
        tokens += reply.finish.usage.completion_tokens;
        match fault(&reply, schema) {
            None => valid += 1,
            Some(fault) => note(BENCH, format_args!("seed {seed}, {question:?}: {fault}: {:.500}", reply.text)),
        }
    }
    note(BENCH, format_args!("{tokens} tokens in {:.0?}", began.elapsed()));
    Figure::new(BENCH, CASE, f64::from(valid), "of 200").print();
    Ok(())
}

fn request(question: &str, schema: &Value, seed: usize) -> ChatRequest {
    ChatRequest {
        response_format: ResponseFormat::Schema(schema.clone()),
        sampling: Sampling { temperature: 1.0, top_p: 1.0, seed: Some(seed as u64) },
        max_tokens: Some(TOKENS),
        ..ChatRequest::ask(question)
    }
}

/// What is wrong with an answer.
fn fault(reply: &ChatReply, schema: &JsonSchema) -> Option<String> {
    if reply.finish.stop != StopReason::Stop {
        return Some(format!("it ended by {:?}", reply.finish.stop));
    }
    match serde_json::from_str(&reply.text) {
        Ok(value) => schema.faults(&value).first().map(|fault| format!("{}: {}", fault.path, fault.message)),
        Err(error) => Some(error.to_string()),
    }
}

/// What is asked, and the form of the answer: objects within objects, choices, lists with bounds, numbers with ranges, fields that may be left out, texts
/// of bounded length.
fn schemas() -> [(&'static str, Value); 5] {
    let number = |least: u32, most: u32| json!({"type": "integer", "minimum": least, "maximum": most});
    let address = json!({"street": text(40), "number": number(1, 999), "city": text(30)});
    let person = json!({
        "name": {"type": "string", "minLength": 1, "maxLength": 40},
        "age": number(0, 120),
        "address": object(address, &["city"]),
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3},
        "nickname": text(20),
    });
    let item = json!({
        "article": text(24),
        "quantity": number(1, 99),
        "price": {"type": "number", "minimum": 0, "maximum": 1000},
    });
    let order = json!({
        "items": {"type": "array", "items": object(item, &["article", "quantity"]), "minItems": 1, "maxItems": 3},
        "paid": {"type": "boolean"},
        "note": text(60),
    });
    let degrees = json!({"type": "integer", "minimum": -50, "maximum": 50});
    let wind = json!({
        "speed": {"type": "number", "minimum": 0, "maximum": 150},
        "from": {"enum": ["N", "E", "S", "W"]},
    });
    let weather = json!({
        "city": {"enum": ["Bern", "Oslo", "Lima", "Cairo"]},
        "temperatures": {"type": "array", "items": degrees, "minItems": 3, "maxItems": 3},
        "wind": object(wind, &["speed", "from"]),
    });
    let ticket = json!({
        "title": {"type": "string", "minLength": 1, "maxLength": 60},
        "severity": {"enum": ["low", "medium", "high"]},
        "assignee": {"anyOf": [text(20), {"type": "null"}]},
        "estimate_hours": {"type": "number", "exclusiveMinimum": 0, "maximum": 40},
        "labels": {"type": "array", "items": text(12), "maxItems": 4},
    });
    let review = json!({
        "film": text(50),
        "stars": number(1, 5),
        "genre": {"enum": ["drama", "comedy", "horror", "documentary"]},
        "pros": {"type": "array", "items": text(40), "minItems": 1, "maxItems": 2},
        "recommended": {"type": "boolean"},
    });
    [
        ("Invent a person, as JSON.", object(person, &["name", "age", "address", "tags"])),
        ("Write an order of a hardware shop, as JSON.", object(order, &["items", "paid"])),
        ("Make up a weather report for three days, as JSON.", object(weather, &["city", "temperatures", "wind"])),
        ("File a ticket about a broken printer, as JSON.", object(ticket, &["title", "severity", "assignee"])),
        ("Review a film that you have seen, as JSON.", object(review, &["film", "stars", "pros", "recommended"])),
    ]
}

fn object(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn text(length: usize) -> Value {
    json!({"type": "string", "maxLength": length})
}
