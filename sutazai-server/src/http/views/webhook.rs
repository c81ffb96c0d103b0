//! Dead letters of webhooks on the wire.

use serde::Serialize;
use sutazai_core::{store::Delivery, task::TaskId};
use utoipa::ToSchema;

use crate::webhooks::shown;

/// A task whose webhook was given up.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookDeadLetter)]
pub(in crate::http) struct WebhookLetter {
    /// The task.
    #[schema(value_type = String, format = Uuid)]
    task_id: TaskId,
    /// Scheme, host and port of its URL; the rest may be a secret.
    #[schema(example = "https://hooks.example.com")]
    target: String,
    /// Events up to this number are posted; the next one, progress aside, was given up.
    posted: u64,
    /// How often that was tried in a row.
    failures: u32,
    /// Why it was given up.
    reason: String,
}

impl From<Delivery> for WebhookLetter {
    fn from(delivery: Delivery) -> Self {
        let Delivery { task, url, posted, failures, given_up, .. } = delivery;
        Self { task_id: task, target: shown(&url), posted, failures, reason: given_up.unwrap_or_default() }
    }
}

/// A page of them, newest task first.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookDeadLetterList)]
pub(in crate::http) struct WebhookLetterList {
    /// The dead letters.
    pub(in crate::http) items: Vec<WebhookLetter>,
    /// What to send as `cursor` for the next page; null at the end.
    #[schema(required = true)]
    pub(in crate::http) next_cursor: Option<String>,
}
