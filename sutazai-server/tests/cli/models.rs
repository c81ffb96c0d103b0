//! `models …` from outside, without any server of models.

use std::{fs, path::Path, process::Output};

use serde_json::{Value, json as object};

use crate::binary::{json, run, stderr};

#[test]
fn unknown_models_are_not_found() {
    let models = tempfile::tempdir().unwrap();
    let directory = models.path().to_str().unwrap();
    for verb in ["pull", "rm", "verify", "pin", "unpin", "bench"] {
        let nowhere = ["--models-dir", directory, "--ollama-base-url", "http://127.0.0.1:9"];
        let output = run(&[&["models", verb, "no-such-model"][..], &nowhere].concat());
        assert_eq!(output.status.code(), Some(4), "{verb}: {}", stderr(&output));
        assert!(stderr(&output).contains("models list"), "{}", stderr(&output));
    }
    let listed = json(&run(&["models", "list", "--json", "--models-dir", directory]));
    assert!(listed["items"].as_array().unwrap().iter().any(|model| model["name"] == "all-minilm"));
}

/// The command over these models, without any server of models.
fn models(directory: &Path, arguments: &[&str]) -> Output {
    let settings = ["--models-dir", directory.to_str().unwrap(), "--ollama-base-url", "http://127.0.0.1:9"];
    run(&[&["models"][..], arguments, &settings].concat())
}

#[test]
fn a_pinned_model_is_shown_and_stays_until_it_is_unpinned() {
    let dir = tempfile::tempdir().unwrap();
    // Something of a model, and a pin as an earlier version of the program may have left it.
    let folder = dir.path().join("smollm2-135m");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("some.gguf"), "weights").unwrap();
    fs::write(dir.path().join(".smollm2-135m.pin"), "0123456789abcdef\n").unwrap();
    let listed = || json(&models(dir.path(), &["list", "--json"]))["items"][0].clone();
    let found = listed();
    assert_eq!((&found["name"], &found["pinned"]), (&"smollm2:135m".into(), &true.into()), "{found}");
    assert_eq!(found["version"], "b179c9523d0e");
    let table = String::from_utf8(models(dir.path(), &["list"]).stdout).unwrap();
    assert!(table.lines().next().unwrap().contains("\tb179c9523d0e\tyes\t"), "{table}");

    for refused in [&["rm", "smollm2"][..], &["remove", "smollm2"], &["pull", "smollm2", "--from", "/nowhere"]] {
        let output = models(dir.path(), refused);
        assert_eq!(output.status.code(), Some(1), "{refused:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("pinned") && stderr(&output).contains("unpin"), "{}", stderr(&output));
    }
    assert!(folder.join("some.gguf").exists());
    assert_eq!(models(dir.path(), &["pin", "smollm2"]).status.code(), Some(4), "it is not whole");
    assert_eq!(models(dir.path(), &["unpin", "smollm2@ffffff"]).status.code(), Some(4), "no such version");
    for changed in [true, false] {
        let unpinned = json(&models(dir.path(), &["unpin", "smollm2@b179c9", "--json"]));
        let expected = object!({ "model": "smollm2:135m", "pinned": false, "changed": changed });
        assert_eq!(unpinned["items"][0], expected);
    }
    assert_eq!(listed()["pinned"], false);
    assert_eq!(models(dir.path(), &["rm", "smollm2"]).status.code(), Some(0));
}

#[test]
fn a_pull_beyond_the_quota_is_refused_before_anything_is_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("nothing");
    fs::create_dir(&from).unwrap();
    let pull = ["pull", "smollm2:135m", "--from", from.to_str().unwrap(), "--models-quota-mb", "1", "--json"];
    let output = models(&dir.path().join("models"), &pull);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let text = stderr(&output);
    assert!(text.contains("97362432 bytes are missing") && text.contains("--models-quota-mb"), "{text}");
    assert_eq!(json(&output)["items"], object!([]));
}

#[test]
fn which_model_is_the_right_one_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["explain", "code", "--needs", "tools,schema", "--context", "9000", "--model-memory-mb", "3000"];
    let explained = json(&models(dir.path(), &[&arguments[..], &["--json"]].concat()));
    assert_eq!((&explained["chosen"], &explained["need"]["tier"]), (&Value::Null, &"code".into()), "{explained}");
    assert_eq!(explained["need"]["memory"], 3_000_000_000_u64);
    assert!(explained["machine"]["threads"].as_u64().unwrap() > 0);
    let items = explained["items"].as_array().unwrap();
    let names: Vec<_> = items.iter().map(|item| item["model"].as_str().unwrap()).collect();
    let expected = ["deepseek-coder:6.7b", "mistral:7b-q4_K_M", "qwen3:8b", "smollm2:135m", "tinyllama:latest"];
    assert_eq!(names, expected);
    assert!(
        items.iter().all(|item| item["points"].is_null() && item["excluded"][0]["code"] == "absent"),
        "{explained}"
    );
    assert_eq!(items[2]["excluded"][1]["code"], "no_room", "{explained}");
    let plain = models(dir.path(), &arguments);
    let text = String::from_utf8(plain.stdout).unwrap();
    assert!(text.starts_with("For code, 9000 tokens") && text.contains("None of them will do."), "{text}");
    for wrong in
        [&["explain", "poetry"][..], &["explain", "--needs", "wings"], &["bench"], &["bench", "a", "--runs", "0"]]
    {
        assert_eq!(models(dir.path(), wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn damaged_results_of_benches_are_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("benches.json");
    fs::write(&file, "{\"version\":9}").unwrap();
    for command in [&["explain"][..], &["bench", "smollm2"]] {
        let output = models(dir.path(), command);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {text}");
        assert!(text.contains("benches.json") && text.contains("move"), "{text}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "{\"version\":9}");
    fs::remove_file(&file).unwrap();
    let absent = models(dir.path(), &["bench", "smollm2"]);
    assert!(absent.status.code() == Some(4) && stderr(&absent).contains("models pull"), "{}", stderr(&absent));
}
