//! The official Python clients of OpenAI and Ollama against the real binary, with the embedded models and with a model that calls tools.
//!
//! What they check stands in the scripts beside this file; `.ci/python/install` makes a Python that has both packages. Without one, or without the models
//! where they are needed, they are ignored with the reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what went wrong by failing")]

#[path = "../binary/mod.rs"]
mod binary;
mod upstream;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use binary::Server;
use libtest_mimic::{Arguments, Failed};
use sutazai_testing::{python, trial};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each is about how soon an answer comes: they take turns.
    arguments.test_threads = Some(1);
    let python = if arguments.list { Err("only listed".to_owned()) } else { python(&["openai", "ollama"]) };
    let embedded = python.clone().and_then(with_models);
    let with =
        |name: &str, script: &'static str| trial(name, embedded.clone(), move |python| run(&python, script, &[]));
    let trials = vec![
        with("openai", "openai_client.py"),
        with("ollama", "ollama_client.py"),
        trial("tools", python, |python| {
            let url = upstream::start();
            let more = ["--openai-base-url", url.as_str(), "--openai-models", upstream::MODEL];
            run(&python, "tools_client.py", &more)
        }),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The Python, if the models are here too.
fn with_models(python: PathBuf) -> Result<PathBuf, String> {
    let models = binary::models();
    models.ok_or("the embedded models are not here: sutazai-server models pull smollm2:135m all-minilm")?;
    Ok(python)
}

/// Runs a script against a server of its own with these arguments. It prints a line for each of its checks.
fn run(python: &Path, script: &str, arguments: &[&str]) -> Result<(), Failed> {
    let data = tempfile::tempdir()?;
    let server = Server::start_with(data.path(), arguments);
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "clients", script].iter().collect();
    let mut command = Command::new(python);
    command.arg(script).arg(server.url()).stdin(Stdio::null());
    // Nothing stands between them, and nothing is left beside the script.
    command.envs([("NO_PROXY", "*"), ("no_proxy", "*"), ("PYTHONDONTWRITEBYTECODE", "1")]);
    let output = command.output()?;
    server.assert_sound();
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Err(format!("{}\n{}", text.join("\n"), server.log()).into())
}
