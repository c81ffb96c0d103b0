//! Faults of the surroundings: damaged models, documents that are none.
//!
//! What a machine lacks makes a case *ignored*, with the reason, never passed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by failing")]

mod binary;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Output},
};

use binary::{Server, command, json, run, stderr};
use libtest_mimic::{Arguments, Trial};
use serde_json::json;
use sutazai_testing::trial;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let models = (!arguments.list).then(binary::models).flatten();
    let models = models.ok_or("the embedded models are not here: sutazai-server models pull smollm2:135m all-minilm");
    let with_models = |name: &str, test: fn(&Path)| {
        trial(name, models.clone().map_err(str::to_owned), move |models| {
            test(&models);
            Ok(())
        })
    };
    let always = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let trials = vec![
        always("an_empty_folder_has_no_answer", an_empty_folder_has_no_answer),
        always("documents_that_are_not_there_are_usage", documents_that_are_not_there_are_usage),
        always("documents_outside_the_roots_are_not_read", documents_outside_the_roots_are_not_read),
        with_models("a_binary_file_is_passed_over_by_name", a_binary_file_is_passed_over_by_name),
        with_models("a_damaged_model_is_named", a_damaged_model_is_named),
        with_models("an_unknown_model_is_named", an_unknown_model_is_named),
        with_models("a_server_that_was_named_and_is_not_there", a_server_that_was_named_and_is_not_there),
        with_models("quickstart_answers_and_ends", quickstart_answers_and_ends),
        with_models("alone_and_served_answers_agree", alone_and_served_answers_agree),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs `ask` in this process, away from any server that may run here.
fn ask(docs: &Path, models: &Path, question: &str) -> Output {
    let data = tempfile::tempdir().unwrap();
    command(&["ask", question, "--json", "--docs"])
        .arg(docs)
        .args(["--data-dir".as_ref(), data.path().as_os_str(), "--models-dir".as_ref(), models.as_os_str()])
        .output()
        .unwrap()
}

fn an_empty_folder_has_no_answer() {
    let (docs, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path());
    let output = server.cli(&["ask", "Anything?", "--json", "--docs", docs.path().to_str().unwrap()]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.to_lowercase().contains("no ") && output.stdout.is_empty(), "{text}");
}

fn documents_that_are_not_there_are_usage() {
    let output = run(&["search", "x", "--docs", "/no/such/folder"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--docs PATH"), "{}", stderr(&output));
}

fn documents_outside_the_roots_are_not_read() {
    let (inside, outside, data) = (folder(&[]), folder(&[("a.md", b"text")]), tempfile::tempdir().unwrap());
    let server = Server::start_with(data.path(), &["--docs-roots", inside.path().to_str().unwrap()]);
    let output = server.cli(&["search", "text", "--docs", outside.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("docs_not_allowed"), "{}", stderr(&output));
}

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let docs = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(docs.path().join(name), bytes).unwrap());
    docs
}

const CRANE: &str = "The Zellweger harbour crane lifts at most 37 tonnes.\n";
const QUESTION: &str = "How many tonnes can the Zellweger harbour crane lift?";

fn a_binary_file_is_passed_over_by_name(models: &Path) {
    let binary: Vec<u8> = (0..5_000_u32).map(|n| (n * 7919 % 256) as u8).collect();
    let docs = folder(&[("harbour.md", CRANE.as_bytes()), ("image.bin", &binary)]);
    let output = ask(docs.path(), models, QUESTION);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("image.bin"), "{}", stderr(&output));
    let answer = json(&output);
    assert_eq!((&answer["found"], &answer["citations"][0]["path"]), (&true.into(), &"harbour.md".into()), "{answer}");
}

/// A copy of the models folder in which one file is not what it should be.
fn damaged(models: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(models).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir()) {
        let target = copy.path().join(entry.file_name());
        fs::create_dir(&target).unwrap();
        for file in fs::read_dir(entry.path()).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file()) {
            let copied: PathBuf = target.join(file.file_name().unwrap());
            fs::copy(&file, &copied).unwrap();
            if copied.extension().is_some_and(|extension| extension == "gguf") {
                // The same length, so that only its reader can notice.
                let length = fs::metadata(&copied).unwrap().len();
                fs::write(&copied, vec![0xA5; length as usize]).unwrap();
            }
        }
    }
    copy
}

fn a_damaged_model_is_named(models: &Path) {
    let (docs, models) = (folder(&[("harbour.md", CRANE.as_bytes())]), damaged(models));
    let output = ask(docs.path(), models.path(), QUESTION);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!text.contains("panicked") && output.stdout.is_empty(), "{text}");
    assert!(text.contains(".gguf") && text.contains("model_damaged") && text.contains("hint: "), "{text}");
}

fn an_unknown_model_is_named(models: &Path) {
    let (docs, data) = (folder(&[("harbour.md", CRANE.as_bytes())]), tempfile::tempdir().unwrap());
    let server = Server::start_with(data.path(), &["--models-dir", models.to_str().unwrap()]);
    let input = json!({ "text": QUESTION, "docs": docs.path(), "model": "no-such-model" }).to_string();
    let output = server.cli(&[
        "tasks",
        "submit",
        "--agent",
        "document-knowledge-manager",
        "--input",
        &input,
        "--wait",
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let error = &json(&output)["error"];
    assert!(
        error["code"] == "model_not_found" && error["message"].as_str().unwrap().contains("no-such-model"),
        "{error}"
    );
}

fn a_server_that_was_named_and_is_not_there(models: &Path) {
    let (docs, data) = (folder(&[("harbour.md", CRANE.as_bytes())]), tempfile::tempdir().unwrap());
    let ask = |arguments: &[&str], server: Option<&str>| {
        let mut command = command(&[&["search", "crane", "--json", "--docs"], arguments].concat());
        command.env("SUTAZAI_DATA_DIR", data.path()).env("SUTAZAI_MODELS_DIR", models);
        command.envs(server.map(|server| ("SUTAZAI_SERVER", server))).output().unwrap()
    };
    let docs = docs.path().to_str().unwrap();
    let alone = ask(&[docs], Some("http://127.0.0.1:9"));
    assert!(alone.status.success() && stderr(&alone).contains("127.0.0.1:9; working alone"), "{}", stderr(&alone));
    assert!(!json(&alone)["hits"].as_array().unwrap().is_empty());
    assert_eq!(ask(&[docs, "--server", "http://127.0.0.1:9"], None).status.code(), Some(3));
    // A server that is not named has the index.
    let _server = Server::start(data.path());
    let beside = ask(&[docs], Some("http://127.0.0.1:9"));
    assert!(beside.status.success() && stderr(&beside).contains("--server"), "{}", stderr(&beside));
}

fn quickstart_answers_and_ends(models: &Path) {
    let (docs, data) = (folder(&[("harbour.md", CRANE.as_bytes())]), tempfile::tempdir().unwrap());
    let output =
        command(&["quickstart", "--exit", "--json", "--listen", "127.0.0.1:0", "--question", QUESTION, "--docs"])
            .arg(docs.path())
            .args(["--data-dir".as_ref(), data.path().as_os_str(), "--models-dir".as_ref(), models.as_os_str()])
            .env("NEO4J_URI", "bolt://h")
            .output()
            .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("NEO4J_URI is ignored"), "{}", stderr(&output));
    let shown = json(&output);
    assert_eq!(shown["citations_checked"], true, "{shown}");
    assert_eq!(shown["answer"]["citations"][0]["path"], "harbour.md", "{shown}");
    let mut stages: Vec<_> = shown["stages_ms"].as_object().unwrap().keys().map(String::as_str).collect();
    stages.sort_unstable();
    assert_eq!(stages, ["answer", "index", "models", "server"], "{shown}");
}

fn alone_and_served_answers_agree(models: &Path) {
    let (docs, data) = (folder(&[("harbour.md", CRANE.as_bytes())]), tempfile::tempdir().unwrap());
    let alone = json(&ask(docs.path(), models, QUESTION));
    let server = Server::start_with(data.path(), &["--models-dir", models.to_str().unwrap()]);
    let served = json(&server.cli(&["ask", QUESTION, "--json", "--docs", docs.path().to_str().unwrap()]));
    assert_eq!(alone["citations"], served["citations"]);
    let hits = json(&server.cli(&[
        "search",
        "crane capacity",
        "--json",
        "--limit",
        "3",
        "--docs",
        docs.path().to_str().unwrap(),
    ]));
    assert!(hits["hits"][0]["text"].as_str().unwrap().contains("37 tonnes"), "{hits}");
}
