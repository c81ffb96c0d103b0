//! Runs every example as a user would, and a program outside the workspace that has one dependency line.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use sutazai_llm::registry::ModelStore;
use sutazai_testing::lacking;

/// Each example: the models it needs, and what its output must contain, in this order.
#[rustfmt::skip]
const EXAMPLES: &[(&str, &[&str], &[&str])] = &[
    ("hello", &[], &["Hello, world!"]),
    ("typed_agent", &[], &["1 / 8 = 0.125", "invalid_input", "/input/by: must not be 0", "/input/number: invalid type", "missing field `by`"]),
    ("schema_agent", &[], &["the tax is 5", "refused: invalid_input", "/input/amount", "/input/rate", "failed: invalid_output"]),
    ("events_and_progress", &[], &["1 task.created", "3 task.running", "task.progress: 100 %", "task.completed", "read 3 pages"]),
    ("retries_and_deadlines", &[], &["flaky: completed after 3 of 3", "broken: failed after 1 of 3", "slow: failed", "deadline_exceeded"]),
    ("agents_calling_agents", &[], &["TO BE OR NOT TO BE (6 words)", "called shout", "called words", "its sleeper is cancelled"]),
    ("batch_submit", &[], &["100 accepted, 1 refused", "invalid_input", "squares is 338350", "replayed is true", "idempotency_conflict", "100, 99, 98; more: true"]),
    ("durable", &[], &["building a house", "was running", "built a house, attempt 1, recoveries 1", "the file still says: completed"]),
    ("durable_approval", &[], &["looking up order 7", "the process is gone", "paying 4000", "paid 4000, approved by Ada", "nobody answered about order 8", "entries, the code fits them: true"]),
    ("custom_store_or_model", &[], &["How long have you been unhappy?", "Please go on."]),
    ("chat_local", &["smollm2:135m"], &["Paris", "written, ended by Stop"]),
    ("ask_documents", &["smollm2:135m", "all-minilm"], &[".md:", "generate"]),
];

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = vec![
        Trial::test("every_example_is_listed_here", every_example_is_listed_here),
        Trial::test("a_program_outside_needs_one_dependency_line", a_program_outside_needs_one_dependency_line),
    ];
    for &(name, models, output) in EXAMPLES {
        trials.push(Trial::ignorable_test(format!("example_{name}"), move || example(name, models, output)));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// Runs an example whose models are here. Without them the example must say so and exit 1, and its lesson counts as ignored, unless
/// everything is required.
fn example(name: &str, models: &[&str], expected: &[&str]) -> Result<Completion, Failed> {
    let output = run(name)?;
    if let Some(missing) = missing(models)? {
        if output.status.code() != Some(1) || !String::from_utf8_lossy(&output.stderr).contains("models pull") {
            return Err(format!(
                "without {missing} it must say what is missing and exit 1, not {}:\n{}",
                output.status,
                text(&output)
            )
            .into());
        }
        return lacking(format!(
            "{missing} is not on this machine; `cargo run --release -- models pull {missing}` gets it"
        ));
    }
    contains_in_order(&output, expected).map(|()| Completion::Completed)
}

/// The first of `models` that is not on this machine.
fn missing<'a>(models: &[&'a str]) -> Result<Option<&'a str>, Failed> {
    let store = ModelStore::from_env()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(models.iter().copied().find(|model| runtime.block_on(store.installed(model)).is_err()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("examples/ lies in the workspace").to_owned()
}

/// `target/PROFILE`, found from this program, which lies in its `deps`.
fn build_directory() -> PathBuf {
    let here = std::env::current_exe().expect("this program has a path");
    here.parent().and_then(Path::parent).expect("target/PROFILE/deps/THIS").to_owned()
}

fn every_example_is_listed_here() -> Result<(), Failed> {
    let mut files: Vec<_> = std::fs::read_dir(root().join("examples/examples"))?
        .map(|entry| entry.map(|entry| entry.path().file_stem().unwrap_or_default().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut listed: Vec<_> = EXAMPLES.iter().map(|(name, ..)| (*name).to_owned()).collect();
    listed.sort();
    if files == listed {
        Ok(())
    } else {
        Err(format!("examples/examples holds {files:?}, run here are {listed:?}").into())
    }
}

fn run(name: &str) -> Result<Output, Failed> {
    let program = build_directory().join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if !program.exists() {
        return Err(format!("{} is not built; run `cargo test -p sutazai-examples`", program.display()).into());
    }
    Ok(Command::new(program).current_dir(root()).stdin(Stdio::null()).output()?)
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn contains_in_order(output: &Output, expected: &[&str]) -> Result<(), Failed> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let mut rest = stdout.as_ref();
    for wanted in expected {
        match rest.find(wanted) {
            Some(at) => rest = &rest[at + wanted.len()..],
            None => return Err(format!("no {wanted:?} (in this order) in:\n{}", text(output)).into()),
        }
    }
    if output.status.success() { Ok(()) } else { Err(format!("{}:\n{}", output.status, text(output)).into()) }
}

/// The ten lines, compiled as a package of its own: what a newcomer gets from `cargo add sutazai-core`.
fn a_program_outside_needs_one_dependency_line() -> Result<(), Failed> {
    let outside = tempfile::tempdir()?;
    let core = root().join("sutazai-core");
    let manifest = format!(
        "[package]\nname = \"outside\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\nsutazai-core = {{ path = {core:?} }}\n"
    );
    std::fs::create_dir(outside.path().join("src"))?;
    std::fs::write(outside.path().join("Cargo.toml"), manifest)?;
    std::fs::copy(root().join("examples/examples/hello.rs"), outside.path().join("src/main.rs"))?;
    // The same versions as here, so that nothing has to be downloaded.
    std::fs::copy(root().join("Cargo.lock"), outside.path().join("Cargo.lock"))?;
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--offline"])
        .current_dir(outside.path())
        .env("CARGO_TARGET_DIR", build_directory().join("outside"))
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .stdin(Stdio::null())
        .output()?;
    contains_in_order(&output, &["Hello, world!"])
}
