//! Requests for tasks on the wire.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sutazai_core::{
    Payload,
    clock::Timestamp,
    schedule::{TaskTemplate, Webhook},
    task::{Labels, Priority, RetryPolicy, Target, TaskRequest},
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::{TaskView, task::any_schema};
use crate::http::{
    problem::{Problem, ProblemView},
    state::AppState,
    strict::{Object, check_readable, unique},
};

/// A request for a task of a batch. Only `input` is required.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BatchTask, example = json!({"agent": "document-knowledge-manager", "input": {"question": "How are tasks retried?"}, "priority": 7}))]
pub(in crate::http) struct SubmitTask {
    /// The agent that shall handle it.
    agent: Option<String>,
    /// Without `agent`: the best agent that declares this capability. Without both, the agent that fits `input.text` best.
    capability: Option<String>,
    /// The agent's input.
    #[schema(schema_with = any_schema)]
    input: Payload,
    /// 0 to 9; 9 goes first.
    #[schema(value_type = Option<u8>, minimum = 0, maximum = 9, default = 5)]
    priority: Option<Priority>,
    /// When it fails unless it has ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    deadline: Option<Timestamp>,
    /// How failed attempts are repeated.
    #[schema(value_type = Option<RetryView>)]
    retry: Option<Object<RetryPolicy>>,
    /// At most 64, to filter lists by; keys of 1 to 63 bytes without `:`, values of up to 255.
    #[serde(default, deserialize_with = "unique")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    labels: Labels,
    /// Whose task it is.
    #[schema(default = "default")]
    tenant: Option<String>,
    /// Makes repetitions of this request one task: stands for the header `Idempotency-Key`, which a batch does not take.
    #[schema(min_length = 1, max_length = 255)]
    pub(in crate::http) idempotency_key: Option<String>,
    /// Who hears of state changes. Only public targets, unless the operator allows others.
    #[schema(value_type = Option<WebhookView>)]
    webhook: Option<Object<Webhook>>,
}

/// The same alone, as it is described: its key is a header.
pub(in crate::http) struct SubmitOne;

impl PartialSchema for SubmitOne {
    fn schema() -> RefOr<Schema> {
        without(&["idempotency_key"], "A request for a task. Only `input` is required.")
    }
}

impl ToSchema for SubmitOne {
    fn name() -> Cow<'static, str> {
        "SubmitTask".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        SubmitTask::schemas(schemas);
    }
}

/// The same as a schedule has it: deadline and key are of one task, and there are many.
pub(in crate::http) struct ScheduledTask;

impl PartialSchema for ScheduledTask {
    fn schema() -> RefOr<Schema> {
        without(&["idempotency_key", "deadline"], "What a schedule submits. Only `input` is required.")
    }
}

impl ToSchema for ScheduledTask {
    fn name() -> Cow<'static, str> {
        "ScheduledTask".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        SubmitTask::schemas(schemas);
    }
}

fn without(fields: &[&str], description: &str) -> RefOr<Schema> {
    let mut schema = SubmitTask::schema();
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        for field in fields {
            object.properties.remove(*field);
        }
        object.description = Some(description.to_owned());
    }
    schema
}

impl SubmitTask {
    /// The request as the engine takes it, if its webhook is admitted.
    pub(in crate::http) fn into_request(self, state: &AppState) -> Result<TaskRequest, Problem> {
        check_readable(&self.input, "/input")?;
        let target = match (self.agent, self.capability) {
            (Some(agent), _) => Target::Agent(agent),
            (None, Some(capability)) => Target::Capability(capability),
            (None, None) => Target::Meaning,
        };
        let mut request = TaskRequest::to(target, self.input);
        request.priority = self.priority.unwrap_or_default();
        request.deadline = self.deadline;
        request.retry = self.retry.map(|retry| retry.0).unwrap_or_default();
        request.labels = self.labels;
        request.idempotency_key = self.idempotency_key;
        if let Some(tenant) = self.tenant {
            request.tenant = tenant.into();
        }
        request.webhook = self.webhook.map(|webhook| webhook.0.url.into());
        state.admit(request.webhook.as_deref())?;
        Ok(request)
    }

    /// The same as a schedule's task.
    pub(in crate::http) fn into_template(self, state: &AppState) -> Result<TaskTemplate, Problem> {
        for (path, given) in
            [("/deadline", self.deadline.is_some()), ("/idempotency_key", self.idempotency_key.is_some())]
        {
            if given {
                return Err(Problem::field(path, "this is one task's, and a schedule has many; leave it out"));
            }
        }
        check_readable(&self.input, "/input")?;
        let webhook = self.webhook.map(|webhook| webhook.0);
        state.admit(webhook.as_ref().map(|webhook| webhook.url.as_str()))?;
        Ok(TaskTemplate {
            agent: self.agent,
            capability: self.capability,
            input: self.input,
            priority: self.priority.unwrap_or_default(),
            retry: self.retry.map(|retry| retry.0).unwrap_or_default(),
            labels: self.labels,
            tenant: self.tenant,
            webhook,
        })
    }
}

/// Exponential backoff with full jitter.
#[derive(ToSchema)]
#[schema(as = RetryPolicy)]
#[allow(dead_code, reason = "describes core's `RetryPolicy`, which knows nothing of OpenAPI")]
struct RetryView {
    /// Executions that may end in an error before the task fails.
    #[schema(default = 3, minimum = 1, required = false)]
    max_attempts: u32,
    /// Upper bound of the first delay.
    #[schema(default = 200, required = false)]
    initial_ms: u64,
    /// Upper bound of every delay.
    #[schema(default = 30_000, required = false)]
    max_ms: u64,
}

/// Where state changes are posted to: each event as JSON, signed in `X-Sutazai-Signature`, in order.
#[derive(ToSchema)]
#[schema(as = Webhook)]
#[allow(dead_code, reason = "describes core's `Webhook`, which knows nothing of OpenAPI")]
struct WebhookView {
    /// An `http` or `https` URL.
    #[schema(example = "https://hooks.example.com/sutazai")]
    url: String,
}

/// Many requests at once.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct SubmitBatch<T> {
    /// 1 to 1,000 requests.
    #[schema(min_items = 1, max_items = 1000)]
    pub(in crate::http) tasks: Vec<T>,
}

/// The answers to a batch, in order.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct BatchReply<'a> {
    /// One for each request.
    pub(in crate::http) items: Vec<BatchItem<'a>>,
}

/// What became of one request of a batch.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum BatchItem<'a> {
    /// It is a task now; with a key that was used before, the first one.
    Task(TaskView<'a>),
    /// It was refused.
    Error(ProblemView<'a>),
}
