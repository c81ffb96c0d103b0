//! Changes of what is no task, made once for each idempotency key: the answer is kept under the key and given again.

use std::future::Future;

use axum::http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use sutazai_core::{
    Payload,
    clock::{Clock, SystemClock},
    store::{Recalled, TaskStore},
    task::IdempotencyKey,
};

use super::{
    problem::Problem,
    reply::{Reply, document, no_content},
    state::AppState,
    tasks::mark,
};

/// An answer as it is kept.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    body: Payload,
}

impl Kept {
    pub(super) fn new<T: Serialize>(status: StatusCode, body: &T) -> sutazai_core::Result<Self> {
        Ok(Self { status: status.as_u16(), location: None, body: Payload::of(body)? })
    }

    /// It is done, and there is nothing to say about it.
    pub(super) fn nothing() -> Self {
        Self { status: StatusCode::NO_CONTENT.as_u16(), location: None, body: Payload::null() }
    }

    /// With the address of what was made.
    pub(super) fn at(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }

    fn reply(self, replayed: bool) -> Reply {
        let status = StatusCode::from_u16(self.status).map_err(|_| Problem::internal("a kept answer has no status"))?;
        let mut response = match status {
            StatusCode::NO_CONTENT => no_content(),
            _ => document(status, "application/json", self.body.as_str().to_owned()),
        };
        if let Some(location) = self.location.and_then(|location| HeaderValue::try_from(location).ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        mark(response.headers_mut(), replayed);
        Ok(response)
    }
}

/// Does `work` unless its key was used for the same request before; that one's answer is given again. Of repetitions at the same moment in this process one does
/// the work, and the others wait for its answer; of two in two processes both may do it. An answer that is a problem is not kept: its repetition is tried
/// anew. Routes that call this are carried through (see [`super::through`]), so that work which was done is also noted.
pub(super) async fn once(
    state: &AppState,
    key: Option<IdempotencyKey>,
    work: impl Future<Output = Result<Kept, Problem>>,
) -> Reply {
    let noted = key.clone();
    let work = async move {
        let kept = work.await?;
        if let Some(key) = noted {
            let (store, answer) = (state.orchestrator().task_store(), Payload::of(&kept)?);
            if let Err(error) = store.remember(&key, &answer, SystemClock.now()).await {
                tracing::warn!(error = %error.report(), "an answer cannot be kept; a repetition of its request would be carried out");
            }
        }
        Ok::<_, Problem>(kept)
    };
    once_noted(state, key, work).await
}

/// Like [`once`], for work that stores its answer under the key by itself, in the commit of its effect: it is done once, whatever ends in between and however
/// many processes are asked.
pub(super) async fn once_noted(
    state: &AppState,
    key: Option<IdempotencyKey>,
    work: impl Future<Output = Result<Kept, Problem>>,
) -> Reply {
    let Some(key) = key else { return work.await?.reply(false) };
    let _turn = state.keys().turn(&key).await?;
    let store = state.orchestrator().task_store();
    if let Some(kept) = recall(&**store, &key).await? {
        return kept.reply(true);
    }
    match work.await {
        Ok(kept) => kept.reply(false),
        // Another process may have done it between the look and now.
        Err(problem) => recall(&**store, &key).await?.map_or(Err(problem), |kept| kept.reply(true)),
    }
}

async fn recall(store: &dyn TaskStore, key: &IdempotencyKey) -> Result<Option<Kept>, Problem> {
    match store.recall(key).await? {
        Recalled::New => Ok(None),
        Recalled::Answered(answer) => Ok(Some(answer.read()?)),
        Recalled::Conflict => {
            let detail = "the idempotency key was used for another request";
            Err(Problem::new(StatusCode::CONFLICT, "idempotency_conflict", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use sutazai_core::Orchestrator;
    use tokio::sync::Notify;

    use super::*;
    use crate::{http::Options, metrics::Metrics};

    async fn state() -> AppState {
        let engine = Orchestrator::builder().start().await.unwrap();
        AppState::new(
            engine,
            Arc::new(Metrics::new("sutazai", std::iter::empty::<&str>()).unwrap()),
            Options::default(),
        )
    }

    fn key(operation: &str) -> Option<IdempotencyKey> {
        Some(IdempotencyKey::new("default", "k", operation, &Payload::null()).unwrap())
    }

    fn is_replay(reply: Reply) -> bool {
        reply.unwrap().headers().contains_key("idempotency-replayed")
    }

    #[tokio::test]
    async fn of_two_requests_at_once_one_does_the_work() {
        let (state, gate, done) = (state().await, Arc::new(Notify::new()), AtomicUsize::new(0));
        let work = || async {
            gate.notified().await;
            Ok::<_, Problem>(Kept::new(StatusCode::OK, &done.fetch_add(1, Ordering::SeqCst))?)
        };
        let mut first = pin!(once(&state, key("a"), work()));
        let mut second = pin!(once(&state, key("a"), work()));
        tokio::select! {
            biased;
            _ = &mut first => panic!("the work is done at a closed gate"),
            _ = &mut second => panic!("answered before the first one"),
            () = tokio::task::yield_now() => {}
        }
        gate.notify_one();
        let (first, second) = tokio::join!(first, second);
        assert_eq!((is_replay(first), is_replay(second), done.load(Ordering::SeqCst)), (false, true, 1));
        let other = once(&state, key("b"), work()).await.unwrap_err();
        assert_eq!((other.code(), done.load(Ordering::SeqCst)), ("idempotency_conflict", 1));
    }

    #[tokio::test]
    async fn a_failure_leaves_the_key_to_its_repetition() {
        let state = state().await;
        let fails = async { Err(Problem::internal("no")) };
        assert_eq!(once(&state, key("a"), fails).await.unwrap_err().code(), "internal");
        let works = || async { Ok::<_, Problem>(Kept::new(StatusCode::OK, &1)?) };
        assert!(!is_replay(once(&state, key("a"), works()).await));
        assert!(is_replay(once(&state, key("a"), works()).await));
        state.keys().close().await;
        assert_eq!(once(&state, key("a"), works()).await.unwrap_err().code(), "shutting_down");
    }
}
