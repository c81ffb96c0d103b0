//! A change that was begun is carried through, although whoever asked for it goes away.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sutazai_core::{Error, ErrorKind, engine::carried};

use super::{problem::Problem, state::AppState};

/// Gives a change to a task of its own, which a connection that breaks does not end: cut off, it could have its effect and not the answer that its key
/// is to be given again. What the engine does for it needs no further task. Reading goes on only while somebody listens.
pub(super) async fn through(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    match state.changes().spawn(carried(next.run(request))).await {
        Ok(response) => response,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic), // the edge says so
            Err(_) => {
                let error = Error::new(ErrorKind::Unavailable, "the server is shutting down");
                Problem::from(error.with_code("shutting_down")).into_response()
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use axum::{Router, body::Body, http::Method, middleware::from_fn_with_state, routing::post};
    use sutazai_core::Orchestrator;
    use tokio::sync::Notify;
    use tower::ServiceExt;

    use super::*;
    use crate::{http::Options, metrics::Metrics};

    #[tokio::test]
    async fn a_change_goes_on_when_its_connection_is_cut() {
        let (begun, gate, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let change = {
            let (begun, gate, done) = (Arc::clone(&begun), Arc::clone(&gate), Arc::clone(&done));
            move || async move {
                begun.notify_one();
                gate.notified().await;
                done.store(true, Ordering::SeqCst);
            }
        };
        let engine = Orchestrator::builder().start().await.unwrap();
        let metrics = Arc::new(Metrics::new("sutazai", std::iter::empty::<&str>()).unwrap());
        let state = AppState::new(engine, metrics, Options::default());
        let layer = from_fn_with_state(state.clone(), through);
        let router = Router::new().route("/", post(change.clone()).get(change)).layer(layer);
        let ask = |method: Method| {
            let request = Request::builder().method(method).body(Body::empty()).unwrap();
            tokio::spawn(router.clone().oneshot(request))
        };

        for (method, carried) in [(Method::POST, true), (Method::GET, false)] {
            let asked = ask(method);
            begun.notified().await;
            asked.abort();
            assert!(asked.await.unwrap_err().is_cancelled());
            gate.notify_one();
            state.changes().close();
            state.changes().wait().await;
            assert_eq!(done.swap(false, Ordering::SeqCst), carried);
        }
    }
}
