//! Tasks, jobs and events on the wire.

use serde::Serialize;
use sutazai_core::{
    Payload,
    clock::Timestamp,
    task::{Labels, Priority, Progress, Task, TaskError, TaskId, TaskState},
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, Type},
    },
};

/// A task.
#[derive(Serialize, ToSchema)]
#[schema(as = Task)]
pub(in crate::http) struct TaskView<'a> {
    /// UUIDv7: ids sort by time of creation.
    #[schema(value_type = String, format = Uuid, example = "019f3c2a-7d41-7000-8000-000000000000")]
    id: TaskId,
    /// The agent that handles it.
    #[schema(example = "document-knowledge-manager")]
    agent: &'a str,
    /// Where it is in its life.
    #[schema(schema_with = state_schema)]
    state: TaskState,
    /// 9 goes first.
    #[schema(value_type = u8, minimum = 0, maximum = 9)]
    priority: Priority,
    /// Whose task it is.
    #[schema(example = "default")]
    tenant: &'a str,
    /// Labels to filter lists by.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    labels: &'a Labels,
    /// The agent's input, as it was submitted.
    #[schema(schema_with = any_schema)]
    input: &'a Payload,
    /// The agent's output, once `completed`.
    #[schema(schema_with = any_schema, required = true)]
    output: Option<&'a Payload>,
    /// The last error: of the last attempt while waiting for the next, final once `failed`.
    #[schema(value_type = Option<ErrorView>, required = true)]
    error: Option<&'a TaskError>,
    /// The number of the current or last attempt; 0 before the first.
    attempt: u32,
    /// Executions that may end in an error before the task fails.
    max_attempts: u32,
    /// What the agent last said about its progress.
    #[schema(value_type = Option<ProgressView>, required = true)]
    progress: Option<&'a Progress>,
    /// When it was submitted.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When its latest execution began.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    started_at: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    finished_at: Option<Timestamp>,
    /// When it fails unless it has ended.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    deadline: Option<Timestamp>,
    /// The task whose agent called for this one.
    #[schema(value_type = Option<String>, format = Uuid, required = true)]
    parent_id: Option<TaskId>,
}

impl<'a> TaskView<'a> {
    /// Room that a task takes besides its payloads.
    pub(in crate::http) const SIZE: usize = 512;

    /// A guess at the length of the JSON.
    pub(in crate::http) fn size(task: &Task) -> usize {
        Self::SIZE + task.input.as_str().len() + task.output.as_ref().map_or(0, |output| output.as_str().len())
    }
}

impl<'a> From<&'a Task> for TaskView<'a> {
    fn from(task: &'a Task) -> Self {
        Self {
            id: task.id,
            agent: &task.agent,
            state: task.state,
            priority: task.priority,
            tenant: &task.tenant,
            labels: &task.labels,
            input: &task.input,
            output: task.output.as_ref(),
            error: task.error.as_ref(),
            attempt: task.attempt,
            max_attempts: task.retry.max_attempts,
            progress: task.progress.as_ref(),
            created_at: task.created_at,
            started_at: task.started_at,
            finished_at: task.finished_at,
            deadline: task.deadline,
            parent_id: task.parent_id,
        }
    }
}

/// A page of tasks, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = TaskList)]
pub(in crate::http) struct TaskList<'a> {
    /// The tasks.
    pub(in crate::http) items: Vec<TaskView<'a>>,
    /// What to send as `cursor` for the next page; null at the end.
    #[schema(required = true)]
    pub(in crate::http) next_cursor: Option<String>,
}

/// The acknowledgement of a job.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct JobAccepted {
    /// The id of the job, which is a task's.
    #[schema(value_type = String, format = Uuid)]
    pub(in crate::http) job_id: TaskId,
}

/// A job: a task, as an agent's own service shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Job)]
pub(in crate::http) struct JobView<'a> {
    #[schema(value_type = String, format = Uuid)]
    id: TaskId,
    /// The state of its task.
    #[schema(schema_with = state_schema)]
    status: TaskState,
    /// The agent's output, once `completed`.
    #[schema(schema_with = any_schema, required = true)]
    result: Option<&'a Payload>,
    /// The last error.
    #[schema(value_type = Option<ErrorView>, required = true)]
    error: Option<&'a TaskError>,
}

impl<'a> From<&'a Task> for JobView<'a> {
    fn from(task: &'a Task) -> Self {
        Self { id: task.id, status: task.state, result: task.output.as_ref(), error: task.error.as_ref() }
    }
}

/// Why a task or an attempt failed.
#[derive(ToSchema)]
#[schema(as = TaskError)]
#[allow(dead_code, reason = "describes core's `TaskError`, which knows nothing of OpenAPI")]
pub(in crate::http) struct ErrorView {
    /// Stable, `snake_case`.
    #[schema(example = "deadline_exceeded")]
    code: String,
    /// For people.
    message: String,
}

/// How far an agent says it has come.
#[derive(ToSchema)]
#[schema(as = Progress)]
#[allow(dead_code, reason = "describes core's `Progress`, which knows nothing of OpenAPI")]
struct ProgressView {
    /// 0 to 1, where the agent knows.
    #[schema(required = true)]
    fraction: Option<f64>,
    /// For people.
    message: String,
}

/// The names of the states.
fn state_schema() -> RefOr<Schema> {
    let names = TaskState::ALL.iter().map(|state| state.as_str());
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
}

/// Any JSON.
pub(in crate::http) fn any_schema() -> RefOr<Schema> {
    serde_json::Value::schema()
}
