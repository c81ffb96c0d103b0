//! An agent with JSON schemas and no Rust type: its description is data, and what does not fit is refused fault by fault.

use serde_json::{Value, json};
use sutazai_agents::JsonSchema;
use sutazai_core::{agent::validated, prelude::*};

/// As it might come from a file.
const DESCRIPTION: &str = r#"{
    "input": {
        "type": "object", "required": ["amount", "rate"], "additionalProperties": false,
        "properties": { "amount": {"type": "number", "minimum": 0}, "rate": {"enum": ["full", "half", "none"]} }
    },
    "output": { "type": "object", "required": ["tax"], "properties": { "tax": {"type": "number", "maximum": 1000} } }
}"#;

#[tokio::main]
async fn main() -> Result<()> {
    let description: Value = Payload::from_text(DESCRIPTION)?.read()?;
    let tax = agent_fn("tax", |_context, input: Value| async move {
        let share = match input["rate"].as_str() {
            Some("full") => 0.2,
            Some("half") => 0.1,
            _ => 0.0,
        };
        Ok(json!({ "tax": input["amount"].as_f64().unwrap_or_default() * share }))
    });
    let agent = validated(tax, JsonSchema::compile(description["input"].clone())?)
        .output(JsonSchema::compile(description["output"].clone())?);
    let orchestrator = Orchestrator::builder().agent(agent).start().await?;

    let answer: Value = orchestrator.submit("tax", &json!({ "amount": 50, "rate": "half" })).await?.output().await?;
    println!("the tax is {}", answer["tax"]);

    match orchestrator.submit("tax", &json!({ "amount": -1, "rate": "double" })).await {
        Ok(handle) => println!("accepted as {}", handle.id()),
        Err(error) => {
            println!("refused: {}", error.code());
            for Fault { path, message } in error.faults() {
                println!("  {path}: {message}");
            }
        }
    }

    // The agent's own output is held to its schema too.
    let end = orchestrator.submit("tax", &json!({ "amount": 9000, "rate": "full" })).await?.result().await?;
    if let Some(error) = &end.error {
        println!("{}: {}", end.state, error.code);
    }
    Ok(())
}
