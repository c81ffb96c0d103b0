//! Submitting tasks, one or many.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
};
use serde_json::value::RawValue;
use sutazai_core::{engine::Submitted, task::TaskRequest};

use super::IdempotencyKey;
use crate::http::{
    body::{JsonBody, parse},
    edge::request_id,
    problem::{Problem, ProblemView},
    reply::{Reply, json},
    state::AppState,
    strict::Object,
    views::{BatchItem, BatchReply, SubmitBatch, SubmitOne, SubmitTask, TaskView},
};

/// Requests in one batch at most.
const MAX_BATCH: usize = 1_000;

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Submit a task
///
/// The task is durable when this answers. A repetition with the same `Idempotency-Key` and body answers with the first one's task.
#[utoipa::path(
    post, path = "/api/v1/tasks", tag = "tasks", operation_id = "submit_task",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one task")),
    request_body = SubmitOne,
    responses(
        (status = 202, description = "The task, stored", body = TaskView<'static>, headers(
            ("Location" = String, description = "The address of the task"),
        )),
        (status = 409, description = "The key was used with another body", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 422, description = "The request is wrong", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 429, description = "The queue is full; come back after `Retry-After`", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(in crate::http) async fn submit(State(state): State<AppState>, key: IdempotencyKey, body: JsonBody) -> Reply {
    let Object(mut request) = body.parse::<Object<SubmitTask>>()?;
    if request.idempotency_key.is_some() {
        return Err(Problem::field(
            "/idempotency_key",
            "send the header Idempotency-Key instead; the field is for batches",
        ));
    }
    request.idempotency_key = key.0;
    let request = request.into_request(&state)?;
    state.admit_name(request.webhook.as_deref()).await?;
    let Submitted { task, replayed } = state.orchestrator().submit_request(request).await?;
    let mut response = json(StatusCode::ACCEPTED, &TaskView::from(&*task), TaskView::size(&task))?;
    accepted(response.headers_mut(), &format!("/api/v1/tasks/{}", task.id), replayed);
    Ok(response)
}

/// Where the new task is, and whether it is new.
pub(in crate::http) fn accepted(headers: &mut HeaderMap, location: &str, replayed: bool) {
    if let Ok(location) = HeaderValue::from_str(location) {
        headers.insert(header::LOCATION, location);
    }
    mark(headers, replayed);
}

/// Says whether this is the answer to an earlier request with the same key.
pub(in crate::http) fn mark(headers: &mut HeaderMap, replayed: bool) {
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
}

/// Submit many tasks
///
/// 1 to 1,000 requests in one commit. Each is answered on its own and in order: a bad one does not keep the others out.
#[utoipa::path(
    post, path = "/api/v1/tasks/batch", tag = "tasks", operation_id = "submit_batch",
    request_body = SubmitBatch<SubmitTask>,
    responses(
        (status = 202, description = "What became of each", body = BatchReply<'static>),
        (status = 422, description = "The batch as a whole is wrong", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(in crate::http) async fn submit_batch(
    State(state): State<AppState>,
    key: IdempotencyKey,
    headers: HeaderMap,
    body: JsonBody,
) -> Reply {
    if key.0.is_some() {
        return Err(Problem::field("/idempotency_key", "a batch has a key for each task: the field idempotency_key"));
    }
    let mut requests = read(&state, &body)?;
    if !(1..=MAX_BATCH).contains(&requests.len()) {
        let found = requests.len();
        return Err(Problem::field("/tasks", format!("a batch has 1 to {MAX_BATCH} tasks, this one has {found}")));
    }
    state.admit_names(&mut requests).await;
    // The bad ones wait aside; what is good goes to the engine as one batch.
    let mut refused = Vec::with_capacity(requests.len());
    let mut good = Vec::with_capacity(requests.len());
    for request in requests {
        match request {
            Ok(request) => {
                good.push(request);
                refused.push(None);
            }
            Err(problem) => refused.push(Some(problem)),
        }
    }
    let mut answers = state.orchestrator().submit_batch(good).await.into_iter();
    let outcomes: Vec<Result<Submitted, Problem>> = refused
        .into_iter()
        .map(|problem| match problem {
            Some(problem) => Err(problem),
            None => answers
                .next()
                .map_or_else(|| Err(Problem::internal("the engine gave too few answers")), |answer| Ok(answer?)),
        })
        .collect();
    let id = request_id(&headers);
    let items = outcomes.iter().map(|outcome| match outcome {
        Ok(submitted) => BatchItem::Task(TaskView::from(&*submitted.task)),
        Err(problem) => {
            if let Some(report) = problem.report() {
                tracing::error!(request_id = id, code = problem.code(), report, "a task of a batch failed");
            }
            BatchItem::Error(problem.view(id))
        }
    });
    let size =
        outcomes.iter().map(|outcome| outcome.as_ref().map_or(TaskView::SIZE, |one| TaskView::size(&one.task))).sum();
    json(StatusCode::ACCEPTED, &BatchReply { items: items.collect() }, size)
}

type Requests = Vec<Result<TaskRequest, Problem>>;

/// Reads the batch at once; if something in it does not fit, one by one, so that only the bad ones are refused.
fn read(state: &AppState, body: &JsonBody) -> Result<Requests, Problem> {
    if let Ok(batch) = body.parse::<Object<SubmitBatch<Object<SubmitTask>>>>() {
        return Ok(batch.0.tasks.into_iter().map(|request| request.0.into_request(state)).collect());
    }
    let batch = body.parse::<Object<SubmitBatch<Box<RawValue>>>>()?;
    let one = |text: Box<RawValue>| parse::<Object<SubmitTask>>(text.get().as_bytes())?.0.into_request(state);
    Ok(batch.0.tasks.into_iter().map(one).collect())
}
