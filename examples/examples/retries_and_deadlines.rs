//! Temporary faults are tried again, permanent ones are not, and a deadline ends everything.

use std::time::Duration;

use sutazai_core::{
    clock::{Clock, SystemClock},
    prelude::*,
};

#[tokio::main]
async fn main() -> Result<()> {
    // The attempt tells an agent how often it has failed before. Only errors count, not the death of a process.
    let flaky = agent_fn("flaky", |context: Context, _: ()| async move {
        match context.attempt() {
            attempt @ 1..=2 => Err(AgentError::temporary("line_busy", format!("attempt {attempt}: the line is busy"))),
            attempt => Ok(attempt),
        }
    });
    let broken = agent_fn("broken", |_context, _: ()| async move {
        Err::<(), _>(AgentError::permanent("no_such_number", "the number does not exist"))
    });
    let slow = agent_fn("slow", |_context, _: ()| async move {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        Ok(())
    });
    let orchestrator = Orchestrator::builder().agent(flaky).agent(broken).agent(slow).start().await?;
    let retry = RetryPolicy { max_attempts: 3, initial_ms: 20, max_ms: 100 };

    let request = TaskRequest::new("flaky", Payload::null()).retry(retry);
    report(&orchestrator, request).await?;

    let request = TaskRequest::new("broken", Payload::null()).retry(retry);
    report(&orchestrator, request).await?;

    let deadline = SystemClock.now().plus(Duration::from_millis(100));
    let request = TaskRequest::new("slow", Payload::null()).deadline(deadline);
    report(&orchestrator, request).await
}

async fn report(orchestrator: &Orchestrator, request: TaskRequest) -> Result<()> {
    let id = orchestrator.submit_request(request).await?.task.id;
    let task = orchestrator.handle(id).result().await?;
    let error = task.error.as_ref().map_or("no error", |error| error.code.as_str());
    println!("{}: {} after {} of {} attempts, {error}", task.agent, task.state, task.attempt, task.retry.max_attempts);
    Ok(())
}
