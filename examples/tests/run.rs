//! Runs every example as a user would, and a program outside the workspace that has one dependency line.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use libtest_mimic::{Arguments, Failed, Trial};

/// The model files that an example needs, by the names `models pull` knows them by.
const CHAT: &str = "smollm2:135m";
const EMBEDDING: &str = "all-minilm";

/// Each example: the models it needs, and what its output must contain, in this order.
const EXAMPLES: [(&str, &[&str], &[&str]); 1] = [("hello", &[], &["Hello, world!"])];

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = vec![
        Trial::test("every_example_is_listed_here", every_example_is_listed_here),
        Trial::test("a_program_outside_needs_one_dependency_line", a_program_outside_needs_one_dependency_line),
    ];
    for (name, models, output) in EXAMPLES {
        trials.push(
            Trial::test(format!("example_{name}"), move || example_prints(name, output))
                .with_ignored_flag(missing(models)),
        );
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn missing(_models: &[&str]) -> bool {
    let _ = (CHAT, EMBEDDING);
    false
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

fn example_prints(name: &str, expected: &[&str]) -> Result<(), Failed> {
    let program = build_directory().join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if !program.exists() {
        return Err(format!("{} is not built; run `cargo test -p sutazai-examples`", program.display()).into());
    }
    let output = Command::new(program).current_dir(root()).stdin(Stdio::null()).output()?;
    contains_in_order(&output, expected)
}

fn contains_in_order(output: &Output, expected: &[&str]) -> Result<(), Failed> {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let mut rest = stdout.as_ref();
    for text in expected {
        match rest.find(text) {
            Some(at) => rest = &rest[at + text.len()..],
            None => return Err(format!("no {text:?} (in this order) in:\n{stdout}\n{stderr}").into()),
        }
    }
    if output.status.success() { Ok(()) } else { Err(format!("{}:\n{stdout}\n{stderr}", output.status).into()) }
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
