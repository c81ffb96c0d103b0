//! The OpenAPI document and what must agree with it.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

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
            let default = &operation["responses"]["default"]["content"];
            let (kind, form) = match path {
                path if path.starts_with("/v1/") => ("application/json", "OpenAiError"),
                path if path.starts_with("/api/") && !path.starts_with("/api/v1/") => {
                    ("application/json", "OllamaError")
                }
                _ => ("application/problem+json", "Problem"),
            };
            let schema = format!("#/components/schemas/{form}");
            assert_eq!(default[kind]["schema"]["$ref"], schema, "{method} {path} has no answer for a problem");
            let has_body = operation["requestBody"].is_object();
            assert_eq!(operation["responses"]["413"].is_object(), has_body, "{method} {path}");
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{method} {path}: {parameter}");
            }
        }
    }
    let properties = |schema: &str| &schemas[schema]["properties"];
    assert!(properties("SubmitTask")["idempotency_key"].is_null() && properties("SubmitTask")["input"].is_object());
    assert!(properties("BatchTask")["idempotency_key"].is_object());
    assert_eq!(properties("RetryPolicy")["max_attempts"]["type"], "integer");
    for always in [
        "Task",
        "Job",
        "TaskList",
        "Agent",
        "AgentList",
        "Check",
        "JournalEntry",
        "Journal",
        "Replay",
        "Cassette",
        "DeadLetterList",
        "ScheduleList",
        "Node",
        "NodeList",
        "FeedEvent",
        "FeedList",
    ] {
        let fields = properties(always).as_object().unwrap().len();
        assert_eq!(schemas[always]["required"].as_array().unwrap().len(), fields, "{always}");
    }
    assert!(text.find("description\":\"\"").is_none(), "something has an empty description");
}

/// What holds everywhere stands everywhere: ids, keys and their replays, when to come back, and the codes.
#[tokio::test]
async fn the_document_names_headers_and_codes() {
    let server = server().await;
    let document = server.get("/openapi.json").await.expect(200).json();
    // A batch has a key for each item, and neither a replay nor a model's answer changes anything.
    let without_key = [
        "submit_batch",
        "replay_task",
        "openai_complete",
        "openai_embed",
        "ollama_generate",
        "ollama_embed",
        "ollama_embed_one",
        "ollama_show",
    ];
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let has_key = parameters.iter().any(|one| one["name"] == "Idempotency-Key" && one["in"] == "header");
            let id = operation["operationId"].as_str().unwrap();
            assert!(has_key || method != "post" || without_key.contains(&id), "{id} takes no key");
            for (status, response) in operation["responses"].as_object().unwrap() {
                let headers = &response["headers"];
                let place = format!("{method} {path} {status}");
                assert!(headers["x-request-id"]["description"].is_string(), "{place}");
                let replays = has_key && status.starts_with('2');
                assert_eq!(headers["Idempotency-Replayed"].is_object(), replays, "{place}");
                let comes_back = matches!(status.as_str(), "429" | "503" | "default");
                assert_eq!(headers["Retry-After"].is_object(), comes_back, "{place}");
            }
            assert!(operation["responses"]["409"].is_object() || !has_key, "{method} {path}");
        }
    }
    let problem = &document["components"]["schemas"]["Problem"]["properties"];
    let page = server.get("/docs/errors").await.expect(200).text();
    let codes = problem["code"]["examples"].as_array().unwrap();
    assert_eq!(codes.len(), page.matches("<h3 id=").count());
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

/// Codes that end a task, a pull or a start, and that no answer of the API carries.
const ELSEWHERE: &[&str] = &[
    "agent_name",
    "agent_panicked",
    "bench_results_damaged",
    "cache_full",
    "cache_unavailable",
    "cassette_version",
    "child_cancelled",
    "collection_conflict",
    "collection_not_found",
    "crash_loop",
    "dev_fail",
    "docs_not_allowed",
    "docs_not_found",
    "index_corrupt",
    "invalid_output",
    "invalid_schema",
    "model_failed",
    "model_pinned",
    "model_unreachable",
    "models_quota_exceeded",
    "newer_layout",
    "no_documents",
    "node_in_use",
    "not_recorded",
    "output_too_large",
    "script_used_up",
    "store_damaged",
    "store_in_use",
    "store_version",
    "vectors_damaged",
    "vectors_in_use",
    "vectors_unavailable",
    "wrong_digest",
];

/// Every code that the sources give to an error is explained where the error's address leads, or never gets there.
#[tokio::test]
async fn every_code_of_the_house_is_explained() {
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
            match entry.path() {
                // What only tests see gives its errors no codes of the house.
                path if path.file_stem().is_some_and(|stem| stem == "tests" || stem == "fake") => {}
                path if path.is_dir() => sources(&path, found),
                path if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
                _ => {}
            }
        }
    }
    let mut files = Vec::new();
    for name in ["core", "store", "llm", "agents"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../sutazai-{name}/src")), &mut files);
    }
    if files.is_empty() {
        return; // a packaged crate stands alone
    }
    let page = server().await.get("/docs/errors").await.expect(200).text();
    let mut codes = BTreeSet::new();
    for text in files.iter().map(|file| fs::read_to_string(file).unwrap()) {
        let text = text.split("#[cfg(test)]").next().unwrap();
        let named = text.split("with_code(\"").skip(1);
        // The store gives its codes as the middle of three.
        let told = text.split("(ErrorKind::").skip(1).filter_map(|rest| rest.split_once(", \""));
        let told = told.filter(|(kind, _)| kind.chars().all(char::is_alphanumeric)).map(|(_, rest)| rest);
        codes.extend(named.chain(told).filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    codes.retain(|code| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
    assert!(codes.len() > 20, "{codes:?}");
    for code in codes.iter().filter(|code| !ELSEWHERE.contains(&code.as_str())) {
        assert!(page.contains(&format!("id=\"{code}\"")), "/docs/errors does not explain {code}");
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
