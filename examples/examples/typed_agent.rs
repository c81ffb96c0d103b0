//! An agent with Rust types for input and output: its schemas are derived, and bad input never becomes a task.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sutazai_core::prelude::*;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Division {
    number: f64,
    by: f64,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Quotient {
    value: f64,
}

struct Divider;

#[async_trait]
impl TypedAgent for Divider {
    type Input = Division;
    type Output = Quotient;

    fn descriptor(&self) -> AgentDescriptor {
        AgentDescriptor::new("divider").version("1.0.0").description("divides two numbers").effects(Effects::None)
    }

    /// What the types alone do not say.
    fn check(&self, input: &Division) -> Vec<Fault> {
        if input.by == 0.0 { vec![Fault::new("/by", "must not be 0")] } else { Vec::new() }
    }

    async fn run(&self, _context: Context, input: Division) -> Result<Quotient, AgentError> {
        Ok(Quotient { value: input.number / input.by })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let orchestrator = Orchestrator::builder().agent(typed(Divider)).start().await?;

    let input = json!({ "number": 1.0, "by": 8.0 });
    let quotient: Quotient = orchestrator.submit("divider", &input).await?.output().await?;
    println!("1 / 8 = {}", quotient.value);

    for wrong in [json!({ "number": 1.0, "by": 0.0 }), json!({ "number": "one", "by": 8.0 }), json!({ "number": 1.0 })]
    {
        match orchestrator.submit("divider", &wrong).await {
            Ok(handle) => println!("{wrong} was accepted as {}", handle.id()),
            Err(error) => {
                println!("{wrong} was refused: {}", error.code());
                for Fault { path, message } in error.faults() {
                    println!("  {path}: {message}");
                }
            }
        }
    }

    let divider = orchestrator.agent("divider").map(|agent| &agent.input_schema);
    println!("the schema that the API shows requires {}", divider.map_or(&json!(null), |schema| &schema["required"]));
    Ok(())
}
