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
    reply::{Reply, document},
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
    pub(super) fn new<T: Serialize>(status: StatusCode, body: &T) -> Result<Self, Problem> {
        Ok(Self { status: status.as_u16(), location: None, body: Payload::of(body)? })
    }

    /// With the address of what was made.
    pub(super) fn at(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }

    fn reply(self, replayed: bool) -> Reply {
        let status = StatusCode::from_u16(self.status).map_err(|_| Problem::internal("a kept answer has no status"))?;
        let mut response = document(status, "application/json", self.body.as_str().to_owned());
        if let Some(location) = self.location.and_then(|location| HeaderValue::try_from(location).ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        mark(response.headers_mut(), replayed);
        Ok(response)
    }
}

/// Does `work` unless its key was used for the same request before; that one's answer is given again. An answer that is a problem is not kept: its
/// repetition is tried anew. Of two repetitions at the same moment in two processes both may do the work.
pub(super) async fn once(
    state: &AppState,
    key: Option<IdempotencyKey>,
    work: impl Future<Output = Result<Kept, Problem>>,
) -> Reply {
    let Some(key) = key else { return work.await?.reply(false) };
    let _answering = state.answering().lock().await;
    let store = state.orchestrator().task_store();
    if let Some(kept) = recall(&**store, &key).await? {
        return kept.reply(true);
    }
    let kept = match work.await {
        Ok(kept) => kept,
        // Another process may have done it between the look and now.
        Err(problem) => return recall(&**store, &key).await?.map_or(Err(problem), |kept| kept.reply(true)),
    };
    if let Err(error) = store.remember(&key, &Payload::of(&kept)?, SystemClock.now()).await {
        tracing::warn!(error = %error.report(), "an answer cannot be kept; a repetition of its request would be carried out");
    }
    kept.reply(false)
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
