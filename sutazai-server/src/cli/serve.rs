//! `serve`: the server in the foreground.

use tokio_util::sync::CancellationToken;

use super::output::Output;
use crate::{
    config::Configuration,
    logging::Logger,
    process::{Exit, Failure, Stop, runtime},
    serve::{Claimed, Server, watch},
};

/// Runs `serve`.
pub(super) fn run(configuration: &Configuration, out: Output) -> Result<Exit, Failure> {
    let settings = &configuration.settings;
    Logger::Server.start(settings.log_level.as_deref());
    configuration.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let claimed = Claimed::new(settings)?;
    let address = claimed.address();
    runtime(settings.worker_threads)?.block_on(async {
        let end = CancellationToken::new();
        tokio::spawn(watch(Stop::new()?, end.clone()));
        let server = Server::start(claimed, settings).await?;
        if Logger::Server.is_for_people() {
            out.line(&format!("listening on http://{address}"))?;
        } else {
            tracing::info!(%address, name = settings.agent_name, "listening");
        }
        server.run(end).await
    })
}
