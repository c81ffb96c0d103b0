//! What the description of the API says of every operation alike, so that none can forget it.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Content, Header, Object, OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder, Schema, Type,
        path::{Operation, ParameterIn},
    },
};

use super::{
    codes::CODES,
    dialect::{Dialect, OllamaError, OpenAiError},
    parameters::is_strict,
    problem::ProblemView,
};

/// Completes `document`.
pub(super) fn complete(document: &mut OpenApi) {
    let schemas = document.components.as_mut().map(|components| &mut components.schemas);
    if let Some(RefOr::T(Schema::Object(problem))) = schemas.and_then(|schemas| schemas.get_mut(&*ProblemView::name()))
        && let Some(RefOr::T(Schema::Object(code))) = problem.properties.get_mut("code")
    {
        // Examples, not a closed list: a later version may have more.
        code.examples = CODES.iter().map(|known| known.code.into()).collect();
        code.example = None;
    }
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            describe(operation, Dialect::of(path), is_strict(path));
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, post, put, delete, patch, .. } = item;
    [get, post, put, delete, patch].into_iter().flatten()
}

fn describe(operation: &mut Operation, dialect: Dialect, is_strict: bool) {
    let takes = |name: &str| {
        let mut parameters = operation.parameters.iter().flatten();
        parameters.any(
            |parameter| matches!(parameter, RefOr::T(one) if one.parameter_in == ParameterIn::Header && one.name == name),
        )
    };
    let (is_keyed, is_answer) = (takes("Idempotency-Key"), takes("Cache-Control"));
    let has_body = operation.request_body.is_some();
    let problem = |description| error(dialect, description);
    let responses = &mut operation.responses.responses;
    if has_body {
        responses.insert("400".into(), problem("The body is not one JSON document").into());
        responses.insert("413".into(), problem("The body is too large").into());
        if dialect != Dialect::Ollama {
            responses.insert("415".into(), problem("The body does not say that it is JSON").into());
        }
    }
    if is_strict {
        responses.entry("422".into()).or_insert_with(|| problem("A parameter or a field is not known").into());
    }
    if is_keyed {
        responses.entry("409".into()).or_insert_with(|| problem("The key was used for another request").into());
    }
    responses.insert("default".into(), problem("Anything else: a problem with a stable `code`").into());
    for (status, response) in responses {
        let RefOr::T(response) = response else { continue };
        if is_keyed && status.starts_with('2') {
            header(
                response,
                "Idempotency-Replayed",
                text(),
                "`true` if the key had been used before: nothing was done again",
            );
        }
        if is_answer && status.starts_with('2') {
            header(response, "x-sutazai-model", text(), "What served it");
            header(response, "x-sutazai-cache", text(), "What the cache had to do with it: `hit`, `miss` or `off`");
            header(
                response,
                "x-sutazai-fallback",
                text(),
                "Why not the model that was asked for, if another one answers",
            );
        }
        if matches!(status.as_str(), "429" | "503" | "default") {
            let seconds = Header::new(Object::with_type(Type::Integer));
            header(response, "Retry-After", seconds, "Of 429 and 503: seconds after which to ask again");
        }
        if status == "default" {
            header(response, "Allow", text(), "Of 405: the methods of the address");
        }
        header(
            response,
            "x-request-id",
            text(),
            "The caller's, if it sent a sane one, else a new one; the log has it too",
        );
    }
}

fn text() -> Header {
    Header::new(String::schema())
}

fn header(response: &mut Response, name: &str, mut header: Header, description: &str) {
    header.description = Some(description.into());
    response.headers.insert(name.into(), header.into());
}

fn error(dialect: Dialect, description: &str) -> Response {
    let (kind, name) = match dialect {
        Dialect::House => ("application/problem+json", ProblemView::name()),
        Dialect::OpenAi => ("application/json", OpenAiError::name()),
        Dialect::Ollama => ("application/json", OllamaError::name()),
    };
    let content = Content::new(Some(Ref::from_schema_name(name)));
    ResponseBuilder::new().description(description).content(kind, content).build()
}
