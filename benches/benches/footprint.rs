//! What does an idle server cost: memory, and time from exec to `/ready`? Everything is loaded but the models, which wait for their first call.
//! Medians over several starts. Without a release build of the server nothing is measured.

use std::{error::Error, time::Duration};

use sutazai_benches::{
    figures::Figure,
    notes::note,
    server::{Server, binary},
    stats::median,
};

const ROUNDS: usize = 7;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let binary = match binary() {
        Ok(binary) => binary,
        Err(reason) => {
            note("footprint", format_args!("left out: {reason}"));
            return Ok(());
        }
    };
    let (mut resident, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let server = Server::start(&binary).await?;
        ready.push(server.ready().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_secs(1)).await;
        resident.push(server.resident()? as f64 / 1e6);
    }
    Figure::new("footprint", "idle_rss", median(resident), "MB").print();
    Figure::new("footprint", "ready", median(ready), "ms").print();
    Ok(())
}
