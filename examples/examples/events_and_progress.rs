//! Follows a task while it works: history first, then live, until its one terminal event.

use std::{pin::pin, time::Duration};

use futures_util::StreamExt;
use sutazai_core::{prelude::*, task::EventKind};

const PAGES: u32 = 3;

#[tokio::main]
async fn main() -> Result<()> {
    let reader = agent_fn("reader", |context: Context, title: String| async move {
        for page in 1..=PAGES {
            // Reports are coalesced: at most a few a second are stored, the newest wins.
            context.progress(Some(f64::from(page) / f64::from(PAGES)), format!("page {page} of {title:?}"));
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok(PAGES)
    });
    let orchestrator = Orchestrator::builder().agent(reader).start().await?;

    let handle = orchestrator.submit("reader", "Faust").await?;
    let mut events = pin!(handle.events());
    while let Some(event) = events.next().await {
        let event = event?;
        match &event.kind {
            EventKind::Progress(progress) => {
                println!(
                    "{} {}: {:3.0} % {}",
                    event.seq,
                    event.kind.name(),
                    100.0 * progress.fraction.unwrap_or_default(),
                    progress.message
                );
            }
            kind => println!("{} {}", event.seq, kind.name()),
        }
    }

    let pages: u32 = handle.output().await?;
    println!("read {pages} pages");
    Ok(())
}
