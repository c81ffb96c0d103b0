//! The OpenAPI document and what must agree with it.

use std::{collections::BTreeSet, env, fs, path::Path};

use sutazai_server::http::openapi;

use crate::server::server;

/// The committed document. `UPDATE=1 cargo test -p sutazai-server --test http document` writes it.
#[test]
fn the_committed_document_is_this_code() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    if !docs.is_dir() {
        return; // a packaged crate has no book
    }
    let path = docs.join("openapi.json");
    let mut current = serde_json::to_string_pretty(&openapi()).unwrap();
    current.push('\n');
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, &current).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == current,
        "docs/openapi.json is not what the code says; look at the change and run\n  UPDATE=1 cargo test -p sutazai-server --test http document"
    );
}

#[tokio::test]
async fn the_document_is_served_and_whole() {
    let server = server().await;
    let document = server.get("/openapi.json").await.expect(200).json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let text = document.to_string();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "the schema {name} is missing");
    }
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            assert!(
                ids.insert(operation["operationId"].as_str().unwrap().to_owned()),
                "{method} {path} has the id of another"
            );
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{method} {path}: {parameter}");
            }
        }
    }
    assert!(text.find("description\":\"\"").is_none(), "something has an empty description");
}

#[tokio::test]
async fn the_pages_need_nothing_from_outside() {
    let server = server().await;
    for path in ["/docs", "/docs/errors"] {
        let page = server.get(path).await.expect(200);
        assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("http"), "{policy}");
        assert!(page.text().contains("<html"));
    }
}

/// The codes that the server explains at `/docs/errors` are in the book too.
#[tokio::test]
async fn the_book_knows_every_code() {
    let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/errors.md");
    let Ok(book) = fs::read_to_string(book) else { return };
    let page = server().await.get("/docs/errors").await.expect(200).text();
    let codes: Vec<_> = page.split("<h3 id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(codes.len() > 20);
    for code in codes {
        assert!(
            book.lines().any(|line| line == format!("## {code}")),
            "docs/reference/errors.md has no section {code}"
        );
    }
}
