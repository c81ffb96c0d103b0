//! Schedules: tasks that come by themselves.

use axum::{extract::State, http::StatusCode};
use sutazai_core::{
    Payload, Result,
    engine::Submitted,
    schedule::Schedule,
    store::ScheduleRecord,
    task::{self, DEFAULT_TENANT},
};

use super::{
    body::{JsonBody, NoBody},
    cursor,
    once::{Kept, once_noted},
    path::Named,
    problem::{Problem, ProblemView},
    query::{PageQuery, Query},
    reply::{Reply, json, no_content},
    state::AppState,
    strict::Object,
    tasks::{IdempotencyKey, accepted},
    views::{PutSchedule, ScheduleList, ScheduleView, TaskView},
};

/// Room that a schedule's JSON takes besides its input.
const SIZE: usize = 512;

fn address(name: &str) -> String {
    format!("/api/v1/schedules/{name}")
}

/// A schedule's keys have the scope of the tenant of its tasks.
fn tenant(schedule: &Schedule) -> &str {
    schedule.task.tenant.as_deref().unwrap_or(DEFAULT_TENANT)
}

/// Whether a schedule's tasks may have their webhook, for what its name resolves to.
async fn admit_name(state: &AppState, schedule: &Schedule) -> Result<(), Problem> {
    let url = schedule.task.webhook.as_ref().map(|webhook| webhook.url.as_str());
    state.admit_name(url).await.map_err(|problem| problem.below("/task"))
}

/// Create a schedule
///
/// Its tasks have the label `schedule:NAME`. An interval fires first after one interval.
#[utoipa::path(
    post, path = "/api/v1/schedules", tag = "schedules", operation_id = "create_schedule",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one schedule")),
    request_body = PutSchedule,
    responses(
        (status = 201, description = "The schedule", body = ScheduleView<'static>, headers(
            ("Location" = String, description = "The address of the schedule"),
        )),
        (status = 409, description = "There is one of this name", body = ProblemView<'static>, content_type = "application/problem+json"),
        (status = 422, description = "The schedule is wrong", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn create(State(state): State<AppState>, key: IdempotencyKey, body: JsonBody) -> Reply {
    let schedule = body.parse::<Object<PutSchedule>>()?.0.into_schedule(&state, None)?;
    admit_name(&state, &schedule).await?;
    let key = key.within(tenant(&schedule), "POST /api/v1/schedules", &body.payload()?)?;
    let kept = |record: &ScheduleRecord| -> Result<Kept> {
        Ok(Kept::new(StatusCode::CREATED, &ScheduleView::from(record))?.at(address(&record.schedule.name)))
    };
    let (engine, noted) = (state.orchestrator(), key.clone());
    let work = async move {
        let answer = |record: &ScheduleRecord| Payload::of(&kept(record)?);
        let record = engine.put_schedule_keyed(schedule, false, noted, answer).await?;
        Ok::<_, Problem>(kept(&record)?)
    };
    once_noted(&state, key, work).await
}

/// List schedules
///
/// By name, a page at a time.
#[utoipa::path(
    get, path = "/api/v1/schedules", tag = "schedules", operation_id = "list_schedules",
    params(PageQuery),
    responses(
        (status = 200, description = "A page", body = ScheduleList<'static>),
        (status = 422, description = "A parameter is wrong", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(State(state): State<AppState>, Query(query): Query<PageQuery>) -> Reply {
    let after = query.cursor.as_deref().map(cursor::name).transpose()?;
    let page = state.orchestrator().schedules(after.as_deref(), query.limit.0).await?;
    let next_cursor = page.items.last().filter(|_| page.more).map(|record| cursor::of_name(&record.schedule.name));
    let items = page.items.iter().map(ScheduleView::from).collect();
    json(StatusCode::OK, &ScheduleList { items, next_cursor }, page.items.len() * SIZE)
}

/// Show a schedule
#[utoipa::path(
    get, path = "/api/v1/schedules/{name}", tag = "schedules", operation_id = "get_schedule",
    params(("name" = String, Path, description = "The schedule's name")),
    responses(
        (status = 200, description = "The schedule", body = ScheduleView<'static>),
        (status = 404, description = "No such schedule", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(State(state): State<AppState>, Named(name): Named) -> Reply {
    json(StatusCode::OK, &ScheduleView::from(&state.orchestrator().schedule(&name).await?), SIZE)
}

/// Put a schedule
///
/// Makes it, or puts it in the place of the one of this name, which stays paused if it is. Firings before the change are not made up for.
#[utoipa::path(
    put, path = "/api/v1/schedules/{name}", tag = "schedules", operation_id = "put_schedule",
    params(("name" = String, Path, description = "The schedule's name; one in the body must be the same")),
    request_body = PutSchedule,
    responses(
        (status = 200, description = "The schedule, changed", body = ScheduleView<'static>),
        (status = 201, description = "The schedule, new", body = ScheduleView<'static>, headers(
            ("Location" = String, description = "The address of the schedule"),
        )),
        (status = 422, description = "The schedule is wrong", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn put(State(state): State<AppState>, Named(name): Named, body: JsonBody) -> Reply {
    let schedule = body.parse::<Object<PutSchedule>>()?.0.into_schedule(&state, Some(name))?;
    admit_name(&state, &schedule).await?;
    let record = state.orchestrator().put_schedule(schedule, true).await?;
    let is_new = record.revision == 0;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = json(status, &ScheduleView::from(&record), SIZE)?;
    if is_new {
        accepted(response.headers_mut(), &address(&record.schedule.name), false);
    }
    Ok(response)
}

/// Delete a schedule
///
/// Nothing fires any more; the tasks it has made go on.
#[utoipa::path(
    delete, path = "/api/v1/schedules/{name}", tag = "schedules", operation_id = "delete_schedule",
    params(("name" = String, Path, description = "The schedule's name")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "No such schedule", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn delete(State(state): State<AppState>, Named(name): Named, _: NoBody) -> Reply {
    state.orchestrator().remove_schedule(&name).await?;
    Ok(no_content())
}

/// Pause a schedule
///
/// Nothing fires until it is resumed; what falls into the pause is not made up for.
#[utoipa::path(
    post, path = "/api/v1/schedules/{name}/pause", tag = "schedules", operation_id = "pause_schedule",
    params(
        ("name" = String, Path, description = "The schedule's name"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one change"),
    ),
    responses(
        (status = 200, description = "The schedule, paused", body = ScheduleView<'static>),
        (status = 404, description = "No such schedule", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn pause(State(state): State<AppState>, Named(name): Named, key: IdempotencyKey, _: NoBody) -> Reply {
    set_paused(&state, &name, &key, true).await
}

/// Resume a schedule
#[utoipa::path(
    post, path = "/api/v1/schedules/{name}/resume", tag = "schedules", operation_id = "resume_schedule",
    params(
        ("name" = String, Path, description = "The schedule's name"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one change"),
    ),
    responses(
        (status = 200, description = "The schedule, which fires again", body = ScheduleView<'static>),
        (status = 404, description = "No such schedule", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn resume(State(state): State<AppState>, Named(name): Named, key: IdempotencyKey, _: NoBody) -> Reply {
    set_paused(&state, &name, &key, false).await
}

async fn set_paused(state: &AppState, name: &str, key: &IdempotencyKey, paused: bool) -> Reply {
    let key = key_of(state, name, key, if paused { "pause" } else { "resume" }).await?;
    let kept = |record: &ScheduleRecord| Kept::new(StatusCode::OK, &ScheduleView::from(record));
    let (engine, noted) = (state.orchestrator(), key.clone());
    let work = async move {
        let answer = |record: &ScheduleRecord| Payload::of(&kept(record)?);
        let record = engine.pause_schedule_keyed(name, paused, noted, answer).await?;
        Ok::<_, Problem>(kept(&record)?)
    };
    once_noted(state, key, work).await
}

/// Trigger a schedule
///
/// Submits its task now, whatever its times, its pause and its overlap say.
#[utoipa::path(
    post, path = "/api/v1/schedules/{name}/trigger", tag = "schedules", operation_id = "trigger_schedule",
    params(
        ("name" = String, Path, description = "The schedule's name"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions of this request one task"),
    ),
    responses(
        (status = 202, description = "The task, stored", body = TaskView<'static>, headers(
            ("Location" = String, description = "The address of the task"),
        )),
        (status = 404, description = "No such schedule", body = ProblemView<'static>, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn trigger(
    State(state): State<AppState>,
    Named(name): Named,
    key: IdempotencyKey,
    _: NoBody,
) -> Reply {
    let key = key_of(&state, &name, &key, "trigger").await?;
    let Submitted { task, replayed } = state.orchestrator().trigger_schedule(&name, key).await?;
    let mut response = json(StatusCode::ACCEPTED, &TaskView::from(&*task), TaskView::size(&task))?;
    accepted(response.headers_mut(), &format!("/api/v1/tasks/{}", task.id), replayed);
    Ok(response)
}

/// The key of a change of a schedule that exists.
async fn key_of(
    state: &AppState,
    name: &str,
    key: &IdempotencyKey,
    what: &str,
) -> Result<Option<task::IdempotencyKey>, Problem> {
    if key.0.is_none() {
        return Ok(None);
    }
    let record = state.orchestrator().schedule(name).await?;
    key.within(tenant(&record.schedule), &format!("POST {}/{what}", address(name)), &Payload::null())
}
