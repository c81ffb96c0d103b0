//! An agent asks other agents. Each call is a durable task of its own, and ends with the one that asked.

use std::time::Duration;

use sutazai_core::{prelude::*, store::TaskQuery, task::TaskId};

#[tokio::main]
async fn main() -> Result<()> {
    let words = agent_fn("words", |_context, text: String| async move { Ok(text.split_whitespace().count()) });
    let shout = agent_fn("shout", |_context, text: String| async move { Ok(text.to_uppercase()) });
    let editor = agent_fn("editor", |context: Context, text: String| async move {
        // At once, always in this order: a recovered execution finds its children by the order of its calls.
        let (count, loud) =
            tokio::try_join!(context.call::<_, usize>("words", &text), context.call::<_, String>("shout", &text),)?;
        Ok(format!("{loud} ({count} words)"))
    });
    let sleeper = agent_fn("sleeper", |_context, _: ()| async move {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        Ok(())
    });
    let patient =
        agent_fn("patient", |context: Context, _: ()| async move { context.call::<_, ()>("sleeper", &()).await });
    let builder = Orchestrator::builder().agent(words).agent(shout).agent(editor).agent(sleeper).agent(patient);
    let orchestrator = builder.start().await?;

    let edited = orchestrator.submit("editor", "to be or not to be").await?;
    let id = edited.id();
    println!("{}", edited.output::<String>().await?);
    for child in children(&orchestrator, id).await? {
        println!("  called {} in task {}: {}", child.agent, child.id, child.state);
    }

    let parent = orchestrator.submit("patient", &()).await?;
    while children(&orchestrator, parent.id()).await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    parent.cancel().await?;
    for child in children(&orchestrator, parent.id()).await? {
        let child = orchestrator.handle(child.id).result().await?;
        println!("the parent was cancelled, and its {} is {}", child.agent, child.state);
    }
    Ok(())
}

async fn children(orchestrator: &Orchestrator, parent: TaskId) -> Result<Vec<Task>> {
    let query = TaskQuery { parent: Some(parent), limit: 10, ..TaskQuery::default() };
    let mut children = orchestrator.tasks(query).await?.items;
    // The list is newest first, and these may be born in one millisecond.
    children.sort_by(|one, other| one.agent.cmp(&other.agent));
    Ok(children)
}
