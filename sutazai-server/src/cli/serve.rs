//! `serve`: the server in the foreground.

use tokio_util::sync::CancellationToken;

use super::output::Output;
use crate::{
    compose,
    config::Configuration,
    logging::{Logger, READY},
    process::{self, Exit, Failure, Stop},
    serve::{Claimed, Server, watch},
};

/// Runs `serve`.
pub(super) fn run(configuration: &Configuration, out: Output) -> Result<Exit, Failure> {
    let settings = &configuration.settings;
    Logger::Server.start(settings.log_level.as_deref());
    configuration.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let claimed = Claimed::new(settings)?;
    let address = claimed.address();
    process::run(settings.worker_threads, async {
        let end = CancellationToken::new();
        tokio::spawn(watch(Stop::new()?, end.clone()));
        let starting = async { Server::start(claimed, settings, compose::ollama(settings).await).await };
        let server = tokio::select! {
            server = starting => server?,
            () = end.cancelled() => return Ok(Exit::Done),
        };
        if Logger::Server.is_for_people() {
            out.line(&format!("listening on http://{address}"))?;
        } else {
            tracing::info!(target: READY, %address, name = settings.agent_name, "listening");
        }
        server.run(end).await
    })
}
