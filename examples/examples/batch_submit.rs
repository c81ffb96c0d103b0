//! Many tasks in one commit, each answered on its own; keys that make a repetition harmless; labels to find tasks by.

use sutazai_core::{prelude::*, store::TaskQuery};

#[tokio::main]
async fn main() -> Result<()> {
    let square = agent_fn("square", |_context, number: i64| async move { Ok(number * number) });
    let orchestrator = Orchestrator::builder().agent(square).start().await?;

    let request = |number: i64| Ok::<_, Error>(TaskRequest::new("square", Payload::of(&number)?).label("batch", "one"));
    let mut requests: Vec<TaskRequest> = (1..=100).map(request).collect::<Result<_>>()?;
    requests.push(TaskRequest::new("square", Payload::of("not a number")?));
    requests[99] = request(100)?.priority(Priority::MAX).idempotency_key("hundredth");

    let answers = orchestrator.submit_batch(requests).await;
    let refused: Vec<&Error> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    println!("{} accepted, {} refused", answers.len() - refused.len(), refused.len());
    for error in &refused {
        println!("  {}: {}", error.code(), error.faults().first().map_or("", |fault| fault.message.as_str()));
    }

    let mut sum: i64 = 0;
    for submitted in answers.iter().flatten() {
        sum += orchestrator.handle(submitted.task.id).output::<i64>().await?;
    }
    println!("the sum of the squares is {sum}");

    // A client that lost the answer sends the same again and gets the first task. Another request under the same key is refused.
    let again = request(100)?.priority(Priority::MAX).idempotency_key("hundredth");
    println!("sent again: replayed is {}", orchestrator.submit_request(again).await?.replayed);
    let other = request(7)?.idempotency_key("hundredth");
    if let Err(error) = orchestrator.submit_request(other).await {
        println!("another request: {}", error.code());
    }

    let label = Some(("batch".to_owned(), "one".to_owned()));
    let page = orchestrator.tasks(TaskQuery { label, limit: 3, ..TaskQuery::default() }).await?;
    let newest: Vec<_> = page.items.iter().map(|task| task.input.as_str()).collect();
    println!("the newest with the label: {}; more: {}", newest.join(", "), page.more);
    Ok(())
}
