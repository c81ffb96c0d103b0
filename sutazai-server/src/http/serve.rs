//! The listener: serves until told to stop, then lets requests in flight finish.

use std::{future::IntoFuture, io, time::Duration};

use axum::serve::ListenerExt;
use tokio::net::TcpListener;

use super::{router::router, state::AppState};

/// How long connections may take to finish after the end was announced; whoever is silent longer is cut off.
const LINGER: Duration = Duration::from_secs(5);

/// Serves the API on `listener` until `shutdown` resolves.
///
/// Then it accepts nothing more, ends streams and long polls at once, and returns when the requests in flight have been answered, at the latest after 5 s.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let closing = state.closing().clone();
    // Answers are small and written at once: waiting for more to send would only delay them.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
    });
    let stop = {
        let closing = closing.clone();
        async move {
            shutdown.await;
            closing.cancel();
        }
    };
    let serving = axum::serve(listener, router(state)).with_graceful_shutdown(stop).into_future();
    tokio::select! {
        outcome = serving => outcome,
        () = async {
            closing.cancelled().await;
            tokio::time::sleep(LINGER).await;
        } => {
            tracing::warn!("connections that did not finish in time are cut off");
            Ok(())
        }
    }
}
