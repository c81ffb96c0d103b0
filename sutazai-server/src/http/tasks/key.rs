//! The header `Idempotency-Key`.

use axum::{extract::FromRequestParts, http::request::Parts};
use sutazai_core::{
    Payload,
    task::{self, TaskId},
};

use crate::http::{problem::Problem, state::AppState};

const PATH: &str = "/idempotency_key";

/// The key of a request, if it has one: 1–255 visible ASCII characters.
pub(in crate::http) struct IdempotencyKey(pub(in crate::http) Option<String>);

impl IdempotencyKey {
    /// The key of a change of a task: its scope is the task's tenant. `operation` is the method and what follows the task's address.
    pub(in crate::http) async fn of_task(
        &self,
        state: &AppState,
        id: TaskId,
        operation: &str,
        body: &Payload,
    ) -> Result<Option<task::IdempotencyKey>, Problem> {
        if self.0.is_none() {
            return Ok(None);
        }
        let task = state.orchestrator().task(id).await?;
        self.within(&task.tenant, &format!("{operation} of task {id}"), body)
    }

    /// The key of `operation` with this body in the scope of `tenant`.
    pub(in crate::http) fn within(
        &self,
        tenant: &str,
        operation: &str,
        body: &Payload,
    ) -> Result<Option<task::IdempotencyKey>, Problem> {
        let Some(key) = self.0.as_deref() else { return Ok(None) };
        Ok(Some(task::IdempotencyKey::new(tenant, key, operation, body)?))
    }
}

impl FromRequestParts<AppState> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        if values.next().is_some() {
            return Err(Problem::field(PATH, "the header Idempotency-Key comes twice"));
        }
        let bytes = value.as_bytes();
        let visible = (1..=255).contains(&bytes.len()) && bytes.iter().all(|byte| (0x21..=0x7e).contains(byte));
        match value.to_str() {
            Ok(key) if visible => Ok(Self(Some(key.to_owned()))),
            _ => Err(Problem::field(PATH, "an idempotency key has 1 to 255 visible ASCII characters")),
        }
    }
}
