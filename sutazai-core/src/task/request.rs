//! What somebody asks for when they submit a task.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{DEFAULT_TENANT, Labels, MAX_DELAY, Priority, RetryPolicy, TaskId};
use crate::{
    clock::Timestamp,
    error::{Error, Fault, Result},
    payload::Payload,
};

/// Who should handle a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The agent of this name.
    Agent(String),
    /// The best agent that declares this capability.
    Capability(String),
    /// The agent that fits `input.text` best, by meaning.
    Meaning,
}

impl Target {
    /// What it is called in a journal.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Agent(name) => name.clone(),
            Self::Capability(capability) => format!("capability:{capability}"),
            Self::Meaning => "meaning".to_owned(),
        }
    }
}

/// A task to be: only the input is required, everything else has a default.
#[derive(Clone, Debug)]
pub struct TaskRequest {
    /// Who handles it.
    pub target: Target,
    /// The agent's input.
    pub input: Payload,
    /// Default 5.
    pub priority: Priority,
    /// Fails with `deadline_exceeded` unless finished by then.
    pub deadline: Option<Timestamp>,
    /// How failed attempts are repeated.
    pub retry: RetryPolicy,
    /// At most 64 labels; keys 1–63 and values up to 255 characters.
    pub labels: Labels,
    /// 1–255 visible ASCII characters.
    pub tenant: Arc<str>,
    /// Makes a repeated submit return the first one's task.
    pub idempotency_key: Option<String>,
    /// The task whose agent asks for this one.
    pub parent_id: Option<TaskId>,
    /// With a parent: go on when that ends.
    pub detached: bool,
    /// Post every state change to this URL. Who sends it decides which targets are allowed.
    pub webhook: Option<Arc<str>>,
}

impl TaskRequest {
    /// A task for the agent called `agent`.
    pub fn new(agent: impl Into<String>, input: Payload) -> Self {
        Self::to(Target::Agent(agent.into()), input)
    }

    /// A task for `target`.
    #[must_use]
    pub fn to(target: Target, input: Payload) -> Self {
        Self {
            target,
            input,
            priority: Priority::default(),
            deadline: None,
            retry: RetryPolicy::default(),
            labels: Labels::new(),
            tenant: DEFAULT_TENANT.into(),
            idempotency_key: None,
            parent_id: None,
            detached: false,
            webhook: None,
        }
    }

    /// Sets the priority.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the deadline.
    #[must_use]
    pub fn deadline(mut self, deadline: Timestamp) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets the retry policy.
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Sets the tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<Arc<str>>) -> Self {
        self.tenant = tenant.into();
        self
    }

    /// Sets the idempotency key.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Sets the URL that state changes are posted to.
    #[must_use]
    pub fn webhook(mut self, url: impl Into<Arc<str>>) -> Self {
        self.webhook = Some(url.into());
        self
    }

    /// Checks everything that needs no agent: limits of keys, labels, tenant and retries.
    pub fn check(&self) -> Result<()> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, path: &str, message: &str| {
            if !ok {
                faults.push(Fault::new(path, message));
            }
        };
        let visible = |text: &str| (1..=255).contains(&text.len()) && text.bytes().all(|b| (0x21..=0x7e).contains(&b));
        check(visible(&self.tenant), "/tenant", "a tenant has 1 to 255 visible ASCII characters");
        check(
            self.idempotency_key.as_deref().is_none_or(visible),
            "/idempotency_key",
            "an idempotency key has 1 to 255 visible ASCII characters",
        );
        check(self.retry.max_attempts >= 1, "/retry/max_attempts", "at least 1 attempt is needed");
        for (field, ms) in [("initial_ms", self.retry.initial_ms), ("max_ms", self.retry.max_ms)] {
            check(
                Duration::from_millis(ms) <= MAX_DELAY,
                &format!("/retry/{field}"),
                "a delay is at most 2592000000 ms, which is 30 days",
            );
        }
        check(self.labels.len() <= 64, "/labels", "at most 64 labels are allowed");
        for (key, value) in &self.labels {
            let ok = (1..=63).contains(&key.len()) && !key.contains(':') && value.len() <= 255;
            let pointer = key.replace('~', "~0").replace('/', "~1");
            check(ok, &format!("/labels/{pointer}"), "a key has 1 to 63 bytes without ':', a value up to 255");
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::invalid("the task request is wrong", faults)) }
    }

    /// The key with the request's fingerprint, if there is a key.
    pub(crate) fn key(&self) -> Result<Option<IdempotencyKey>> {
        let Some(key) = &self.idempotency_key else { return Ok(None) };
        let mut canonical: serde_json::Value = self.input.read()?;
        canonical.sort_all_objects(); // some feature of a dependency may keep maps in the order they came in
        let body = serde_json::to_vec(&(
            &self.target,
            canonical,
            self.priority,
            self.deadline,
            self.retry,
            &self.labels,
            &self.webhook,
        ))
        .map_err(|error| Error::invalid("the request cannot be written as JSON", Vec::new()).because(error))?;
        Ok(Some(IdempotencyKey {
            tenant: Arc::clone(&self.tenant),
            key: key.as_str().into(),
            fingerprint: Sha256::digest(&body).into(),
        }))
    }
}

/// Makes one request one task, or one change, however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The scope of the key.
    pub tenant: Arc<str>,
    /// 1–255 visible ASCII characters.
    pub key: Arc<str>,
    /// SHA-256 of the canonical JSON of the request: the same key with another one is a conflict.
    pub fingerprint: [u8; 32],
}

impl IdempotencyKey {
    /// A key of a request to do `operation`, such as `POST /api/v1/tasks/…/cancel`, with this body.
    pub fn new(tenant: impl Into<Arc<str>>, key: impl Into<Arc<str>>, operation: &str, body: &Payload) -> Result<Self> {
        let mut canonical: serde_json::Value = body.read()?;
        canonical.sort_all_objects();
        let fingerprint = Sha256::digest(format!("{operation}\n{canonical}")).into();
        Ok(Self { tenant: tenant.into(), key: key.into(), fingerprint })
    }
}
