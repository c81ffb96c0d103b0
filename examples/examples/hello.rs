//! Ten lines to a running agent: no server, no key, no network.

use sutazai_core::prelude::*;

fn main() -> Result<()> {
    block_on(async {
        let hello = agent_fn("hello", |_context, name: String| async move { Ok(format!("Hello, {name}!")) });
        let orchestrator = Orchestrator::builder().agent(hello).start().await?;
        let greeting: String = orchestrator.submit("hello", "world").await?.output().await?;
        println!("{greeting}");
        Ok(())
    })
}
