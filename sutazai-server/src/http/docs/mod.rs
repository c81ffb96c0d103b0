//! The API for people: pages made from the OpenAPI document and the table of codes. They load nothing, from nowhere.

use std::sync::LazyLock;

use bytes::Bytes;
use minijinja::{Environment, Value, value::Serde};
use serde::Serialize;

use super::{codes::CODES, problem::Problem, router::openapi};

type Page = LazyLock<Result<Bytes, String>>;

static DOCUMENT: Page =
    LazyLock::new(|| serde_json::to_vec(&openapi()).map(Bytes::from).map_err(|error| error.to_string()));

static REFERENCE: Page = LazyLock::new(|| render("reference.html", "api", openapi()));

static ERRORS: Page = LazyLock::new(|| render("errors.html", "codes", CODES));

/// The OpenAPI document.
pub(super) fn document() -> Result<Bytes, Problem> {
    read(&DOCUMENT)
}

/// The page with every address.
pub(super) fn reference() -> Result<Bytes, Problem> {
    read(&REFERENCE)
}

/// The page with every code.
pub(super) fn errors() -> Result<Bytes, Problem> {
    read(&ERRORS)
}

fn read(page: &Page) -> Result<Bytes, Problem> {
    page.as_ref().map(Bytes::clone).map_err(|error| Problem::internal(format!("cannot make the page: {error}")))
}

/// The page `name`, in which `value` is called `called`.
fn render(name: &str, called: &str, value: impl Serialize) -> Result<Bytes, String> {
    let mut pages = Environment::new();
    let templates = [
        ("base.html", include_str!("base.html")),
        ("reference.html", include_str!("reference.html")),
        ("errors.html", include_str!("errors.html")),
    ];
    for (name, text) in templates {
        pages.add_template(name, text).map_err(|error| error.to_string())?;
    }
    let values = Value::from_pairs([(called, Value::from(Serde(value)))]);
    let page = pages.get_template(name).and_then(|page| page.render(values));
    page.map(Bytes::from).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_say_everything_and_load_nothing() {
        let reference = String::from_utf8(reference().unwrap().to_vec()).unwrap().replace("&#x2f;", "/");
        for (path, _) in openapi().paths.paths {
            assert!(reference.contains(&path), "{path} is missing");
        }
        let errors = String::from_utf8(errors().unwrap().to_vec()).unwrap();
        for entry in CODES {
            assert!(errors.contains(&format!("id=\"{}\"", entry.code)), "{} is missing", entry.code);
        }
        for page in [reference, errors] {
            assert!(!page.contains("src=") && !page.contains("<script") && !page.contains("<link"));
            assert!(!page.contains("href=\"http"));
        }
    }
}
