//! Every route, once: the same list makes the router and the OpenAPI document.

use std::time::Duration;

use axum::{
    Router,
    http::{StatusCode, Uri},
    middleware::from_fn_with_state,
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    agents,
    common::complete,
    dead_letters,
    edge::{Edge, pass},
    events, feed, jobs, nodes, ollama, openai, operators,
    problem::Problem,
    query::MAX_WAIT,
    schedules,
    state::AppState,
    tasks,
    through::through,
    webhooks,
};

/// How long a whole answer of a model may take: longer than anybody waits. One that nobody waits for any more ends at once.
const MODEL_TIME: Duration = Duration::from_secs(3_600);

/// The description of the API, before its routes are added.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "SutazAI",
        description = "Durable LLM agents on hardware you own. Times are RFC 3339 in UTC with milliseconds, durations are integers named `*_ms`, \
                       errors are problem documents (RFC 9457) with a stable `code`, explained at `/docs/errors`; lists are paged with `limit` and `cursor`. \
                       Unknown fields and query parameters in requests are refused, unknown fields in answers should be ignored. A request may carry \
                       `x-request-id`, and every answer does. A change that was begun is carried through, although its connection is cut. \
                       The addresses of models are OpenAI's (`/v1/…`) and Ollama's (`/api/…`): errors have those forms there, and unknown fields are ignored."
    ),
    tags(
        (name = "tasks", description = "Submit, follow and cancel durable units of work"),
        (name = "dead letters", description = "Tasks that failed for good, until somebody requeues or discards them"),
        (name = "webhooks", description = "Events that could not be posted, until somebody requeues or discards them"),
        (name = "schedules", description = "Tasks that come by themselves"),
        (name = "events", description = "What happened to all tasks, in one order"),
        (name = "agents", description = "Who can do what"),
        (name = "agent service", description = "Each agent as a service of its own"),
        (name = "models", description = "Models, and agents as models, in OpenAI's format"),
        (name = "ollama", description = "The same in Ollama's format"),
        (name = "operators", description = "Health, metrics and this description"),
    ),
)]
struct Api;

/// Routes that answer as fast as they can. The engine sees to what was submitted, whether anybody waits for the answer or not.
fn prompt() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(tasks::submit, tasks::list))
        .routes(routes!(tasks::submit_batch))
        .routes(routes!(tasks::journal))
        .routes(routes!(tasks::replay))
        .routes(routes!(tasks::cassette))
        .routes(routes!(events::follow))
        .routes(routes!(feed::follow))
        .routes(routes!(dead_letters::list))
        .routes(routes!(agents::list))
        .routes(routes!(agents::show))
        .routes(routes!(jobs::health))
        .routes(routes!(jobs::ready))
        .routes(routes!(jobs::metrics))
        .routes(routes!(jobs::version))
        .routes(routes!(jobs::submit))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::follow))
        .routes(routes!(nodes::list))
        .routes(routes!(operators::openapi))
        .routes(routes!(operators::docs))
        .routes(routes!(operators::docs_errors))
        .merge(watched())
}

/// Routes that change what there is, and are carried through.
fn changes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(tasks::cancel))
        .routes(routes!(tasks::signal))
        .routes(routes!(tasks::fork))
        .routes(routes!(tasks::resolve))
        .routes(routes!(dead_letters::requeue_many))
        .routes(routes!(dead_letters::show, dead_letters::discard))
        .routes(routes!(dead_letters::requeue))
        .routes(routes!(webhooks::list))
        .routes(routes!(webhooks::discard))
        .routes(routes!(webhooks::requeue))
        .routes(routes!(schedules::create, schedules::list))
        .routes(routes!(schedules::show, schedules::put, schedules::delete))
        .routes(routes!(schedules::pause))
        .routes(routes!(schedules::resume))
        .routes(routes!(schedules::trigger))
}

/// Routes that every process serves, whatever it does.
fn watched() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(operators::health))
        .routes(routes!(operators::ready))
        .routes(routes!(operators::metrics))
        .routes(routes!(operators::version))
}

/// Routes that may wait on purpose.
fn patient() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(tasks::get))
}

/// Routes that models answer. They are not carried through: who goes away wants no answer, and gives the model's turn to others.
fn models() -> OpenApiRouter<AppState> {
    openai::routes().merge(ollama::routes())
}

/// The API as a service.
pub fn router(state: AppState) -> Router {
    let (prompt, patient, models) = if state.options().operators_only {
        (watched(), OpenApiRouter::default(), OpenApiRouter::default())
    } else {
        (prompt().merge(changes().layer(from_fn_with_state(state.clone(), through))), patient(), models())
    };
    let (prompt, mut document) = prompt.split_for_parts();
    let (patient, of_patient) = patient.split_for_parts();
    let (models, of_models) = models.split_for_parts();
    document.merge(of_patient);
    document.merge(of_models);
    let edge = Edge::new(&state, &document);
    // The body and the answer each have the timeout to themselves.
    let limit: Duration = state.options().request_timeout.saturating_mul(2);
    let around = |routed: Router<AppState>, limit| {
        routed.method_not_allowed_fallback(no_method).layer(from_fn_with_state(edge.within(limit), pass))
    };
    around(prompt.fallback(no_route), limit)
        .merge(around(patient, limit + MAX_WAIT))
        .merge(around(models, MODEL_TIME))
        .with_state(state)
}

/// The OpenAPI document of the API.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = prompt().merge(changes()).into_openapi();
    document.merge(patient().into_openapi());
    document.merge(models().into_openapi());
    complete(&mut document);
    document
}

async fn no_route(uri: Uri) -> Problem {
    Problem::not_found("route_not_found", format!("there is nothing at {:?}; /docs lists the addresses", uri.path()))
}

async fn no_method(uri: Uri) -> Problem {
    let detail = format!("{:?} does not take this method; the Allow header lists those it takes", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}
