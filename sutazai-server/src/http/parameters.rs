//! Which query parameters each address takes: those of its description, and no others.

use std::collections::HashMap;

use axum::http::Method;
use utoipa::openapi::{
    OpenApi, PathItem, RefOr,
    path::{Operation, ParameterIn},
};

use super::problem::Problem;

/// The addresses at which a parameter that nobody knows is a mistake. Elsewhere it has no effect: what asks for `/health` may add what it likes.
const STRICT: &[&str] = &["/api/v1/", "/agents/{name}/v1/"];

/// Whether the address at `path` refuses parameters that it does not know.
pub(super) fn is_strict(path: &str) -> bool {
    STRICT.iter().any(|start| path.starts_with(start))
}

/// The query parameters of each operation.
pub(super) struct Parameters(HashMap<String, HashMap<Method, Vec<String>>>);

impl Parameters {
    /// Those that `document` describes.
    pub(super) fn of(document: &OpenApi) -> Self {
        let strict = document.paths.paths.iter().filter(|(path, _)| is_strict(path));
        Self(strict.map(|(path, item)| (path.clone(), methods(item))).collect())
    }

    /// Refuses a query with a parameter that the operation at `route` does not take.
    pub(super) fn check(&self, route: &str, method: &Method, query: &str) -> Result<(), Problem> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let Some(allowed) = self.0.get(route).and_then(|methods| methods.get(method)) else { return Ok(()) };
        let mut names = form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
        let Some(unknown) = names.find(|name| !allowed.iter().any(|known| known == name)) else { return Ok(()) };
        let path = format!("/{}", unknown.replace('~', "~0").replace('/', "~1"));
        let message = match &**allowed {
            [] => format!("unknown parameter {unknown:?}; this address takes none"),
            allowed => format!("unknown parameter {unknown:?}; allowed are {}", allowed.join(", ")),
        };
        Err(Problem::field(path, message))
    }
}

fn methods(item: &PathItem) -> HashMap<Method, Vec<String>> {
    let operations = [
        (Method::GET, &item.get),
        (Method::POST, &item.post),
        (Method::PUT, &item.put),
        (Method::DELETE, &item.delete),
    ];
    operations.into_iter().filter_map(|(method, operation)| Some((method, names(operation.as_ref()?)))).collect()
}

fn names(operation: &Operation) -> Vec<String> {
    let parameters = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
        RefOr::T(parameter) => Some(parameter),
        RefOr::Ref(_) => None, // every operation describes its own
    });
    let of_query = parameters.filter(|parameter| parameter.parameter_in == ParameterIn::Query);
    of_query.map(|parameter| parameter.name.clone()).collect()
}
