//! The listener: accepts connections until told to stop, then lets requests in flight finish.

use std::{io, pin::pin, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{router::router, state::AppState};

/// How long a connection may take to send the head of a request; one that idles longer between requests is closed too.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// How long connections may take to finish after the end was announced; whoever is slower is cut off.
const LINGER: Duration = Duration::from_millis(500);
/// How long nothing is accepted after that has failed, such as for want of file descriptors: they come back when connections end.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves the API on `listener` over HTTP/1.1 until `shutdown` resolves.
///
/// Then it accepts nothing more, ends streams and long polls at once, and returns when the requests in flight have been answered, at the latest after
/// half a second. Faults of single connections do not end it.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (closing, changes) = (state.closing().clone(), state.changes().clone());
    let service = TowerToHyperService::new(router(state));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    // Also when this future is dropped.
    let _cut = cut.clone().drop_guard();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, _)) => {
                // Tokens of its own: looking at a shared one takes a lock that all connections would fight for.
                let (closing, cut) = (closing.child_token(), cut.child_token());
                connections.spawn(connection(http.clone(), stream, service.clone(), closing, cut));
            }
            // The client has gone already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted right now");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    closing.cancel();
    connections.close();
    changes.close();
    let ended = async { tokio::join!(connections.wait(), changes.wait()) };
    if tokio::time::timeout(LINGER, ended).await.is_err() {
        tracing::debug!(connections = connections.len(), "connections that did not finish in time are cut off");
    }
    Ok(())
}

/// Serves one connection to its end.
async fn connection(
    http: http1::Builder,
    stream: TcpStream,
    service: TowerToHyperService<axum::Router>,
    closing: CancellationToken,
    cut: CancellationToken,
) {
    // Answers are small and written at once: waiting for more to send would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps its delay");
    }
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => Some(ended),
        () = closing.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving => ended,
                () = cut.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}
