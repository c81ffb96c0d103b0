//! One line more and tasks survive the end of their process. Here the process "dies" twice within one program.

use std::{error::Error, path::Path, time::Duration};

use sutazai_core::{prelude::*, task::TaskId};
use sutazai_store::SqliteStore;
use tokio::runtime::Runtime;

type Fallible<T> = Result<T, Box<dyn Error>>;

async fn start(path: &Path) -> Result<Orchestrator> {
    let builder = agent_fn("builder", |context: Context, thing: String| async move {
        if context.task().recoveries == 0 {
            println!("building {thing}…");
            context.progress(None, "the walls");
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        Ok(format!("built {thing}, attempt {}, recoveries {}", context.attempt(), context.task().recoveries))
    });
    Orchestrator::builder().agent(builder).store(SqliteStore::open(path).await?).start().await
}

/// Submits a task and ends, without any farewell, while the task is running.
fn first_life(path: &Path) -> Fallible<TaskId> {
    let runtime = Runtime::new()?;
    let id = runtime.block_on(async {
        let orchestrator = start(path).await?;
        let id = orchestrator.submit("builder", "a house").await?.id();
        while orchestrator.task(id).await?.progress.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, sutazai_core::Error>(id)
    });
    runtime.shutdown_background(); // every future is dropped where it stands, as a kill would
    Ok(id?)
}

/// Finds the task in the file and finishes it.
fn second_life(path: &Path, id: TaskId) -> Fallible<()> {
    Ok(Runtime::new()?.block_on(async {
        let orchestrator = start(path).await?;
        println!("{}", orchestrator.handle(id).output::<String>().await?);
        orchestrator.shutdown(Duration::from_secs(5)).await.map(drop)
    })?)
}

/// What has ended stays as it is.
fn third_life(path: &Path, id: TaskId) -> Fallible<()> {
    Ok(Runtime::new()?.block_on(async {
        let orchestrator = start(path).await?;
        let task = orchestrator.task(id).await?;
        println!("the file still says: {} {}", task.state, task.output.as_ref().map_or("", Payload::as_str));
        orchestrator.shutdown(Duration::from_secs(5)).await.map(drop)
    })?)
}

fn main() -> Fallible<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("tasks.db");
    let id = first_life(&path)?;
    println!("the process is gone, and {id} was running");
    second_life(&path, id)?;
    third_life(&path, id)
}
