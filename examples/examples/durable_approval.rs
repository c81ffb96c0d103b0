//! An agent that asks a person: steps, another agent, an approval with a time limit, and the end of the process in between.

use std::{error::Error, path::Path, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sutazai_core::{
    prelude::*,
    task::{EntryKind, TaskId},
};
use sutazai_store::SqliteStore;
use tokio::runtime::Runtime;

type Fallible<T> = Result<T, Box<dyn Error>>;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Refund {
    order: String,
    answer_within_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    approved: bool,
    by: String,
}

/// Runs from the top whenever it is woken; what it has recorded it does not do again.
async fn refund(context: Context, refund: Refund) -> Result<String, AgentError> {
    let order = &refund.order;
    let look_up = || async move {
        println!("looking up {order}");
        Ok(4_200_u32)
    };
    let paid = context.step("look up the order", look_up).await?;
    let due: u32 = context.call("fees", &paid).await?;
    // The process may end here: what is waited for is in the store, and so is the moment at which the wait is over.
    let limit = Duration::from_millis(refund.answer_within_ms);
    let by = match context.wait_for::<Answer>("approval", Some(limit)).await? {
        Some(Answer { approved: true, by }) => by,
        Some(Answer { by, .. }) => return Ok(format!("{by} refused {order}")),
        None => return Ok(format!("nobody answered about {order}")),
    };
    // The same key whenever this step runs again: a bank that has seen it pays once.
    let pay = |_key| async move {
        println!("paying {due}");
        Ok(format!("paid {due}"))
    };
    let receipt = context.keyed_step("pay", pay).await?;
    Ok(format!("{receipt}, approved by {by}"))
}

async fn start(path: &Path) -> Fallible<Orchestrator> {
    let fees = agent_fn("fees", |_context, cents: u32| async move { Ok(cents - 200) });
    let builder = Orchestrator::builder().agent(fees).agent(agent_fn("refund", refund));
    Ok(builder.store(SqliteStore::open(path).await?).start().await?)
}

/// Returns when the task holds nothing in this process: it waits for its signal.
async fn suspended(orchestrator: &Orchestrator, id: TaskId) -> Fallible<()> {
    loop {
        let asked = orchestrator.journal(id, 0, 100).await?.iter().any(|entry| entry.kind == EntryKind::Signal);
        if asked && orchestrator.task(id).await?.state == TaskState::Waiting {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Submits two refunds and ends, without any farewell, while both wait for somebody.
fn first_life(path: &Path) -> Fallible<(TaskId, TaskId)> {
    let runtime = Runtime::new()?;
    let ids = runtime.block_on(async {
        let orchestrator = start(path).await?;
        let request = |order: &str, answer_within_ms| Refund { order: order.to_owned(), answer_within_ms };
        let asked = orchestrator.submit("refund", &request("order 7", 3_600_000)).await?.id();
        let ignored = orchestrator.submit("refund", &request("order 8", 300)).await?.id();
        suspended(&orchestrator, asked).await?;
        Fallible::Ok((asked, ignored))
    });
    runtime.shutdown_background(); // every future is dropped where it stands, as a kill would
    ids
}

/// Somebody approves the one; the other one's time is over.
fn second_life(path: &Path, asked: TaskId, ignored: TaskId) -> Fallible<()> {
    Runtime::new()?.block_on(async {
        let orchestrator = start(path).await?;
        let answer = Payload::of(&Answer { approved: true, by: "Ada".to_owned() })?;
        orchestrator.signal(asked, "approval", answer, None).await?;
        for id in [asked, ignored] {
            println!("{}", orchestrator.handle(id).output::<String>().await?);
        }
        // The run as a file, and the code against it: nothing is looked up and nothing is paid.
        let cassette = orchestrator.record(asked).await?;
        let entries = cassette.journal.len();
        println!("{entries} entries, the code fits them: {}", orchestrator.replay_cassette(cassette).await?.matches);
        orchestrator.shutdown(Duration::from_secs(5)).await?;
        Ok(())
    })
}

fn main() -> Fallible<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("tasks.db");
    let (asked, ignored) = first_life(&path)?;
    println!("the process is gone, and two people have not answered");
    second_life(&path, asked, ignored)
}
