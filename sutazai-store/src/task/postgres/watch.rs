//! Hears of what other processes make runnable.

use std::time::Duration;

use sqlx::{
    Executor,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use sutazai_core::{Error, store::WakeUp};
use tokio::time::{sleep, timeout};

use super::error::{Fault, Result};

/// A connection that says nothing for so long is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(30);

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// From the first to the longest wait before a new connection.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Listens for ever, over one connection at a time.
pub(super) async fn listen(options: PgConnectOptions, channel: String, runnable: WakeUp) {
    let mut wait = WAITS.0;
    loop {
        let mut heard = false;
        let lost = hear(&options, &channel, &runnable, &mut heard).await;
        if heard {
            wait = WAITS.0;
        }
        if let Err(fault) = lost {
            tracing::warn!(error = %Error::from(fault).report(), "no wake-ups from other processes at present; a slow poll goes on");
        }
        sleep(wait).await;
        wait = (wait * 2).min(WAITS.1);
    }
}

/// Until the connection is lost.
async fn hear(options: &PgConnectOptions, channel: &str, runnable: &WakeUp, heard: &mut bool) -> Result<()> {
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(PATIENCE).idle_timeout(None).max_lifetime(None);
    let pool = pool.connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(channel).await?;
    *heard = true;
    // What came before may have been missed.
    runnable();
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(_))) => runnable(),
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                timeout(PATIENCE, listener.execute("SELECT 1")).await.map_err(|_| Fault::Silent)??;
            }
        }
    }
}
